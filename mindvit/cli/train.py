"""Train a model as a recipe says, or on a folder of images.

mindvit train --config crossvit_9_ascend --data_dir DIR --distribute False
mindvit train FOLDER
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Sequence

from mindvit import errors

if TYPE_CHECKING:
    from mindvit.recipe.schema import Recipe

FOLDER = (
    ("folder",),
    {
        "nargs": "?",
        "metavar": "FOLDER",
        "help": "images, a sub-folder a class: they are split, and without --config a recipe is chosen",
    },
)
EXTRA = (
    FOLDER,
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
    from mindvit.cli.folder import command_line  # after errors.run has looked at the environment
    from mindvit.recipe.commandline import describe, options

    about = "Train a vision transformer as a recipe says, or on a folder of images."
    recipe, given, lines = command_line(arguments, about, EXTRA, prog)
    if given.get("print_config"):
        print(describe(recipe))
        return
    from mindvit.engine.trainer import dry_run, fit  # MindSpore takes seconds to import: not for --help
    from mindvit.runtime.device import launched_ranks

    if launched_ranks()[0] == 0:
        for line in lines:
            print(line, flush=True)
    with errors.hints_for(options(EXTRA)):
        if given.get("dry_run"):
            dry_run(recipe)
        else:
            fit(recipe, given["config"])
            if given.get("folder") is not None and launched_ranks()[1] == 1:
                look_after(recipe)


def look_after(recipe: Recipe) -> None:
    """Where the best weights of a run err: tables and pictures in its folder."""
    from mindvit.cli import validate

    folder = Path(recipe.checkpoint.ckpt_save_dir)
    best = folder / f"{recipe.model.model}-best.ckpt"
    words = ["--data_dir", str(recipe.data.data_dir), "--ckpt_path", str(best), "--out", str(folder)]
    words += ["--device_target", recipe.runtime.device_target, "--batch_size", str(recipe.data.batch_size)]
    validate.main(words)
    print(f"curves and pictures on one page: mindvit report {folder}", flush=True)


if __name__ == "__main__":
    errors.run(main)
