"""Train a model as a recipe says.

mindvit train --config crossvit_9_ascend --data_dir DIR --distribute False
"""

from __future__ import annotations

from typing import Sequence

from mindvit import errors

EXTRA = (
    (
        ("--print_config",),
        {"action": "store_true", "help": "print the resolved recipe, with the file each value came from, and stop"},
    ),
    (
        ("--dry_run",),
        {
            "action": "store_true",
            "help": "build, compile, take a few steps, print time and memory, and stop; nothing is written",
        },
    ),
)


def main(arguments: Sequence[str], prog: str = "mindvit train") -> None:
    """Train; UserError for anything that the user can mend. prog: the command's name in its help."""
    from mindvit.recipe.commandline import describe, options, parse  # after errors.run has looked at the environment

    recipe, given = parse(arguments, "Train a vision transformer as a recipe says.", EXTRA, prog=prog)
    if given.get("print_config"):
        print(describe(recipe))
        return
    from mindvit.engine.trainer import dry_run, fit  # MindSpore takes seconds to import: not for --help

    with errors.hints_for(options(EXTRA)):
        if given.get("dry_run"):
            dry_run(recipe)
        else:
            fit(recipe, given["config"])


if __name__ == "__main__":
    errors.run(main)
