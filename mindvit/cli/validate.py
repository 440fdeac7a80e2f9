"""Measure the accuracy of a checkpoint.

mindvit validate --data_dir DIR --ckpt_path FILE
"""

from __future__ import annotations

from typing import Sequence

from mindvit import errors

EXTRA = (
    (
        ("--predictions",),
        {
            "metavar": "FILE",
            "help": "CSV file for what the network says of every picture: its five most probable classes",
        },
    ),
)


def main(arguments: Sequence[str], prog: str = "mindvit validate") -> None:
    """Validate; UserError for anything that the user can mend. prog: the command's name in its help."""
    from mindvit.commandline import parse  # after errors.run has looked at the environment

    recipe, given = parse(arguments, "Measure the accuracy of a checkpoint on the validation pictures.", EXTRA, prog=prog)
    from mindvit.evaluation import validate  # MindSpore takes seconds to import: not for --help

    validate(recipe, given.get("predictions"))


if __name__ == "__main__":
    errors.run(main)
