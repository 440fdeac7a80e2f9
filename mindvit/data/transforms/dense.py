"""Images together with their label maps: resized, cropped, mirrored, distorted, padded, as OpenMMLab's pipelines do it.

Images are (H, W, 3) uint8, red first; label maps (H, W) uint8 or int32. What is random is drawn from an rng in a fixed
order, and what is computed is what OpenCV's 8-bit functions compute, to the last bit.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

IGNORED = 255
SIZE_DIVISOR = 32  # of the sides of images that are tested
CROPS = 10  # that are tried for one in which no class has too large a share
HUES = 180  # steps of the circle of hues in a byte
COEFFICIENT_BITS, HSV_BITS = 11, 12
# OpenCV on CPUs with AVX2 turns HSV back so many pixels at once and rounds them down; the rest of a row it rounds to
# the nearest
LANES = 32
Size = tuple[int, int]  # height, width


def fit_within(size: Size, scale: Size) -> Size:
    """The height and width of an image of `size` that is as large as fits: its long side within the longer and its
    short side within the shorter of `scale`. Halves are rounded up.
    """
    factor = min(max(scale) / max(size), min(scale) / min(size))
    return int(size[0] * factor + 0.5), int(size[1] * factor + 0.5)


def scaled(scale: Size, ratio: float) -> Size:
    """`scale` times a ratio, rounded down."""
    return int(scale[0] * ratio), int(scale[1] * ratio)


@functools.lru_cache(1024)  # of random sizes of 2,000 px some 20 MB a process
def _weights(inputs: int, outputs: int, clamp: bool) -> tuple[np.ndarray, np.ndarray]:
    """The first of the two pixels that an output pixel lies between, and their weights (outputs, 2) times 2^11.

    clamp: places beyond the border take the border's pixel alone.
    """
    centre = ((np.arange(outputs) + 0.5) * (1.0 / (outputs / inputs)) - 0.5).astype(np.float32)
    first = np.floor(centre).astype(np.int64)
    share = centre - first.astype(np.float32)
    if clamp:
        share = np.where((first < 0) | (first >= inputs - 1), np.float32(0), share)
        first = np.clip(first, 0, inputs - 1)
    pair = np.stack((np.float32(1) - share, share), 1) * np.float32(1 << COEFFICIENT_BITS)
    weights = np.rint(pair).astype(np.int32)
    first.flags.writeable = weights.flags.writeable = False  # kept, and of many callers
    return first, weights


def resize(image: np.ndarray, size: Size) -> np.ndarray:
    """(H, W, 3) uint8 -> (*size, 3), bilinear, without antialias; halving both sides is averaging."""
    height, width = image.shape[:2]
    if (height, width) == size:
        return image
    if (height, width) == (2 * size[0], 2 * size[1]):
        quads = image.reshape(size[0], 2, size[1], 2, -1).astype(np.int32)
        return ((quads.sum((1, 3)) + 2) >> 2).astype(np.uint8)
    first, weights = _weights(width, size[1], True)
    left, right = image[:, first].astype(np.int32), image[:, np.minimum(first + 1, width - 1)].astype(np.int32)
    rows = left * weights[:, :1]
    rows += right * weights[:, 1:]
    rows >>= 4
    first, weights = _weights(height, size[0], False)
    above, below = rows[np.clip(first, 0, height - 1)], rows[np.clip(first + 1, 0, height - 1)]
    weights = weights[:, :, None, None]
    result = weights[:, 0] * above
    result >>= 16
    below *= weights[:, 1]
    below >>= 16
    result += below
    result += 2
    result >>= 2
    return result.astype(np.uint8)


def resize_labels(labels: np.ndarray, size: Size) -> np.ndarray:
    """(H, W) -> (*size), each pixel the nearest one's above and to the left."""
    rows, columns = (
        np.minimum(np.floor(np.arange(outputs) * (1.0 / (outputs / inputs))).astype(np.int64), inputs - 1)
        for inputs, outputs in zip(labels.shape, size)
    )
    return labels[rows[:, None], columns]


