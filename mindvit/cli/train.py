"""Train a model as a recipe says, or on a folder of images.

mindvit train --config crossvit_9_ascend --data_dir DIR --distribute False
mindvit train FOLDER
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Sequence

from mindvit import errors

if TYPE_CHECKING:
    from mindvit.engine.trainer import Trainer
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
    from mindvit.engine.trainer import Trainer, dry_run  # MindSpore takes seconds to import: not for --help
    from mindvit.runtime.device import launched_ranks

    if launched_ranks()[0] == 0:
        for line in lines:
            print(line, flush=True)
    with errors.hints_for(options(EXTRA)):
        if given.get("dry_run"):
            dry_run(recipe)
        else:
            trainer = Trainer(recipe, given["config"])
            trainer.train()
            draw_examples(trainer)
            if given.get("folder") is not None and launched_ranks()[1] == 1:
                look_after(recipe)


def draw_examples(trainer: Trainer) -> None:
    """What a segmentor or a detector found in the last validation's first images, as a picture in the run's folder."""
    examples, ctx = trainer.validator.examples, trainer.ctx
    if not examples or not ctx.device.is_main:
        return
    from mindvit.visualization.examples import FILE, sheet

    path = Path(ctx.recipe.checkpoint.ckpt_save_dir) / FILE
    title = f"{ctx.info.name}: the first validation images at the end of the run"
    picture = sheet(trainer.task.name, examples, ctx.class_names, title)
    try:
        picture.save(path)
    except OSError as error:  # the weights are trained and saved
        print(f"WARNING: {path} can't be written: {error.strerror}", flush=True)
    else:
        print(f"what it finds beside what is there, {len(examples)} validation images: {path}", flush=True)


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
