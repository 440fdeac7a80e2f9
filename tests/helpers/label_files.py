"""A folder of images with label maps, as `dataset: segmentation` reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ground", "square", "bar")
SIZES = ((40, 56), (48, 40), (56, 48), (40, 40))  # height, width


def sample(number: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) uint8 and its label map (H, W) uint8: a square and a bar on noise."""
    rng = np.random.default_rng(number)
    height, width = SIZES[number % len(SIZES)]
    image, labels = rng.integers(0, 90, (height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
    top, left = rng.integers(0, height - 16), rng.integers(0, width - 16)
    labels[top : top + 16, left : left + 16] = 1
    labels[rng.integers(0, height - 6) :][:6] = 2
    image[labels == 1] += np.array([150, 20, 20], np.uint8)
    image[labels == 2] += np.array([20, 20, 150], np.uint8)
    labels[:2] = 255
    return image, labels


def make_label_folder(root: Path, train: int = 8, val: int = 4) -> Path:
    """images/ and annotations/ with train/ and val/, and classes.txt."""
    for split, numbers in (("train", range(train)), ("val", range(100, 100 + val))):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for number in numbers:
            image, labels = sample(number)
            Image.fromarray(image).save(root / "images" / split / f"{number}.png")
            Image.fromarray(labels).save(root / "annotations" / split / f"{number}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n", "utf-8")
    return root
