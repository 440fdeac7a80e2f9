"""The handwritten digits that ship with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mindvit.data.datasets.base import LabelledDataset

DIGITS_FILE = Path(__file__).parents[1] / "digits.npz"


DIGITS_TRAIN = 1437  # of 1797: about four fifths


class DigitsDataset(LabelledDataset):
    """Handwritten digits, 8x8 px, grey repeated to RGB (UCI, CC BY 4.0: see README.md beside this file); `split` is
    'train' or 'val'.
    """

    def __init__(self, split: str) -> None:
        with np.load(DIGITS_FILE) as file:
            images, labels, order = file["images"], file["labels"], file["order"]
        self._split = split
        self._chosen = order[:DIGITS_TRAIN] if split == "train" else order[DIGITS_TRAIN:]
        grey = np.rint(images[self._chosen] * (255 / 16)).astype(np.uint8)
        self._images = np.repeat(grey[..., None], 3, axis=-1)  # count 8 8 3
        super().__init__(labels[self._chosen], [str(digit) for digit in range(10)])

    def name(self, index: int) -> str:
        """The digit's number in the original set."""
        return f"digits/{self._split}/{self._chosen[index]}"

    def read(self, index: int) -> Image.Image:
        """The digit as an RGB image, 8x8 px."""
        return Image.fromarray(self._images[index])
