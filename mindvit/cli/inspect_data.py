"""Look at a data set before training: faults, duplicates, counts, and batches as the network gets them.

mindvit inspect-data FOLDER [--out DIR]
mindvit inspect-data --config RECIPE --data_dir DIR [--out DIR]
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterable, Optional, Sequence

from mindvit import errors
from mindvit.cli.train import FOLDER
from mindvit.errors import UserError

if TYPE_CHECKING:
    from mindvit.recipe.schema import Recipe
    from mindvit.tasks.base import Task

EXTRA = (
    FOLDER,
    (
        ("--out",),
        {"metavar": "DIR", "type": Path, "default": Path("inspection"), "help": "folder for the files (inspection)"},
    ),
    (("--font",), {"metavar": "FILE", "type": Path, "help": "TrueType font of preview.png, for names not in Latin"}),
)
PREVIEW, MOST = "preview.png", 24  # images in it
BATCHES = 4  # that the images come from, where a batch is small


def main(arguments: Sequence[str], prog: str = "mindvit inspect-data") -> None:
    """Print what was found and write the files; UserError for anything that the user can mend."""
    from mindvit.cli.folder import command_line  # after errors.run has looked at the environment
    from mindvit.recipe.commandline import options

    about = "Look at a data set before training: faults, duplicates, counts, and batches as the network gets them."
    recipe, given, _ = command_line(arguments, about, EXTRA, prog, weights=False)
    from mindvit.tasks import task_of  # MindSpore takes seconds to import: not for --help

    task = task_of(recipe)
    with errors.hints_for(options(EXTRA)):
        inspect(task, task.resolve(recipe), given.get("out", Path("inspection")), given.get("font"))


def inspect(task: Task, recipe: Recipe, out: Path, font: Optional[Path]) -> None:
    """Everything that the task has to say of its data. UserError for a task that can't, and for a folder that can't
    be written.
    """
    from tqdm import tqdm

    from mindvit.runtime.console import log_info, write_csv
    from mindvit.runtime.files import clear
    from mindvit.tasks.inspection import Inspects

    if not isinstance(task, Inspects):
        raise UserError(f"inspect-data can't look at data for {task.name}, which {recipe.model.model} is for")

    def shown(items: Iterable[Any], total: int) -> Iterable[Any]:
        return tqdm(items, "reading", total, unit="img", disable=None, leave=False)

    found = task.inspect(recipe, shown)
    for line in found.lines:
        log_info(line)
    try:
        out.mkdir(parents=True, exist_ok=True)
        clear(out)
        for name, rows in found.tables.items():
            (out / name).unlink(missing_ok=True)
            write_csv(out / name, rows)
        draw(task, recipe, found.train, out / PREVIEW, font)
    except OSError as error:
        raise UserError(f"--out {out} can't be written: {error.strerror}") from None
    written = [name for name, rows in found.tables.items() if rows]
    log_info(f"{', '.join((*written, PREVIEW))} are in {out}")


def draw(task: Any, recipe: Recipe, train: Any, file: Path, font: Optional[Path]) -> None:
    """The first batches of a run, augmented. OSError where that can't be written."""
    from mindvit.engine.setup import setup
    from mindvit.runtime.files import atomic_write
    from mindvit.visualization.attention_sheet import fonts
    from mindvit.visualization.batch_sheet import batch_sheet

    size = min(recipe.data.batch_size, len(train))
    ctx = setup(recipe.replace("preview", batch_size=size), train)
    images = list(itertools.islice(task.preview(ctx, train, BATCHES), MOST))
    title = f"training images as {ctx.info.name} gets them, {task.input_size(ctx)} px, with what it is to learn"
    with atomic_write(file) as unfinished:
        batch_sheet(images, title, fonts(font)).save(unfinished)


if __name__ == "__main__":
    errors.run(main)
