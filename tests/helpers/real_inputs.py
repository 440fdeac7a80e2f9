"""Folders, names and images as people really have them: links in circles, a NAS's side folders, odd names, odd modes,
bombs.

Each function makes one kind of input below `root` and returns it; labels can be told from the images (`stripes` of
images.py).
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Union

import numpy as np
from image_files import stripes
from PIL import Image

Name = Union[str, bytes]
GBK = "\u72d7".encode(
    "gbk"
)  # a dog: the name of a folder, class or file from a Chinese Windows archive, which is no UTF-8
SPELT = "\\xb9\\xb7"  # how GBK is shown

# What Windows, macOS, NAS boxes, notebooks and file systems leave beside one's own files: folders and files.
SIDE_FOLDERS = (
    "@eaDir",
    "#recycle",
    "#snapshot",
    "@Recycle",
    "@__thumb",
    "__MACOSX",
    ".AppleDouble",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    ".ipynb_checkpoints",
    "__pycache__",
)
SIDE_FILES = ("._p000.jpg", ".DS_Store", "Thumbs.db", "desktop.ini")


def class_folders(
    root: Path, names: Sequence[Name] = ("a", "b"), train: int = 4, val: int = 2, ending: str = "jpg"
) -> Path:
    """root/train and root/val with `train` and `val` images a class; names may be bytes that are no UTF-8."""
    for split, count, first in (("train", train, 0), ("val", val, 100)):
        for kind, name in enumerate(names):
            folder = os.path.join(os.fsencode(root), split.encode(), os.fsencode(name))
            os.makedirs(folder, exist_ok=True)
            for number in range(first, first + count):
                stripes(kind, len(names), number).save(os.path.join(os.fsdecode(folder), f"p{number:03d}.{ending}"))
    return root


def link(place: Path, target: Union[str, Path]) -> Path:
    """A symbolic link at `place`."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)
    return place


def ladder(root: Path, steps: int = 24) -> Path:
    """A class folder from which two links lead to each next folder outside: 2**steps paths, and one image at the end
    of all.
    """
    outside = root.parent / f"{root.name}-outside"
    for step in range(steps):
        for name in ("left", "right"):
            link((root / "train" / "a" if step == 0 else outside / str(step)) / name, outside / str(step + 1))
    (outside / str(steps)).mkdir()
    stripes(0, 2, 77).save(outside / str(steps) / "end.jpg")
    return root


def side_folders(root: Path) -> Path:
    """A data set of two classes among what other programs leave: as classes, within classes, and as files."""
    class_folders(root)
    for place in (root / "train", root / "train" / "a", root / "val"):
        for name in SIDE_FOLDERS:
            (place / name / "p000.jpg").mkdir(parents=True)  # Synology's thumbnails lie in a folder of the image's name
            stripes(0, 2, 1).save(place / name / "p000.jpg" / "SYNOPHOTO_THUMB_M.jpg")
            stripes(0, 2, 1).save(place / name / "thumb.jpg")
        for name in SIDE_FILES:
            (place / name).write_bytes(b"\0\5\x16\7not an image")
    return root


