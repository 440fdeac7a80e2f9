"""Mixup, cutmix, random erasing, stochastic depth: what is drawn (on the host, a function of seed and step) and the cell that applies it.

The cell is part of the compiled step and takes uint8 pictures, so that a quarter of the bytes of float pictures travels.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindvit import device, kernels
from mindvit.recipe import AugmentOptions

ERASING_TRIES = 10


class Draw(NamedTuple):
    """One step's randomness. A picture's partner is the one as far from the batch's end as it is from the start (timm).

    own_label: () share of a picture's own label; own_pixel: (H, W, 1) share of its own pixels, both float32;
    boxes: (B, 4) int32 erased boxes as top, bottom, left, right (empty: none); noise: (H, W, C) float32 that fills them;
    paths: (drop paths, B) float32, uniform in 0..1.
    """

    own_label: np.ndarray
    own_pixel: np.ndarray
    boxes: np.ndarray
    noise: np.ndarray
    paths: np.ndarray


def draw(augment: AugmentOptions, *, batch: int, size: int, channels: int, paths: int, seed: int, step: int, rank: int) -> Draw:
    """What mixup, cutmix, erasing and stochastic depth do to the batch of `step` on `rank`."""
    random = np.random.Generator(np.random.PCG64([seed, step, rank]))
    own_label, own_pixel = _mix(augment, size, random)
    boxes = np.zeros((batch, 4), np.int32)
    noise = np.zeros((size, size, channels), np.float32)
    for index in np.flatnonzero(random.random(batch) < augment.re_prob):
        boxes[index] = _erased_box(augment, size, random)
    if augment.re_prob and augment.re_value == "random":
        noise = random.standard_normal(noise.shape, np.float32)
    return Draw(np.asarray(own_label, np.float32), own_pixel, boxes, noise, random.random((max(paths, 1), batch), np.float32))


def _mix(augment: AugmentOptions, size: int, random: np.random.Generator) -> tuple[float, np.ndarray]:
    own_pixel = np.ones((size, size, 1), np.float32)
    if not (augment.mixup or augment.cutmix) or random.random() >= augment.mixup_prob:
        return 1.0, own_pixel
    cut = augment.cutmix > 0 and (augment.mixup == 0 or random.random() < augment.mixup_switch_prob)
    alpha = augment.cutmix if cut else augment.mixup
    share = random.beta(alpha, alpha)
    if not cut:
        return share, own_pixel * np.float32(share)
    half = int(size * math.sqrt(1 - share)) // 2  # the box is cut off at the border, and the labels follow its true area
    middle = random.integers(0, size, 2)
    (top, left), (bottom, right) = np.clip(middle - half, 0, size), np.clip(middle + half, 0, size)
    own_pixel[top:bottom, left:right] = 0
    return float(own_pixel.mean()), own_pixel


def _erased_box(augment: AugmentOptions, size: int, random: np.random.Generator) -> Sequence[int]:
    for _ in range(ERASING_TRIES):
        area = random.uniform(*augment.re_scale) * size * size
        aspect = math.exp(random.uniform(*np.log(augment.re_ratio)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height < size and width < size:
            top, left = random.integers(0, size - height + 1), random.integers(0, size - width + 1)
            return int(top), int(top) + height, int(left), int(left) + width
    return 0, 0, 0, 0


class Normalise(nn.Cell):
    """uint8 pictures (B, H, W, C) -> normalised float32 (B, C, H, W). mean and std are of pixels in 0..1."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.factor = Tensor(1 / (255 * np.asarray(std)), ms.float32)
        self.offset = Tensor(-np.asarray(mean) / np.asarray(std), ms.float32)
        self.fused: Any = kernels.Pixels() if device.has_kernels() else None

    def construct(self, images: Tensor) -> Tensor:
        if self.fused is not None and images.dtype == ms.uint8:
            return self.fused(images, self.factor, self.offset)
        return (images.astype(ms.float32) * self.factor + self.offset).transpose(0, 3, 1, 2)


class Prepare(nn.Cell):
    """uint8 pictures (B, H, W, C) -> normalised, erased and mixed float32 (B, C, H, W). The other inputs: see Draw."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], erase: bool = False, mix: bool = False):
        super().__init__()
        self.normalise = Normalise(mean, std)
        self.erase, self.mix = erase, mix
        self.fused: Any = kernels.MixedPixels() if device.has_kernels() else None

    def construct(self, images: Tensor, own_pixel: Tensor, boxes: Tensor, noise: Tensor) -> Tensor:
        if not (self.erase or self.mix):
            return self.normalise(images)
        if self.fused is not None and images.dtype == ms.uint8:
            return self.fused(images, self.normalise.factor, self.normalise.offset, noise, boxes, own_pixel)
        x = self.normalise(images)
        if self.erase:
            x = ops.where(self.inside(boxes, x.shape[2], x.shape[3]), noise.transpose(2, 0, 1), x)
        if self.mix:
            share = own_pixel.transpose(2, 0, 1)
            x = x * share + ops.gather(x, partners(x.shape[0]), 0) * (1 - share)
        return x

    def inside(self, boxes: Tensor, height: int, width: int) -> Tensor:
        """(B, 1, H, W) bool: pixels inside each picture's box."""
        top, bottom, left, right = ops.split(boxes, 1, 1)
        y, x = ops.arange(height), ops.arange(width)
        rows, columns = ops.logical_and(y >= top, y < bottom), ops.logical_and(x >= left, x < right)
        return ops.logical_and(rows.expand_dims(2), columns.expand_dims(1)).expand_dims(1)


@ops.constexpr
def partners(batch: int) -> Tensor:
    """Whom each picture of a batch is mixed with: the batch in reverse."""
    return Tensor(np.arange(batch)[::-1].copy(), ms.int32)
