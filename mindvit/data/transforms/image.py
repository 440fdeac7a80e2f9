"""What is done to an image on the host: crops, resizing, flips and colours, from an RGB image to uint8 HWC.

Resizing is Pillow's, with antialiasing, as in the papers' own code. Every random choice comes from a generator that is
passed in.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any, Optional, Union

import numpy as np
from PIL import Image, ImageEnhance

from mindvit.data import native
from mindvit.data.datasets.base import Sample
from mindvit.data.transforms import policies
from mindvit.recipe.options import AugmentOptions, Pair, Triple

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
CROP_ATTEMPTS = 10
LONGEST = 32  # evaluation: sides of the crop that a resized image may be long; see `centre`
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class EvalTransform:
    """Resize the short side to size/crop_pct and cut out the centre (crop_mode 'center'), or resize to size x size px
    straight away ('squash').
    """

    size: int
    crop_pct: float
    interpolation: str
    crop_mode: str = "center"

    def __call__(self, image: Image.Image) -> np.ndarray:
        """uint8 (size, size, 3)."""
        method = RESAMPLING[self.interpolation]
        if self.crop_mode == "squash":
            whole = self.size, self.size
            return native.window(native.shortened(image), whole, method, (0, 0, *whole))
        short = int(self.size / self.crop_pct)
        width, height = (short * side // min(image.size) for side in image.size)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        if max(width, height) > LONGEST * self.size:
            return np.asarray(centre(image, (width, height), (left, top), self.size, method))
        return native.window(image, (width, height), method, (left, top, left + self.size, top + self.size))


@dataclass(frozen=True)
class EvalViews:
    """Several views of an image, whose answers are averaged: itself and its mirror image ('flip'), or the corners and
    the middle of the resized image ('five_crops').
    """

    transform: EvalTransform
    kind: str

    @property
    def count(self) -> int:
        """Views of an image."""
        return {"flip": 2, "five_crops": 5}[self.kind]

    def __call__(self, image: Image.Image) -> np.ndarray:
        """uint8 (count, size, size, 3)."""
        transform, size = self.transform, self.transform.size
        middle = transform(image)
        if self.kind == "flip":
            return np.stack([middle, middle[:, ::-1]])
        short = int(size / transform.crop_pct)
        width, height = (short * side // min(image.size) for side in image.size)
        method = RESAMPLING[transform.interpolation]
        corners = [(left, top) for top in (0, height - size) for left in (0, width - size)]
        others = [np.asarray(centre(image, (width, height), corner, size, method)) for corner in corners]
        return np.stack([middle, *others])


def centre(
    image: Image.Image, resized: tuple[int, int], corner: tuple[int, int], size: int, method: Image.Resampling
) -> Image.Image:
    """What image.resize(resized) has at `corner`, size x size px, without making the rest.

    1 x 8000 px resized to 256 x 2048000 would take 2 GiB. The pixels are those of the whole but for a rounding now and
    then; so an image that isn't extremely long is resized as a whole, as in the papers' own code.
    """
    scale = [side / wanted for side, wanted in zip(image.size, resized)]
    box = [value for start in (0, size) for value in ((corner[0] + start) * scale[0], (corner[1] + start) * scale[1])]
    # Pillow keeps a box in single precision, which is too coarse for places far from 0: the surroundings, with all that
    # a
    # filter reaches, come first.
    reach = [math.ceil(3 * max(1.0, value)) for value in scale]
    left, top = (max(0, math.floor(value) - more) for value, more in zip(box[:2], reach))
    right, bottom = (min(side, math.ceil(value) + more) for value, more, side in zip(box[2:], reach, image.size))
    part = native.part(image, (left, top, right, bottom))
    near = (
        max(0.0, box[0] - left),
        max(0.0, box[1] - top),
        min(float(part.width), box[2] - left),
        min(float(part.height), box[3] - top),
    )
    return part.resize((size, size), method, near)


@dataclass(frozen=True)
class TrainTransform:
    """Random crop resized to size x size px, flips, and colours: a policy by name, or else jitter."""

    size: int
    interpolation: str
    mean: Triple
    options: AugmentOptions

    def __getstate__(self) -> dict[str, Any]:
        """What it was made of: a worker process finds the policy's functions itself."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}

    @functools.cached_property
    def policy(self) -> policies.Policy | None:
        """The policy that `auto_augment` names."""
        return policies.parse(self.options.auto_augment) if self.options.auto_augment else None

    @functools.cached_property
    def fill(self) -> policies.Rgb:
        """The mean colour, 0..255."""
        red, green, blue = (min(255, round(255 * value)) for value in self.mean)
        return red, green, blue

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        """uint8 (size, size, 3); the same for the same image and state of `rng`."""
        options = self.options
        cropped = options.scale != (1, 1) or options.ratio != (1, 1)
        box = random_box(image.size, options.scale, options.ratio, rng) if cropped else None
        image = native.resize(image, (self.size, self.size), RESAMPLING[self.interpolation], box)
        if rng.random() < options.hflip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if rng.random() < options.vflip:
            image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        if self.policy:
            image = self.policy(image, rng, self.fill, RESAMPLING[self.interpolation])
        elif options.color_jitter:
            image = jitter(image, options.color_jitter, rng)
        return np.asarray(image)


@dataclass(frozen=True)
class ClassRow:
    """What a classifier's batch has of a sample: the image's pixels and its class. A transform of the loader's."""

    image: Union[TrainTransform, EvalTransform, EvalViews]

    def __call__(self, sample: Sample, rng: Optional[np.random.Generator]) -> tuple[np.ndarray, int]:
        """uint8 (size, size, 3) and the class; rng: the sample's own, where the image is augmented."""
        if isinstance(self.image, TrainTransform):
            assert rng is not None
            return self.image(sample.image, rng), sample.target
        return self.image(sample.image), sample.target


def random_box(size: tuple[int, int], scale: Pair, ratio: Pair, rng: np.random.Generator) -> Box:
    """Left, top, right, bottom of a random crop of an image of `size` (width, height), px.

    Area uniform in `scale`, aspect ratio log-uniform in `ratio` (Inception's crop, arXiv:1409.4842, section 6); after
    ten boxes that don't fit, the largest central one with an allowed aspect ratio.
    """
    width, height = size
    for _ in range(CROP_ATTEMPTS):
        area = width * height * rng.uniform(*scale)
        aspect = np.exp(rng.uniform(*np.log(ratio)))
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, max(1, round(height * ratio[1]))), min(height, max(1, round(width / ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def jitter(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation, each times a factor uniform in 1 +- strength, in random order."""
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for which in rng.permutation(len(enhancers)):
        image = enhancers[which](image).enhance(rng.uniform(max(0.0, 1 - strength), 1 + strength))
    return image
