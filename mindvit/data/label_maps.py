"""Label maps as files: PNGs whose pixels are class numbers, with colours for people."""

from __future__ import annotations

import functools
import io
from pathlib import Path

import numpy as np
from PIL import Image

from mindvit.data.decoding import Refused, check_pixels, named, opened
from mindvit.errors import UserError
from mindvit.runtime.files import on_one_line

BITS = 8  # of a palette's colours
MOST_COLOURS = 256
OPACITY = 0.55  # of the colours over an image


@functools.cache
def palette() -> np.ndarray:
    """(256, 3) uint8: colours of classes, as far apart as their numbers' bits can put them (Pascal VOC's)."""
    numbers = np.arange(MOST_COLOURS)
    colours = np.zeros((MOST_COLOURS, 3), np.int64)
    for place in range(3):  # three bits make one of each colour, the lowest the brightest
        for channel in range(3):
            colours[:, channel] |= (numbers >> (3 * place + channel) & 1) << (BITS - 1 - place)
    return colours.astype(np.uint8)


def overlaid(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 under the colours of (H, W) class numbers; class 0 and what is no class keep the image's."""
    colours = palette()[np.minimum(labels, 255)].astype(np.float32)
    mixed = np.rint(image * (1 - OPACITY) + colours * OPACITY).astype(np.uint8)
    shown = (labels > 0) & (labels < 255)
    return np.where(shown[..., None], mixed, image)


def write_label_map(path: Path, labels: np.ndarray) -> None:
    """(H, W) class numbers below 256 as a PNG with a palette."""
    image = Image.fromarray(labels.astype(np.uint8), "P")
    image.putpalette(palette().tobytes())
    image.save(path)


def read_label_map(path: str, max_pixels: int) -> np.ndarray:
    """(H, W) uint8 or int32: the class numbers in a PNG, palette or grey, 1 to 16 bits.

    DecodeError if it can't be read, UserError for one that holds colours.
    """
    with named(path, "label map"), open(path, "rb") as file, opened(io.BytesIO(file.read())) as image:
        check_pixels(image.size, max_pixels)
        if image.format != "PNG":
            raise Refused(f"a {image.format}, and label maps are PNGs, which keep every number as it is")
        image.load()
        values = np.asarray(image)
    if values.ndim == 3:
        first = values[..., 0]
        if image.mode != "RGB" or (values != first[..., None]).any():
            raise UserError(
                f"label map {on_one_line(path)} holds colours ({image.mode}) and no class numbers: save it with a "
                "palette or in grey, the value of a pixel being its class"
            )
        values = first  # grey that was saved as three equal channels
    return values.astype(np.uint8 if values.dtype in (np.uint8, np.bool_) else np.int32)