def endings(folder: Path) -> list[Path]:
    """One image for each ending that is in use for the documented formats, in the cases that cameras and old systems
    write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    formats = {
        "JPEG": ("jpg", "JPEG", "jpe", "JPE", "jfif", "jif", "pjpeg", "pjp"),
        "PNG": ("png", "PNG", "apng"),
        "GIF": ("gif", "GIF"),
        "BMP": ("bmp", "dib"),
        "TIFF": ("tif", "TIFF", "Tif"),
        "WEBP": ("webp", "WebP"),
    }
    paths = []
    for kind, names in formats.items():
        for number, ending in enumerate(names):
            paths.append(folder / f"{kind.lower()}{number}.{ending}")
            stripes(0, 2, number).save(paths[-1], format=kind)
    return paths


def unseen(folder: Path) -> dict[str, int]:
    """Files of kinds that are no images here: how many by ending."""
    counts = {".ppm": 2, ".heic": 3, ".txt": 1, ".npy": 1, "": 1}
    for ending, count in counts.items():
        for number in range(count):
            (folder / f"other{number}{ending}").write_bytes(b"P6 1 1 255 abc")
    return counts


def _float(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L"), np.float32) / 255)


def _whole(image: Image.Image, top: int) -> Image.Image:
    return Image.fromarray((np.asarray(image.convert("L"), np.int64) * top // 255).astype(np.int32))


# Grey TIFFs that are not 8 bits, and how a plain 8-bit grey image becomes one; each must decode to that image again.
DEEP: dict[str, Callable[[Image.Image], Image.Image]] = {
    "float": _float,
    "int32_of_8_bits": lambda image: _whole(image, 255),
    "int32_of_16_bits": lambda image: _whole(image, 65535),
    "uint16": lambda image: Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257),
}


def tiff_12_bits(image: Image.Image) -> bytes:
    """A grey TIFF with 12 bits a pixel, as microscopes and scanners write them; the width must be even."""
    first, second = ((np.asarray(image.convert("L"), np.uint32) * 4095 + 127) // 255).reshape(-1, 2).T
    pixels = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1).astype(np.uint8).tobytes()
    tags = [
        (256, 4, image.width),
        (257, 4, image.height),
        (258, 3, 12),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, image.height),
        (279, 4, len(pixels)),
    ]
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return struct.pack("<2sHI", b"II", 42, 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + body + bytes(4)


def png(width: int, height: int, rows: int = 0) -> bytes:
    """A grey PNG whose header says width x height, with so many rows of zeros (0: it can't be decoded)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    data = zlib.compress(bytes((width + 1) * rows), 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", data)
        + chunk(b"IEND", b"")
    )


def huge(kind: str) -> bytes:
    """A small file of a format whose header promises at least 225 million pixels."""
    if kind == "png":
        return png(20000, 20000)
    if kind == "bmp":
        return (
            b"BM"
            + struct.pack("<IHHI", 1 << 20, 0, 0, 54)
            + struct.pack("<IiiHHIIiiII", 40, 20000, 20000, 1, 24, 0, 0, 0, 0, 0, 0)
            + bytes(100)
        )
    if kind == "gif":
        return (
            b"GIF89a"
            + struct.pack("<HHBBB", 20000, 20000, 0xF0, 0, 0)
            + bytes(6)
            + b","
            + struct.pack("<HHHHB", 0, 0, 20000, 20000, 0)
            + b"\2\2L\1\0;"
        )
    if kind == "jpeg":
        whole = _saved(stripes(0, 2, 0), "JPEG")
        place = whole.index(b"\xff\xc0") + 5
        return whole[:place] + struct.pack(">HH", 20000, 20000) + whole[place + 4 :]
    if kind == "tiff":
        tags = [
            (256, 4, 20000),
            (257, 4, 20000),
            (258, 3, 8),
            (259, 3, 1),
            (262, 3, 1),
            (273, 4, 8),
            (277, 3, 1),
            (278, 4, 20000),
            (279, 4, 64),
        ]
        body = b"".join(struct.pack("<HHII", tag, field, 1, value) for tag, field, value in tags)
        return struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", len(tags)) + body + bytes(100)
    whole = _saved(stripes(0, 2, 0), "WEBP")
    return whole[:26] + struct.pack("<HH", 16383, 16383) + whole[30:]


def _saved(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def list_file(root: Path, rows: Sequence[str], name: str = "train", encoding: str = "utf-8", end: str = "\n") -> Path:
    """root/<name>_list.txt."""
    path = root / f"{name}_list.txt"
    path.write_bytes("".join(row + end for row in rows).encode(encoding, "surrogateescape"))
    return path
