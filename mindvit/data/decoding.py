"""From the bytes of an image file to RGB, 8 bits: all formats and modes one way, bounded by the size in the header."""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from mindvit.recipe.options import DataOptions
from mindvit.runtime.files import on_one_line

# What a file may hold, whatever its name says (ImageNet has a PNG named .JPEG). Naming the plug-ins also registers them
# before threads start.
FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        BmpImagePlugin.BmpImageFile,
        WebPImagePlugin.WebPImageFile,
        TiffImagePlugin.TiffImageFile,
        GifImagePlugin.GifImageFile,
    )
)
MULTI_IMAGE = MpoImagePlugin.MpoImageFile  # what JPEG's reader makes of a phone's two images in one file
EXTENSIONS = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".jif",
    ".jfi",
    ".pjpeg",
    ".pjp",
    ".png",
    ".apng",
    ".bmp",
    ".dib",
    ".webp",
    ".tif",
    ".tiff",
    ".gif",
)

MAX_PIXELS: int = DataOptions.max_pixels
TOO_LARGE = "raise max_pixels for images that you trust"
READ_AT_ONCE = 64 << 20  # bytes: a larger file is read as it is decoded, after its header was looked at
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # TIFF's tags
ORIENTATION = 0x0112  # EXIF's tag
TURNS = {  # what sets an image upright, by orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ROUNDING = 1e-3  # how far beyond 0..1 a float image may be


class DecodeError(Exception):
    """An image that can't be decoded: `name` of the file, the `reason`, and `what` it is."""

    def __init__(self, name: str, reason: str, what: str = "image") -> None:
        super().__init__(f"{what} {on_one_line(name)} can't be decoded ({reason})")
        self.name, self.reason, self.what = name, reason, what


class Refused(ValueError):
    """An image that is not decoded, and why."""


def read_image(path: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image in a file, RGB, 8 bits, EXIF orientation ignored as torchvision's loader does.

    DecodeError if it can't be read or decoded, or its header says more than `max_pixels` (width x height).
    """
    with named(path), open(path, "rb") as file:
        large = os.fstat(file.fileno()).st_size > READ_AT_ONCE
        return decode(file if large else io.BytesIO(file.read()), max_pixels)


@contextlib.contextmanager
def named(name: str, what: str = "image") -> Iterator[None]:
    """Whatever is wrong with an image becomes DecodeError under its `name`; only a lack of memory stays what it is."""
    try:
        yield
    except (MemoryError, DecodeError):
        raise
    except Exception as error:  # damaged files make Pillow's readers raise nearly anything
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if isinstance(error, Image.DecompressionBombError):
            reason += f"; {TOO_LARGE}"
        if isinstance(error, FileNotFoundError) and os.path.islink(name):
            reason = f"a broken link to {on_one_line(os.readlink(name))}"
        raise DecodeError(name, reason or type(error).__name__, what) from None


def decode(stream: IO[bytes], max_pixels: int = MAX_PIXELS, upright: bool = False) -> Image.Image:
    """An encoded image as RGB, 8 bits, of several frames the first: see `as_rgb`; `upright`: turned as its EXIF says.

    Refused for what is no image, has a header that says more than `max_pixels`, or has values of unknown scale; any
    exception of Pillow's for a damaged file.
    """
    with opened(stream) as image:
        check_pixels(image.size, max_pixels)
        image.load()
        turn = TURNS.get(image.getexif().get(ORIENTATION)) if upright else None
        rgb = as_rgb(image)
        return rgb if turn is None else rgb.transpose(turn)


def opened(stream: IO[bytes]) -> Image.Image:
    """The image in a file whose header alone was read. Refused if it is none of FORMATS.

    Pillow's own Image.open has one limit of pixels for the whole process, above which it warns or raises; `max_pixels`
    is a recipe's.
    """
    prefix = stream.read(16)
    if not prefix:
        raise Refused("the file is empty")
    reason = f"not one of {', '.join(FORMATS)}"
    for form in FORMATS:
        factory, accept = Image.OPEN[form]
        if accept is None or accept(prefix) is True:
            stream.seek(0)
            try:
                return factory(stream, "")
            except (SyntaxError, IndexError, TypeError, KeyError, EOFError, struct.error) as error:
                reason = f"a {form} that Pillow can't read: {error}"
    raise Refused(reason)


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    """Refused unless an image of `size` (width, height) has a pixel and at most `max_pixels`."""
    pixels = size[0] * size[1]
    if pixels > max_pixels:
        raise Refused(f"{size[0]} x {size[1]} px are {pixels} pixels, and max_pixels is {max_pixels}; {TOO_LARGE}")
    if pixels < 1:
        raise Refused(f"{size[0]} x {size[1]} px: it has no pixel")


def allow(max_pixels: int) -> None:
    """Raise Pillow's own limit to `max_pixels` where a user asks for more than it has.

    Its readers of WebP, TIFF and GIF look at that limit, which is one for the process, whoever opens the file. So it is
    raised here alone, once, before threads start, never lowered, and not at import: a program that only imports mindvit
    keeps Pillow's.
    """
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels


def as_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB, 8 bits: alpha is dropped, grey of 12 and 16 bits and floats of 0 to 1 are scaled.

    Refused for values whose scale can't be known: NaN, floats beyond 0..1, ints beyond 16 bits.
    """
    mode = image.mode
    if mode == "RGB":
        return image
    if mode == "I" or mode.startswith("I;16"):  # Pillow would clip at 255: nearly all white
        return _grey(_levels(np.asarray(image), _top(image)), image)
    if mode == "F":  # and here cut off below 1: nearly all black
        return _grey(_shares(np.asarray(image)), image)
    if (mode == "P" and "transparency" in image.info) or mode == "RGBa":
        return image.convert("RGBA").convert("RGB")  # the same colours, without Pillow's warning
    if mode == "La":
        return image.convert("LA").convert("RGB")
    return image.convert("RGB")


def _tag(image: Image.Image, number: int) -> Any:
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) else value


def _top(image: Image.Image) -> int:
    """The int that means white: with 16 bits what the file says; with 32, the numbers decide."""
    if image.mode.startswith("I;16"):
        bits = _tag(image, BITS_PER_SAMPLE)
        return (1 << bits) - 1 if isinstance(bits, int) and 8 < bits < 16 else 65535
    if image.format == "PNG":  # older versions of Pillow open its 16 bits so
        return 65535
    low, high = image.getextrema()
    if low < 0 or high > 65535:  # type: ignore[operator]
        raise Refused(f"32-bit numbers from {low} to {high}, whose scale isn't known; save it with 8 or 16 bits")
    return 255 if high <= 255 else 65535  # type: ignore[operator]


def _levels(values: np.ndarray, top: int) -> np.ndarray:
    """0..top -> 0..255, to the nearest."""
    if top == 255:
        return values.astype(np.uint8)
    if top == 65535:
        return ((np.clip(values, 0, top).astype(np.uint32) + 128) // 257).astype(np.uint8)
    return ((np.clip(values, 0, top).astype(np.uint32) * 255 + top // 2) // top).astype(np.uint8)


def _shares(values: np.ndarray) -> np.ndarray:
    """0..1 -> 0..255, to the nearest."""
    low, high = float(values.min()), float(values.max())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # NaN makes both NaN
        raise Refused(
            f"float numbers from {low:g} to {high:g}, whose scale isn't known (0 to 1 is); save it with 8 or 16 bits"
        )
    return np.rint(np.clip(values, 0, 1) * np.float32(255)).astype(np.uint8)


def _grey(levels: np.ndarray, image: Image.Image) -> Image.Image:
    """0..255 -> RGB; a TIFF whose 0 is white is turned round, as Pillow does for 8 bits alone."""
    return Image.fromarray(255 - levels if _tag(image, PHOTOMETRIC) == WHITE_IS_ZERO else levels).convert("RGB")
