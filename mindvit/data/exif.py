"""How an image is to be turned, by its EXIF."""

from __future__ import annotations

from PIL import Image

from mindvit.data.decoding import ORIENTATION, TURNS, named, opened

UPRIGHT, ON_ITS_SIDE = 1, (5, 6, 7, 8)  # orientations


def header(path: str) -> tuple[tuple[int, int], int]:
    """Width and height as stored, px, and the orientation. DecodeError if the file has no image's header."""
    with named(path), open(path, "rb") as file, opened(file) as image:
        return image.size, image.getexif().get(ORIENTATION, UPRIGHT)


def turned(image: Image.Image, path: str) -> Image.Image:
    """A file's image, which was read as it is stored, upright."""
    turn = TURNS.get(header(path)[1])
    return image if turn is None else image.transpose(turn)


def upright_size(path: str) -> tuple[int, int, bool]:
    """Width and height of the upright image, px, and whether it is stored otherwise. DecodeError as above."""
    (width, height), orientation = header(path)
    if orientation in ON_ITS_SIDE:
        width, height = height, width
    return width, height, orientation in TURNS
