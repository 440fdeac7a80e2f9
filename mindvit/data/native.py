"""Resizing and moving of pixels, two to four times as fast as Pillow's: native.cpp, built on first use.

Moved pixels are Pillow's to the last bit. Resized ones are, where Pillow too does the width first; for other shapes it
may round the image in between the other way. Training takes that; evaluation leaves such shapes to Pillow. Without a
C++ compiler, or with MINDVIT_NATIVE=0, Pillow does it all.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np
from PIL import Image

from mindvit.kernels import compiler

SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ("-ffp-contract=off",)
SWITCH = "MINDVIT_NATIVE"
LARGE = 80_000_000  # px: below the least that Pillow warns of
LONG = 65536  # px: more than a JPEG's side can be
Resampling = Image.Resampling
Box = tuple[int, int, int, int]


def resize(image: Image.Image, size: tuple[int, int], method: Resampling, box: Optional[Box] = None) -> Image.Image:
    """`image`, RGB, or what lies in `box` alone (left, top, right, bottom), as size (width, height) px."""
    inside = shortened(part(image, box) if box else image)
    pixels = _resized(inside, size, method, (0, 0, *size))
    return inside.resize(size, method) if pixels is None else Image.fromarray(pixels)


def window(image: Image.Image, size: tuple[int, int], method: Resampling, box: Box) -> np.ndarray:
    """What Pillow's `image.resize(size, method).crop(box)` holds, to the last bit: uint8 (height, width, 3)."""
    within = min(box[:2]) >= 0 and box[2] <= size[0] and box[3] <= size[1]
    pixels = _resized(image, size, method, box) if within and width_first(image.size, size) else None
    return np.asarray(image.resize(size, method).crop(box)) if pixels is None else pixels


def width_first(size: tuple[int, int], wanted: tuple[int, int]) -> bool:
    """Whether Pillow resizes the width before the height: since version 13 unless the height loses more than twice as
    many pixels. Versions before did so for all shapes that are not a hundred times as tall as wide.
    """
    across, down = (before - after for before, after in zip(size, wanted))
    return down <= max(0, 2 * across)


def _resized(image: Image.Image, size: tuple[int, int], method: Resampling, box: Box) -> Optional[np.ndarray]:
    """What lies in `box` of the image resized to `size`; None where only Pillow can do it."""
    library = loaded()
    if library is None or method not in (Resampling.BICUBIC, Resampling.BILINEAR) or image.mode != "RGB":
        return None
    wide, high = box[2] - box[0], box[3] - box[1]
    pixels, result = _array(image), np.empty((high, wide, 3), np.uint8)
    place = np.array((*size, *box[:2], wide, high), np.int32)
    bicubic = int(method == Resampling.BICUBIC)
    library.resize_rgb(_address(pixels), *image.size, _address(result), _address(place), bicubic)
    return result


def part(image: Image.Image, box: Box) -> Image.Image:
    """What lies in `box`, all of it within the image."""
    size = box[2] - box[0], box[3] - box[1]
    if size[0] * size[1] <= LARGE:
        return image.crop(box)
    # The same pixels; `crop` takes so many for a decompression bomb.
    return image.transform(size, Image.Transform.EXTENT, box)


def shortened(image: Image.Image) -> Image.Image:
    """`image` before it is resized as a whole: sides longer than LONG become shorter by a whole factor, by averaging.

    Resizing such sides directly needs many times the image's memory: for the filter's weights, and for the image in
    between, as wide as the result and as tall as the source.
    """
    if max(image.size) <= LONG:
        return image
    return image.reduce((-(-image.width // LONG), -(-image.height // LONG)))


def transform(
    image: Image.Image, matrix: Sequence[float], method: Resampling, fill: tuple[int, int, int]
) -> Image.Image:
    """`image`, RGB, whose place (x, y) takes the colour at (ax + by + c, dx + ey + f), or `fill` where there is none;
    matrix: a to f.
    """
    library = loaded()
    if library is None or method != Resampling.BICUBIC or image.mode != "RGB":
        return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=method, fillcolor=fill)
    pixels, numbers = _array(image), np.array(matrix, np.float64)
    result = np.empty_like(pixels)
    library.affine_rgb(
        _address(pixels), *image.size, _address(result), _address(numbers), _address(np.array(fill, np.uint8))
    )
    return Image.fromarray(result)


def rotate(image: Image.Image, degrees: float, method: Resampling, fill: tuple[int, int, int]) -> Image.Image:
    """`image` turned counterclockwise about its centre, in a frame of the same size."""
    if loaded() is None or method != Resampling.BICUBIC or degrees % 90 == 0:
        return image.rotate(degrees, resample=method, fillcolor=fill)
    angle = -math.radians(degrees % 360)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = image.width / 2, image.height / 2
    return transform(image, (cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y), method, fill)


def _array(image: Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(image))


def _address(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)  # keeps the array alive as long as the pointer


@functools.cache
def loaded() -> Optional[ctypes.CDLL]:
    """The compiled functions; None, once with a line on stderr, where they can't be had."""
    path = compiler.library(SOURCE, FLAGS, SWITCH, "images are resized by Pillow alone, which is slower")
    if path is None:
        return None
    library = ctypes.CDLL(str(path))
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.resize_rgb.argtypes, library.resize_rgb.restype = (pointer, number, number, pointer, pointer, number), None
    library.affine_rgb.argtypes, library.affine_rgb.restype = (pointer, number, number, pointer, pointer, pointer), None
    return library
