"""Measure the accuracy of a checkpoint.

python validate.py -c configs/crossvit/crossvit_9_ascend.yaml --data_dir DIR --ckpt_path FILE
"""

from __future__ import annotations

from typing import Sequence

from mindvit import errors

EXTRA = ((("--predictions",), {"metavar": "FILE", "help": "CSV file for what the network says of every picture: its five most probable classes"}),)


def main(arguments: Sequence[str]) -> None:
    """Validate; UserError for anything that the user can mend."""
    from mindvit.commandline import COMMAND_LINE, options, parse  # after errors.run has looked at the environment
    from mindvit.recipe import TRAINING_ONLY

    recipe, given = parse(
        arguments,
        "Measure the accuracy of a checkpoint on the validation images. Of a recipe's keys these count; others are "
        "taken, and change nothing.",
        EXTRA,
        TRAINING_ONLY,
    )
    from mindvit.device import launched_ranks  # MindSpore takes seconds to import: not for --help
    from mindvit.evaluation import validate

    unused = [key for key in recipe.origins if key in TRAINING_ONLY and recipe.origins[key] == COMMAND_LINE]
    if unused and launched_ranks()[0] == 0:
        print(f"without effect on validation: {', '.join(f'--{key}' for key in unused)}", flush=True)
    with errors.hints_for(options(EXTRA, TRAINING_ONLY)):
        validate(recipe, given.get("predictions"))


if __name__ == "__main__":
    errors.run(main)
