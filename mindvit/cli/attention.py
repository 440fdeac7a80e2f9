"""Draw what a network's attention looks at, or which places speak for a class.

mindvit attention IMAGE ... --ckpt_path FILE|--model NAME --out DIR [--method attention|gradcam] [--slide] [--at x,y]
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Sequence

from mindvit import errors
from mindvit.cli.predict import trained

if TYPE_CHECKING:
    from PIL import Image

    from mindvit.inference.predictor import Predictor
    from mindvit.recipe.commandline import Parser
    from mindvit.visualization.attention_sheet import Fonts

LONGEST_STEM = 220  # bytes: with what is put behind it a file's name, which has at most 255


def point(text: str) -> tuple[float, float]:
    """'x,y', shares of the image's sides -> (y, x)."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        x = y = -1.0
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not x,y, two shares of the image's sides from 0,0 (top left) to 1,1"
        )
    return y, x


def targets(paths: Sequence[str], out: Path, kind: str = "attention") -> list[Path]:
    """Where each image's sheet goes: its name with -attention.png, and a number where two images share a name; a
    very long name is cut.
    """
    found: list[Path] = []
    for path in paths:
        base, number = f"{os.fsdecode(os.fsencode(Path(path).stem)[:LONGEST_STEM])}-{kind}", 1
        target = out / f"{base}.png"
        while target in found:
            number += 1
            target = out / f"{base}-{number}.png"
        found.append(target)
    return found


def options() -> Parser:
    """What the command takes."""
    from mindvit.recipe.commandline import Parser, max_pixels_argument, weights_arguments

    parser = Parser(prog="mindvit attention", description="Draw what a network's attention looks at, a PNG an image.")
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="an image of any format and mode, or a folder of them"
    )
    weights_arguments(parser)
    max_pixels_argument(parser)
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="folder for the PNGs, IMAGE-attention.png"
    )
    parser.add_argument(
        "--method",
        choices=("attention", "gradcam"),
        default="attention",
        help="gradcam: which places speak for a class (IMAGE-gradcam.png; default: attention, which has it beside)",
    )
    parser.add_argument(
        "--slide", action="store_true", help="one map, class and probability, 1600 x 900 px (IMAGE-slide.png), instead"
    )
    parser.add_argument(
        "--of", metavar="CLASS", help="the class that Grad-CAM is taken of (default: the image's likeliest)"
    )
    parser.add_argument(
        "--at",
        type=point,
        default=(0.5, 0.5),
        metavar="x,y",
        help="CrossFormer: whose attention, shares of the sides (default: the centre)",
    )
    parser.add_argument(
        "--font", type=Path, metavar="FILE", help="TrueType font for class names that aren't in Latin letters"
    )
    return parser


def number_of(name: Optional[str], names: Sequence[str]) -> Optional[int]:
    """A class's number; None for none. UserError for a name that no class has."""
    if name is None or name in names:
        return None if name is None else list(names).index(name)
    raise errors.UserError(f"--of {name}: no class is called so{errors.nearest(name, names)}")


def main(arguments: Sequence[str]) -> None:
    """Draw; UserError for anything that the user can mend."""
    parser = options()
    given = parser.parse_args(arguments)
    if given.of and given.slide and given.method == "attention":
        raise errors.UserError(f"--of {given.of}: attention is no class's: leave --of out, or --method gradcam")
    from mindvit.data.datasets.build import find_images

    paths = find_images(given.images)
    from mindvit.visualization import attention_sheet

    predictor = trained(given, parser)
    font = attention_sheet.fonts(given.font)
    try:
        given.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.UserError(f"--out {given.out} can't be written: {error.strerror}") from None
    print(predictor, file=sys.stderr)
    draw(predictor, paths, given, font)


def drawn(predictor: Predictor, path: str, pixels: Any, given: argparse.Namespace, font: Fonts) -> Image.Image:
    """An image's sheet, or its slide; pixels: the image as the network sees it."""
    import numpy as np
    from PIL import Image

    from mindvit.visualization import attention_sheet
    from mindvit.visualization.explain import METHODS, explained, foremost
    from mindvit.visualization.slide import slide

    number = number_of(given.of, predictor.class_names)
    image, name = Image.fromarray(pixels), Path(path).name
    if not given.slide:
        logits, rows = explained(predictor, pixels, given.method, given.at, number)
        foot = f"{predictor.info.name}, {predictor.file}, {predictor.preprocessing.size} px"
        return attention_sheet.sheet(image, name, predictor.answer(logits, path), rows, foot, font)
    logits, first = foremost(predictor, pixels, given.method, given.at, number)
    powers = np.exp(logits - logits.max())
    shown = int(logits.argmax()) if number is None else number
    answer = predictor.class_names[shown], float(powers[shown] / powers.sum())
    what = first.title if given.method == "gradcam" else f"{METHODS[given.method]}: {first.title}"
    return slide(image, first, answer, name, f"{what}\n{predictor.info.name}", given.font)


def draw(predictor: Predictor, paths: Sequence[str], given: argparse.Namespace, font: Fonts) -> None:
    """A sheet for every image. UserError if one can't be written or, once all others are drawn, decoded."""
    from tqdm import tqdm

    from mindvit.data.decoding import DecodeError
    from mindvit.inference.predictor import Unreadable
    from mindvit.runtime import console
    from mindvit.runtime.files import on_one_line

    bad, kind = 0, "slide" if given.slide else given.method
    number_of(given.of, predictor.class_names)  # refused before anything is drawn
    for path, target in zip(
        tqdm(paths, unit="image", dynamic_ncols=True, leave=False, disable=None), targets(paths, given.out, kind)
    ):
        try:
            pixels = predictor.prepared(path)
        except DecodeError as error:
            bad += 1
            tqdm.write(f"warning: {error}", file=sys.stderr)
            continue
        try:
            drawn(predictor, path, pixels, given, font).save(target)
        except OSError as error:
            raise errors.UserError(f"{target} can't be written: {error.strerror or error}") from None
        console.log_info(on_one_line(str(target)))
    if bad:
        raise Unreadable(bad, len(paths))


if __name__ == "__main__":
    errors.run(main)