def reduce_zero_label(labels: np.ndarray) -> np.ndarray:
    """0 becomes IGNORED, and every other label one less: for label maps that call 0 what is no class."""
    return np.where((labels == 0) | (labels == IGNORED), IGNORED, labels.astype(np.int64) - 1).astype(labels.dtype)


def hue_tables() -> tuple[np.ndarray, np.ndarray]:
    """255 / i and 30 / i times 2^12, rounded, for i in 0..255; 0 for 0."""
    steps = np.maximum(np.arange(256), 1)
    tables = [np.rint((whole << HSV_BITS) / (parts * steps)) for whole, parts in ((255, 1.0), (HUES, 6.0))]
    for table in tables:
        table[0] = 0
    return tables[0].astype(np.int64), tables[1].astype(np.int64)


_tables = functools.cache(hue_tables)


def to_hsv(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 red, green, blue -> hue in 0..179, saturation, value, uint8."""
    red, green, blue = (image[..., channel].astype(np.int64) for channel in range(3))
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    by_value, by_spread = _tables()
    half = 1 << (HSV_BITS - 1)
    saturation = (spread * by_value[value] + half) >> HSV_BITS
    hue = np.where(
        value == red, green - blue, np.where(value == green, blue - red + 2 * spread, red - green + 4 * spread)
    )
    hue = (hue * by_spread[spread] + half) >> HSV_BITS
    return np.stack((hue + HUES * (hue < 0), saturation, value), -1).astype(np.uint8)


def from_hsv(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8, hue in 0..179, saturation, value -> red, green, blue."""
    hue = image[..., 0].astype(np.float32) * np.float32(6 / HUES)
    saturation, value = (image[..., channel].astype(np.float32) * np.float32(1 / 255) for channel in (1, 2))
    sector = np.trunc(hue)
    part = hue - sector
    low, falling = value * (1 - saturation), value * (1 - saturation * part)
    rising = value * (1 - saturation * (1 - part))
    sector = sector.astype(np.int64) % 6
    red, green, blue = (
        np.choose(sector, [(value, falling, low, rising)[pick] for pick in picks])
        for picks in ((0, 1, 2, 2, 3, 0), (3, 0, 0, 1, 2, 2), (2, 2, 3, 0, 0, 1))
    )
    values = np.stack((red, green, blue), -1) * np.float32(255)
    rest = image.shape[1] // LANES * LANES
    values[:, rest:] = np.rint(values[:, rest:])
    return np.clip(values, 0, 255).astype(np.uint8)


def stretched(values: np.ndarray, factor: float = 1, offset: float = 0) -> np.ndarray:
    """uint8 -> values * factor + offset within 0..255, rounded down, uint8."""
    return np.clip(values.astype(np.float32) * np.float32(factor) + np.float32(offset), 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class PhotometricDistortion:
    """Brightness, contrast, saturation and hue, each changed with probability a half (Liu et al. 2016, SSD).

    Contrast changes before saturation and hue or after them, also by chance. brightness: the largest change, of 0..255;
    contrast, saturation: the range of factors; hue: the largest change, of 0..179.
    """

    brightness: int = 32
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: int = 18

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.integers(2):
            image = stretched(image, offset=rng.uniform(-self.brightness, self.brightness))
        contrast_first = rng.integers(2) == 1
        if contrast_first:
            image = self._with_contrast(image, rng)
        if rng.integers(2):
            image = saturated(image, rng.uniform(*self.saturation))
        if rng.integers(2):
            image = turned(image, int(rng.integers(-self.hue, self.hue)))
        return image if contrast_first else self._with_contrast(image, rng)

    def _with_contrast(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return stretched(image, rng.uniform(*self.contrast)) if rng.integers(2) else image


def saturated(image: np.ndarray, factor: float) -> np.ndarray:
    """An image with another saturation."""
    hsv = to_hsv(image)
    hsv[..., 1] = stretched(hsv[..., 1], factor)
    return from_hsv(hsv)


def turned(image: np.ndarray, steps: int) -> np.ndarray:
    """An image with other hues."""
    hsv = to_hsv(image)
    hsv[..., 0] = (hsv[..., 0].astype(np.int64) + steps) % HUES
    return from_hsv(hsv)


def crop_box(size: Size, crop: Size, rng: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a crop anywhere in an image; of one that is smaller, all there are."""
    starts = [int(rng.integers(0, max(side - wanted, 0) + 1)) for side, wanted in zip(size, crop)]
    return slice(starts[0], starts[0] + crop[0]), slice(starts[1], starts[1] + crop[1])


def is_varied(labels: np.ndarray, cat_max_ratio: float) -> bool:
    """Whether a crop has two classes, and none has `cat_max_ratio` or more of the labelled pixels."""
    counts = np.unique(labels[labels != IGNORED], return_counts=True)[1]
    return len(counts) > 1 and counts.max() / counts.sum() < cat_max_ratio


def varied_crop(labels: np.ndarray, crop: Size, cat_max_ratio: float, rng: np.random.Generator) -> tuple[slice, slice]:
    """The first of CROPS random crops that is varied; if none is, another one, unchecked."""
    size = labels.shape[0], labels.shape[1]
    box = crop_box(size, crop, rng)
    if cat_max_ratio < 1:
        for _ in range(CROPS):
            if is_varied(labels[box], cat_max_ratio):
                break
            box = crop_box(size, crop, rng)
    return box


@dataclass(frozen=True)
class SegmentationTransform:
    """An image and its label map -> a crop of both, as mmsegmentation trains on ADE20K.

    scale: (longer, shorter) side, px, within which images are fitted, times a ratio out of `ratios`; None: their own;
    crop: (height, width); flip: the probability of mirroring.
    """

    scale: Optional[Size] = (2048, 512)
    ratios: tuple[float, float] = (0.5, 2.0)
    crop: Size = (512, 512)
    cat_max_ratio: float = 0.75
    flip: float = 0.5
    distortion: Optional[PhotometricDistortion] = PhotometricDistortion()

    def __call__(
        self, image: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 and (H, W) -> the crop, its labels and (2,) int32: height and width of what is no padding.

        Padding, below and to the right, is 0 and IGNORED.
        """
        low, high = self.ratios
        own = image.shape[0], image.shape[1]
        size = fit_within(own, scaled(self.scale or own, rng.random() * (high - low) + low))
        image, labels = resize(image, size), resize_labels(labels, size)
        box = varied_crop(labels, self.crop, self.cat_max_ratio, rng)
        image, labels = image[box], labels[box]
        if rng.random() < self.flip:
            image, labels = image[:, ::-1], labels[:, ::-1]
        if self.distortion is not None:
            image = self.distortion(image, rng)
        return pad(image, self.crop), pad(labels, self.crop, IGNORED), np.array(labels.shape, np.int32)


@dataclass(frozen=True)
class MapRow:
    """A sample with a label map -> its rows of a training batch's arrays."""

    transform: SegmentationTransform

    def __call__(self, sample: Any, rng: Optional[np.random.Generator]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert rng is not None  # training's samples have one
        return self.transform(np.asarray(sample.image), np.asarray(sample.target), rng)


def pad(array: np.ndarray, size: Size, value: int = 0) -> np.ndarray:
    """(H, W, ...) -> (*size, ...), with `value` below and to the right."""
    result = np.full((*size, *array.shape[2:]), value, array.dtype)
    result[: array.shape[0], : array.shape[1]] = array
    return result


def align_resize(image: np.ndarray, scale: Size, divisor: int = SIZE_DIVISOR) -> np.ndarray:
    """An image as it is tested: fitted within `scale`, then with both sides enlarged to multiples of `divisor`."""
    image = resize(image, fit_within((image.shape[0], image.shape[1]), scale))
    height, width = (-(-side // divisor) * divisor for side in image.shape[:2])
    return resize(image, (height, width))


def normalize(image: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (3, H, W) float32; mean and std are of pixels in 0..1."""
    values = (image.astype(np.float32) - np.float32(255) * mean.astype(np.float32)) / (255 * std).astype(np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)
