"""Images from anywhere: files, Pillow's images, arrays."""

from __future__ import annotations

import os
from typing import Union

import numpy as np
from PIL import Image

from mindvit.data.decoding import MAX_PIXELS, as_rgb, check_pixels, named, read_image
from mindvit.errors import UserError

ImageLike = Union[str, os.PathLike, Image.Image, np.ndarray]


def is_one(images: object) -> bool:
    """Whether this is one image, not a list or a batch of them."""
    return isinstance(images, (str, os.PathLike, Image.Image)) or (isinstance(images, np.ndarray) and images.ndim < 4)


def opened(image: ImageLike, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image from anywhere as RGB, 8 bits.

    Args:
        image: a path, an image of Pillow's, or an array, uint8 (H, W), (H, W, 3) or (H, W, 4).
        max_pixels: a larger image, width x height, is not decoded.

    Raises:
        DecodeError: the image can't be decoded or is too large.
        UserError: the array is no image.
    """
    if isinstance(image, Image.Image):
        with named(str(getattr(image, "filename", "")) or "given as an image"):
            check_pixels(image.size, max_pixels)
            return as_rgb(image)
    if not isinstance(image, np.ndarray):
        return read_image(os.fspath(image), max_pixels)
    if (
        image.dtype != np.uint8
        or 0 in image.shape
        or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4)))
    ):
        raise UserError(
            f"an array of {image.dtype}, shape {image.shape}, is no image: give uint8, 0 to 255, of shape (H, "
            "W), (H, W, 3) or (H, W, 4)"
        )
    return as_rgb(Image.fromarray(image))


def size_of(image: ImageLike, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width of an image from anywhere, px; errors as `opened`."""
    if isinstance(image, np.ndarray):
        return image.shape[0], image.shape[1]
    width, height = image.size if isinstance(image, Image.Image) else opened(image, max_pixels).size
    return height, width
