"""Draw what a network's attention looks at.

mindvit attention IMAGE ... --ckpt_path FILE|--model NAME --out DIR [--at x,y]
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Sequence

from mindvit import errors

if TYPE_CHECKING:
    from mindvit.inference.predictor import Predictor
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


def targets(paths: Sequence[str], out: Path) -> list[Path]:
    """Where each image's sheet goes: its name with -attention.png, and a number where two images share a name; a
    very long name is cut.
    """
    found: list[Path] = []
    for path in paths:
        base, number = f"{os.fsdecode(os.fsencode(Path(path).stem)[:LONGEST_STEM])}-attention", 1
        target = out / f"{base}.png"
        while target in found:
            number += 1
            target = out / f"{base}-{number}.png"
        found.append(target)
    return found


def main(arguments: Sequence[str]) -> None:
    """Draw; UserError for anything that the user can mend."""
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
        "--at",
        type=point,
        default=(0.5, 0.5),
        metavar="x,y",
        help="CrossFormer: whose attention, shares of the sides (default: the centre)",
    )
    parser.add_argument(
        "--font", type=Path, metavar="FILE", help="TrueType font for class names that aren't in Latin letters"
    )
    given = parser.parse_args(arguments)
    from mindvit.data.datasets.build import find_images

    paths = find_images(given.images)
    from mindvit.inference.predictor import Predictor  # MindSpore takes seconds: not for --help or a mistyped path
    from mindvit.visualization import attention_sheet

    with errors.hints_for(parser.options()):
        predictor = Predictor(
            given.ckpt_path or given.pretrained,
            given.model,
            given.classes,
            device_target=given.device_target,
            take=given.take,
            max_pixels=given.max_pixels,
        )
    font = attention_sheet.fonts(given.font)
    try:
        given.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.UserError(f"--out {given.out} can't be written: {error.strerror}") from None
    print(predictor, file=sys.stderr)
    draw(predictor, paths, given, font)


def draw(predictor: Predictor, paths: Sequence[str], given: argparse.Namespace, font: Fonts) -> None:
    """A sheet for every image. UserError if one can't be written or, once all others are drawn, decoded."""
    from PIL import Image
    from tqdm import tqdm

    from mindvit.data.decoding import DecodeError
    from mindvit.inference.predictor import Unreadable
    from mindvit.runtime import console
    from mindvit.runtime.files import on_one_line
    from mindvit.visualization import attention_sheet
    from mindvit.visualization.attention import attention_maps

    bad = 0
    for path, target in zip(
        tqdm(paths, unit="image", dynamic_ncols=True, leave=False, disable=None), targets(paths, given.out)
    ):
        try:
            pixels = predictor.prepared(path)
        except DecodeError as error:
            bad += 1
            tqdm.write(f"warning: {error}", file=sys.stderr)
            continue
        logits, rows = attention_maps(predictor.net, predictor.normalised(pixels[None]), given.at)
        foot = f"{predictor.info.name}, {predictor.file}, {predictor.preprocessing.size} px"
        sheet = attention_sheet.sheet(
            Image.fromarray(pixels), Path(path).name, predictor.answer(logits, path), rows, foot, font
        )
        try:
            sheet.save(target)
        except OSError as error:
            raise errors.UserError(f"{target} can't be written: {error.strerror or error}") from None
        console.log_info(on_one_line(str(target)))
    if bad:
        raise Unreadable(bad, len(paths))


if __name__ == "__main__":
    errors.run(main)
