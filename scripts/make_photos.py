"""Make a folder of photographs, a folder a class, to try `mindvit train FOLDER` on.

python scripts/make_photos.py 400 OUT [--faults], where scikit-image and scikit-learn are installed (they aren't needed
for anything else): crops of the photographs that these packages bring, a class a photograph, of many sizes and
qualities; from 2,000 images on the ten handwritten digits are classes too. With --faults the folder is split, and has
everything that `mindvit inspect-data` tells of.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Callable

import numpy as np
from PIL import Image
from skimage import data
from sklearn.datasets import load_digits, load_sample_image

PHOTOS: dict[str, Callable[[], np.ndarray]] = {
    "cat": data.chelsea,
    "coffee": data.coffee,
    "rocket": data.rocket,
    "astronaut": data.astronaut,
    "temple": lambda: load_sample_image("china.jpg"),
    "dahlia": lambda: load_sample_image("flower.jpg"),
    "motorcycle": lambda: data.stereo_motorcycle()[0],
    "grass": data.grass,
    "gravel": data.gravel,
    "brick": data.brick,
}
FEW, HUNDRED, MANY = 4, 100, 2000  # classes of fewer images than a hundred; images from which on there are digits
DIGIT = 64  # px of a digit's side
EVERY = 5  # of a class's images one is for validation, where the folder is split


def crop(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A part of a photograph, perhaps mirrored, a little brighter or darker, 96 to 640 px wide."""
    width = int(min(photo.size) * rng.uniform(0.35, 0.8))
    height = min(int(width * rng.uniform(0.75, 1.33)), photo.height)
    left, top = rng.integers(0, photo.width - width + 1), rng.integers(0, photo.height - height + 1)
    gain = rng.uniform(0.7, 1.2)
    part = photo.crop((left, top, left + width, top + height)).point(lambda level: min(255, level * gain))
    if rng.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = rng.integers(96, 641) / width
    return part.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)


def write(count: int, out: Path) -> None:
    """`count` images, as many of each class as of the others."""
    rng = np.random.default_rng(0)
    photos = {name: Image.fromarray(load()) for name, load in list(PHOTOS.items())[: FEW if count < HUNDRED else None]}
    digits = load_digits()
    scans = len(digits.target) if count >= MANY else 0
    for number in range(count - scans):
        name = list(photos)[number % len(photos)]
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        image = crop(photos[name], rng)
        image.save(folder / f"{number:05d}.jpg", quality=int(rng.integers(60, 96)))
    for number in range(scans):
        folder = out / f"digit {digits.target[number]}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray((digits.images[number] * 255 / 16).astype(np.uint8))
        pixels.resize((DIGIT, DIGIT), Image.Resampling.BICUBIC).save(folder / f"{number:05d}.jpg", quality=90)


def split(out: Path) -> None:
    """Move the classes to out/train, and every fifth image to out/val."""
    for folder in [path for path in out.iterdir() if path.is_dir()]:
        for number, path in enumerate(sorted(folder.iterdir())):
            place = out / ("train" if number % EVERY else "val") / folder.name
            place.mkdir(parents=True, exist_ok=True)
            path.rename(place / path.name)
        folder.rmdir()


def add_faults(out: Path) -> None:
    """One of each thing that `mindvit inspect-data` tells of, among the images of a split folder."""
    train, val = out / "train", out / "val"
    classes = sorted(path.name for path in train.iterdir())
    one, other = train / classes[0], train / classes[1]
    images = sorted(one.iterdir())
    (one / "cut_off.jpg").write_bytes(images[0].read_bytes()[:2000])
    (one / "no_image.jpg").write_text("<html>404</html>", encoding="utf-8")
    shutil.copy(images[1], other / "of_another_class.jpg")
    shutil.copy(images[2], val / classes[0] / "leak.jpg")
    Image.open(images[3]).resize((200, 160)).save(val / classes[0] / "near_leak.jpg", quality=70)
    shutil.copy(images[4], one / "twice.jpg")
    photo = Image.open(images[5])
    photo.resize((photo.width // 2, photo.height // 2)).save(one / "nearly.png")
    photo.resize((24, 20)).save(one / "small.jpg")
    photo.resize((600, 80)).save(one / "long.jpg")
    Image.new("RGB", (200, 150), (90, 90, 90)).save(one / "one_colour.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by a quarter
    Image.open(images[6]).save(one / "turned.jpg", exif=exif)
    Image.open(images[7]).save(one / "png_named.jpg", format="PNG")
    (one / "notes.txt").write_text("not an image", encoding="utf-8")
    rare, common = train / "rare", val / "rare"
    for place in (rare, common):
        place.mkdir()
    Image.fromarray(data.coins()).save(rare / "only_one.png")
    Image.fromarray(data.camera()).resize((300, 300)).save(common / "only_one.png")


def main() -> None:
    """Write the folder that the command line asks for."""
    parser = argparse.ArgumentParser(description="Make a folder of photographs, a folder a class.")
    parser.add_argument("count", type=int, metavar="COUNT", help="images, at least 40")
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder that doesn't exist yet")
    parser.add_argument("--faults", action="store_true", help="split the folder, and add faults")
    given = parser.parse_args()
    if given.out.exists():
        parser.error(f"{given.out} exists already")
    write(given.count, given.out)
    if given.faults:
        split(given.out)
        add_faults(given.out)


if __name__ == "__main__":
    main()
