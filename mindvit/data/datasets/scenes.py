"""Scenes of handwritten digits in dark inks on light, textured grounds, drawn as they are asked for: a data set for
segmentors and detectors that ships with the package, with exact label maps, boxes and masks.
"""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mindvit.data.datasets.base import Dataset, Sample
from mindvit.data.datasets.digits import DIGITS_FILE, DIGITS_TRAIN
from mindvit.data.transforms.dense import resize
from mindvit.errors import UserError

SPLITS = {"train": (1, 9600), "val": (2, 100)}  # the seed, and how many scenes
SIDES = (128, 192)  # px, of images
DIGIT_SIDES = (44, 80)  # px, of a digit's height
DIGITS = (3, 6)  # in a scene, as many as can be seen
PLACES = 24  # that are tried for a digit
INK = 128  # of 0..255: where a digit is at least as dark, it is there
LEAST_VISIBLE = 40  # px; a digit of which less can be seen is left out
LIGHT = (110, 256)  # of 0..255: grounds, but for stripes and grain
DARK = 110  # of 0..255: what a digit's colours are below


class Scene(NamedTuple):
    """What is to be learnt of a scene of n digits, the front one last.

    labels: (H, W) uint8, 0 the ground and 1 to 10 the digits; classes: (n,) int32, 1 to 10; boxes: (n, 4) float32,
    left, top, right and bottom of what can be seen, px; masks: (n, H, W) bool, what can be seen.
    """

    labels: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    masks: np.ndarray


