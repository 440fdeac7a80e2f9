"""Small synthetic images in every mode, which a network can tell apart by class: each has its own stripe direction
and colour.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def stripes(kind: int, kinds: int, number: int, size: tuple[int, int] = (50, 40)) -> Image.Image:
    """Image `number` of class `kind` of `kinds`, RGB, `size` (width, height) px: same direction and colour, another
    phase and noise.
    """
    rng = np.random.default_rng((kind, number))
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    angle = np.pi * kind / kinds
    wave = 0.5 + 0.4 * np.sin((x * np.cos(angle) + y * np.sin(angle)) * 0.6 + rng.uniform(0, 2 * np.pi))
    colour = np.array(colorsys.hsv_to_rgb(kind / kinds, 0.6, 1))
    pixels = 255 * wave[..., None] * colour + rng.normal(0, 6, (*wave.shape, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _grey16(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def _palette_see_through(image: Image.Image) -> Image.Image:
    palette = image.quantize(64)
    palette.info["transparency"] = bytes([128] * 64)
    return palette


# Name of a mode -> extension and the image as it is saved.
MODES: dict[str, tuple[str, Callable[[Image.Image], Image.Image]]] = {
    "jpeg_rgb": (".JPEG", lambda image: image),
    "jpeg_grey": (".jpg", lambda image: image.convert("L")),
    "jpeg_cmyk": (".jpeg", lambda image: image.convert("CMYK")),
    "png_rgb": (".png", lambda image: image),
    "png_rgba": (".PNG", lambda image: image.convert("RGBA")),
    "png_palette": (".png", lambda image: image.quantize(64)),
    "png_palette_see_through": (".png", _palette_see_through),
    "png_grey_alpha": (".png", lambda image: image.convert("LA")),
    "png_grey16": (".png", _grey16),
    "png_one_bit": (".png", lambda image: image.convert("1")),
    "bmp": (".bmp", lambda image: image),
    "webp": (".webp", lambda image: image),
    "tiff": (".tiff", lambda image: image),
    "tiff_cmyk": (".tif", lambda image: image.convert("CMYK")),
}


def make_folder(
    root: Path,
    classes: int = 2,
    per_class: int = 8,
    size: tuple[int, int] = (50, 40),
    modes: Sequence[str] = ("jpeg_rgb",),
    first: int = 0,
) -> Path:
    """Write root/class_<c>/<number>_<mode>.<ext>, cycling through `modes`; `first` is the first image's number, so
    that splits can differ.
    """
    for kind in range(classes):
        folder = Path(root) / f"class_{kind}"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(first, first + per_class):
            mode = modes[number % len(modes)]
            extension, change = MODES[mode]
            change(stripes(kind, classes, number, size)).save(folder / f"{number:03d}_{mode}{extension}")
    return Path(root)


def make_data_dir(
    root: Path,
    classes: int = 2,
    train: int = 8,
    val: int = 4,
    size: tuple[int, int] = (50, 40),
    modes: Sequence[str] = ("jpeg_rgb",),
) -> Path:
    """Write root/train and root/val with `train` and `val` different images a class: what `data_dir` expects."""
    make_folder(Path(root) / "train", classes, train, size, modes)
    make_folder(Path(root) / "val", classes, val, size, modes, first=train)
    return Path(root)


def blobs(number: int, size: tuple[int, int] = (80, 64)) -> Image.Image:
    """Image `number`, RGB, `size` (width, height) px, of soft spots: different from every other to the eye."""
    spots = np.random.default_rng(number).integers(0, 256, (6, 7, 3)).astype(np.uint8)
    return Image.fromarray(spots).resize(size, Image.Resampling.BICUBIC)


def make_different(root: Path, train: int, val: int) -> Path:
    """Write root/train and root/val, PNGs of two classes, `train` and `val` of each, no two of them alike."""
    for place, (split, count) in enumerate((("train", train), ("val", val))):
        for kind in range(2):
            folder = Path(root) / split / f"class_{kind}"
            folder.mkdir(parents=True)
            for number in range(count):
                blobs(1000 * place + 100 * kind + number).save(folder / f"{number}.png")
    return Path(root)


def make_list_files(root: Path) -> Path:
    """Write root/train_list.txt and root/val_list.txt for the folders of `make_data_dir`, in the folders' order."""
    for split in ("train", "val"):
        names = sorted(folder.name for folder in (root / split).iterdir())
        lines = [
            f"{path.relative_to(root)} {label}"
            for label, name in enumerate(names)
            for path in sorted((root / split / name).iterdir())
        ]
        (root / f"{split}_list.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return root
