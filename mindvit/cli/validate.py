"""Measure the accuracy of a checkpoint.

mindvit validate --data_dir DIR --ckpt_path FILE
"""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from mindvit import errors

EXTRA = (
    (
        ("--predictions",),
        {
            "metavar": "FILE|DIR",
            "help": "CSV file for what the model says of every image: its five most probable classes; of a segmentor, "
            "folder for a label map of every image and the confusion matrix, in numbers and as a picture",
        },
    ),
)


def main(arguments: Sequence[str], prog: str = "mindvit validate") -> None:
    """Validate; UserError for anything that the user can mend. prog: the command's name in its help."""
    from mindvit.recipe.commandline import (
        COMMAND_LINE,
        options,
        parse,
    )  # after errors.run has looked at the environment
    from mindvit.recipe.schema import TRAINING_ONLY

    about = (
        "Measure the accuracy of a checkpoint on the validation images. Of a recipe's keys these count; others are "
        "taken, and change nothing."
    )
    recipe, given = parse(arguments, about, EXTRA, TRAINING_ONLY, prog)
    from mindvit.engine.evaluate import validate
    from mindvit.runtime.device import launched_ranks  # MindSpore takes seconds to import: not for --help
    from mindvit.tasks.segmentation.predictions import CONFUSION

    unused = [key for key in recipe.origins if key in TRAINING_ONLY and recipe.origins[key] == COMMAND_LINE]
    if unused and launched_ranks()[0] == 0:
        print(f"without effect on validation: {', '.join(f'--{key}' for key in unused)}", flush=True)
    with errors.hints_for(options(EXTRA, TRAINING_ONLY)):
        validate(recipe, given.get("predictions"))
    table = Path(given.get("predictions") or "") / CONFUSION
    if launched_ranks()[0] == 0 and given.get("predictions") and table.is_file():
        from mindvit.visualization.confusion import draw_file

        print(f"label maps, {table.name} and {draw_file(table).name} are in {table.parent}", flush=True)


if __name__ == "__main__":
    errors.run(main)