class ScenesDataset(Dataset):
    """Scenes by number, the same on every machine; `split` is 'train' or 'val', whose digits were written by the same
    people, but are others.
    """

    def __init__(self, split: str) -> None:
        if split not in SPLITS:
            raise UserError(f"scenes: there is no split {split!r}, but {' and '.join(SPLITS)}")
        super().__init__(["ground", *(str(digit) for digit in range(10))])
        with np.load(DIGITS_FILE) as file:
            images, labels, order = file["images"], file["labels"], file["order"]
        chosen = order[:DIGITS_TRAIN] if split == "train" else order[DIGITS_TRAIN:]
        self._split = split
        self._seed, self._count = SPLITS[split]
        self._digits = np.rint(images[chosen] * (255 / 16)).astype(np.uint8)  # count 8 8
        self._classes = labels[chosen].astype(np.int32) + 1

    def __len__(self) -> int:
        return self._count

    def name(self, index: int) -> str:
        """The scene's number."""
        return f"scenes/{self._split}/{index}"

    def read(self, index: int) -> Image.Image:
        """The scene, RGB."""
        return Image.fromarray(self.draw(index)[0])

    def target(self, index: int) -> Any:
        """What is to be seen in it."""
        return self.draw(index)[1]

    def __getitem__(self, index: int) -> Sample:
        pixels, scene = self.draw(index)  # once for both
        return Sample(Image.fromarray(pixels), scene)

    def fingerprint(self) -> str:
        """Eight digits that change with the scenes' number, split and classes."""
        return f"{zlib.crc32(repr((self.class_names, self._split, self._count)).encode()):08x}"

    def draw(self, index: int) -> tuple[np.ndarray, Scene]:
        """(H, W, 3) uint8 and what is to be seen in it."""
        pixels, owner, classes = self.paint(index)
        return pixels, seen(owner, classes, pixels)

    def paint(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(H, W, 3) uint8; (H, W) int32, which digit a pixel belongs to, from 1 on, or 0; (1 + digits,) int32, the
        classes of the ground and of the digits.
        """
        if not 0 <= index < self._count:
            raise IndexError(index)
        rng = np.random.Generator(np.random.PCG64([self._seed, index]))
        height, width = (int(rng.integers(SIDES[0], SIDES[1] + 1)) for _ in SIDES)
        pixels = ground(height, width, rng)
        owner = np.zeros((height, width), np.int32)  # of each pixel: the digit's number from 1 on
        classes = [0]
        for number in range(1, int(rng.integers(DIGITS[0], DIGITS[1] + 1)) + 1):
            which = int(rng.integers(len(self._digits)))
            window, shape = place(self._digits[which], owner, rng)
            colour = rng.integers(0, DARK, 3).astype(np.int32)
            noise = grain(shape.shape, rng)[shape]
            pixels[window][shape] = np.clip(colour + noise, 0, 255)
            owner[window][shape] = number
            classes.append(int(self._classes[which]))
        return pixels, owner, np.array(classes, np.int32)


class SceneMaps(ScenesDataset):
    """Scenes with their label maps alone, (H, W) uint8: for segmentors."""

    def target(self, index: int) -> np.ndarray:
        """The label map."""
        return self._map(index)[1]

    def __getitem__(self, index: int) -> Sample:
        pixels, labels = self._map(index)
        return Sample(Image.fromarray(pixels), labels)

    def _map(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        pixels, owner, classes = self.paint(index)
        hide(owner, len(classes), pixels)
        return pixels, classes[owner].astype(np.uint8)


def ground(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(height, width, 3) uint8: soft spots of some light colours, stripes over them, and grain."""
    spots = rng.integers(*LIGHT, (int(rng.integers(2, 6)), int(rng.integers(2, 6)), 3)).astype(np.uint8)
    base = resize(spots, (height, width)).astype(np.int32)
    down, across, period = (int(rng.integers(*bounds)) for bounds in ((-3, 4), (-3, 4), (8, 40)))
    rows, columns = np.arange(height, dtype=np.int32)[:, None], np.arange(width, dtype=np.int32)
    stripes = (rows * down + columns * across) // period % 2 * int(rng.integers(0, 30))
    return np.clip(base - stripes[..., None] + grain((height, width), rng), 0, 255).astype(np.uint8)


def grain(size: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Noise of -12 to 12 for three colours, (*size, 3) int32."""
    return rng.integers(-12, 13, (*size, 3), np.int32)


def place(digit: np.ndarray, owner: np.ndarray, rng: np.random.Generator) -> tuple[tuple[slice, slice], np.ndarray]:
    """A digit (8, 8) enlarged, somewhere in an image: the rows and columns it takes, and (h, w) bool, where its ink is.

    owner: (H, W), not 0 where others are. It may hide them, but the first of a few places is taken where most of it
    lies beside them.
    """
    height = int(rng.integers(DIGIT_SIDES[0], DIGIT_SIDES[1] + 1))
    width = height * int(rng.integers(80, 121)) // 100
    shape = resize(digit[..., None], (height, width))[..., 0] >= INK
    ink = np.count_nonzero(shape)
    for _ in range(PLACES):
        top, left = (int(rng.integers(owner.shape[axis] - shape.shape[axis] + 1)) for axis in (0, 1))
        window = (slice(top, top + height), slice(left, left + width))
        if 8 * np.count_nonzero(owner[window][shape]) < ink:
            break
    return window, shape


def hide(owner: np.ndarray, numbers: int, pixels: np.ndarray) -> np.ndarray:
    """Take out of `owner` the digits of which hardly anything shows; `pixels` become the image's mean there.

    numbers: of digits, and the ground. -> the numbers of those that remain.
    """
    visible = np.bincount(owner.ravel(), minlength=numbers)
    hidden = visible < LEAST_VISIBLE
    hidden[0] = False
    if hidden.any():
        gone = hidden[owner]
        pixels[gone] = pixels.reshape(-1, 3).mean(0).astype(np.uint8)
        owner[gone] = 0
    return np.flatnonzero(~hidden)[1:]


def seen(owner: np.ndarray, classes: np.ndarray, pixels: np.ndarray) -> Scene:
    """The scene in which each pixel belongs to `owner`, a digit's number or 0; classes: (numbers,).

    What hardly shows of a digit is no digit (hide).
    """
    numbers = hide(owner, len(classes), pixels)
    masks = owner[None] == numbers[:, None, None]
    boxes = np.zeros((len(numbers), 4), np.float32)
    for box, mask in zip(boxes, masks):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return Scene(classes[owner].astype(np.uint8), classes[numbers], boxes, masks)
