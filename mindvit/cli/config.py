"""Print a resolved recipe: every key, its value, and the file that it came from.

mindvit config --config crossvit_9_ascend [--changed] [--lr_plot FILE.png]
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Sequence

from mindvit import errors
from mindvit.errors import UserError

if TYPE_CHECKING:
    from mindvit.recipe.schema import Recipe

IMAGENET = 1_281_167  # training images of ImageNet-1K
COUNTED = ("imagenet", "digits")  # data sets whose images are counted here


def main(arguments: Sequence[str], prog: str = "mindvit config") -> None:
    """Print; UserError for anything that the user can mend. prog: the command's name in its help."""
    from mindvit.recipe.commandline import describe, parse, positive  # after errors.run has looked at the environment

    extra = (
        (("--changed",), {"action": "store_true", "help": "only the keys whose values differ from the defaults"}),
        (
            ("--lr_plot",),
            {"metavar": "FILE", "type": Path, "help": "draw the learning rate by step (a PNG file), beside printing"},
        ),
        (
            ("--images",),
            {
                "metavar": "N",
                "type": positive,
                "help": "--lr_plot: training images (default: those in data_dir, without one ImageNet-1K's)",
            },
        ),
        (("--ranks",), {"metavar": "N", "type": positive, "help": "--lr_plot: devices (default: 1)"}),
    )
    about = "Print a resolved recipe: every key, its value, and the file that it came from."
    recipe, given = parse(arguments, about, extra, prog=prog)
    file = given.get("lr_plot")
    if file is None and (given.get("images") or given.get("ranks")):
        raise UserError("--images and --ranks are for --lr_plot FILE")
    if file is not None and file.suffix.lower() != ".png":
        raise UserError(f"--lr_plot {file}: give the name of a PNG file, FILE.png")
    text = describe(recipe, given.get("changed", False))
    print(text or "every key has its default")
    if file is not None:
        from mindvit.visualization.lr_curve import write_lr_curve

        for line in write_lr_curve(file, recipe, given.get("images") or training_images(recipe), given.get("ranks", 1)):
            print(f"# {line}")


def training_images(recipe: Recipe) -> int:
    """Images of the recipe's training split. UserError if they can't be counted."""
    from mindvit.data.datasets.build import open_dataset

    if recipe.data.dataset not in COUNTED:
        raise UserError(f"--lr_plot counts no images of dataset: {recipe.data.dataset}; say how many: --images N")
    if recipe.data.data_dir is None and recipe.data.dataset == "imagenet":
        return IMAGENET
    return len(open_dataset(recipe.data, "train"))


if __name__ == "__main__":
    errors.run(main)
