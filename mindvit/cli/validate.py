"""Measure the accuracy of a checkpoint.

mindvit validate --data_dir DIR --ckpt_path FILE
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Sequence

from mindvit import errors

if TYPE_CHECKING:
    from mindvit.tasks.base import Task

EXTRA = (
    (
        ("--predictions",),
        {
            "metavar": "FILE|DIR",
            "help": "CSV file for what the model says of every image: its five most probable classes; of a segmentor, "
            "folder for a label map of every image and the confusion matrix, in numbers and as a picture; of a "
            "detector JSON file, in COCO's form",
        },
    ),
    (
        ("--out",),
        {
            "metavar": "DIR",
            "help": "folder for the predictions and what they say: each class, what is taken for what, calibration, "
            "the surest mistakes, as tables and pictures; of a detector errors by kind, false alarms and "
            "missed objects",
        },
    ),
    (("--font",), {"metavar": "FILE", "help": "TrueType font of the pictures, for names not in Latin letters"}),
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

    unused = [key for key in recipe.origins if key in TRAINING_ONLY and recipe.origins[key] == COMMAND_LINE]
    if unused and launched_ranks()[0] == 0:
        print(f"without effect on validation: {', '.join(f'--{key}' for key in unused)}", flush=True)
    predictions, out, font = (given.get(key) for key in ("predictions", "out", "font"))
    if predictions and out:
        raise errors.UserError("--out writes the predictions too: give it or --predictions, not both")
    with errors.hints_for(options(EXTRA, TRAINING_ONLY)):
        validate(recipe, predictions, out, lambda task, dataset: show(task, dataset, predictions, out, font))


def show(task: Task, dataset: Any, predictions: Optional[str], out: Optional[str], font: Optional[str]) -> None:
    """Draw what was written, and say where it is."""
    if task.name == "segmentation":
        from mindvit.tasks.segmentation.predictions import CONFUSION
        from mindvit.visualization.confusion import draw_file

        folder = Path(out or predictions or "")
        if out or predictions:
            print(f"label maps, {CONFUSION} and {draw_file(folder / CONFUSION).name} are in {folder}", flush=True)
    elif task.name == "detection":
        if predictions:
            print(f"detections are in {predictions}", flush=True)
        if out:
            from mindvit.visualization import detection_report

            file = Path(out) / task.predictions_file
            for line in detection_report.write(Path(out), file, dataset, Path(font) if font else None):
                print(line, flush=True)
    elif out:
        from mindvit.visualization import class_report

        for line in class_report.write(Path(out), dataset, Path(font) if font else None):
            print(line, flush=True)


if __name__ == "__main__":
    errors.run(main)
