"""Sizes of images whose annotations don't tell them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Sequence, Union

from mindvit.data.decoding import DecodeError
from mindvit.data.exif import upright_size
from mindvit.errors import UserError

THREADS = 8


def upright_images(paths: Sequence[str]) -> list[dict[str, Any]]:
    """Width, height and `upright` of each image as the tools show it that people draw boxes with: turned as its EXIF
    says. UserError for images that can't be read.
    """

    def look(path: str) -> Union[tuple[int, int, bool], DecodeError]:
        try:
            return upright_size(path)
        except DecodeError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        sizes = list(pool.map(look, paths))
    broken = [size for size in sizes if isinstance(size, DecodeError)]
    if broken:
        more = f" ({len(broken)} of {len(paths)} are like this)" * (len(broken) > 1)
        raise UserError(f"{broken[0]}: repair it or leave it out{more}")
    return [
        {"width": size[0], "height": size[1], "upright": size[2]} for size in sizes if not isinstance(size, DecodeError)
    ]
