"""Mixup, cutmix and random erasing: what is sampled (on the host, from a generator that is passed in) and the cell that
applies it.

The cell is part of the compiled step and takes uint8 images, so that a quarter of the bytes of float images travels.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindvit.data.arrays import ArraySpec
from mindvit.kernels import ops as kernels
from mindvit.layers.normalize import Normalize
from mindvit.recipe.options import AugmentOptions
from mindvit.runtime import device

ERASING_TRIES = 10


class BatchAug(NamedTuple):
    """One batch's augmentation. Every image is mixed with the one as far from the batch's end as it is from the start
    (timm).

    lam: () weight of an image's own label; mix_mask: (H, W, 1) weight of its own pixels, both float32;
    erase_boxes: (B, 4) int32 erased boxes as top, bottom, left, right (empty: none); erase_noise: (H, W, C) float32
    that fills them.
    """

    lam: np.ndarray
    mix_mask: np.ndarray
    erase_boxes: np.ndarray
    erase_noise: np.ndarray


def batch_aug_spec(batch: int, size: int, channels: int) -> tuple[ArraySpec, ...]:
    """The arrays of a BatchAug; their `fill` changes nothing."""
    return (
        ArraySpec("lam", (), "float32", 1),
        ArraySpec("mix_mask", (size, size, 1), "float32", 1),
        ArraySpec("erase_boxes", (batch, 4), "int32"),
        ArraySpec("erase_noise", (size, size, channels), "float32"),
    )


def sample_batch_aug(
    augment: AugmentOptions, rng: np.random.Generator, *, batch: int, size: int, channels: int
) -> BatchAug:
    """What mixup, cutmix and erasing do to a batch of `batch` images (size, size, channels)."""
    lam, mix_mask = _sample_mix(augment, size, rng)
    boxes = np.zeros((batch, 4), np.int32)
    noise = np.zeros((size, size, channels), np.float32)
    for index in np.flatnonzero(rng.random(batch) < augment.re_prob):
        boxes[index] = _sample_box(augment, size, rng)
    if augment.re_prob and augment.re_value == "random":
        noise = rng.standard_normal(noise.shape, np.float32)
    return BatchAug(np.asarray(lam, np.float32), mix_mask, boxes, noise)


def _sample_mix(augment: AugmentOptions, size: int, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    mix_mask = np.ones((size, size, 1), np.float32)
    if not (augment.mixup or augment.cutmix) or rng.random() >= augment.mixup_prob:
        return 1.0, mix_mask
    cut = augment.cutmix > 0 and (augment.mixup == 0 or rng.random() < augment.mixup_switch_prob)
    alpha = augment.cutmix if cut else augment.mixup
    lam = rng.beta(alpha, alpha)
    if not cut:
        return lam, mix_mask * np.float32(lam)
    half = int(size * math.sqrt(1 - lam)) // 2  # the box is cut off at the border, and lam follows its true area
    center = rng.integers(0, size, 2)
    (top, left), (bottom, right) = np.clip(center - half, 0, size), np.clip(center + half, 0, size)
    mix_mask[top:bottom, left:right] = 0
    return float(mix_mask.mean()), mix_mask


def _sample_box(augment: AugmentOptions, size: int, rng: np.random.Generator) -> Sequence[int]:
    for _ in range(ERASING_TRIES):
        area = rng.uniform(*augment.re_scale) * size * size
        aspect = math.exp(rng.uniform(*np.log(augment.re_ratio)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height < size and width < size:
            top, left = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
            return int(top), int(top) + height, int(left), int(left) + width
    return 0, 0, 0, 0


class Prepare(nn.Cell):
    """uint8 images (B, H, W, C) -> normalized, erased and mixed float32 (B, C, H, W). Other inputs: see BatchAug."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], erase: bool = False, mix: bool = False):
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.erase, self.mix = erase, mix
        self.fused: Any = kernels.MixedPixels() if device.has_kernels() else None

    def construct(self, images: Tensor, mix_mask: Tensor, erase_boxes: Tensor, erase_noise: Tensor) -> Tensor:
        if not (self.erase or self.mix):
            return self.normalize(images)
        if self.fused is not None and images.dtype == ms.uint8:
            return self.fused(images, self.normalize.factor, self.normalize.offset, erase_noise, erase_boxes, mix_mask)
        x = self.normalize(images)
        if self.erase:
            x = ops.where(self.inside(erase_boxes, x.shape[2], x.shape[3]), erase_noise.transpose(2, 0, 1), x)
        if self.mix:
            mask = mix_mask.transpose(2, 0, 1)
            x = x * mask + ops.gather(x, flipped(x.shape[0]), 0) * (1 - mask)
        return x

    def inside(self, boxes: Tensor, height: int, width: int) -> Tensor:
        """(B, 1, H, W) bool: pixels inside each image's box."""
        top, bottom, left, right = ops.split(boxes, 1, 1)
        y, x = ops.arange(height), ops.arange(width)
        in_height, in_width = ops.logical_and(y >= top, y < bottom), ops.logical_and(x >= left, x < right)
        return ops.logical_and(in_height.expand_dims(2), in_width.expand_dims(1)).expand_dims(1)


@ops.constexpr
def flipped(batch: int) -> Tensor:
    """Indices of the flipped batch, with which a batch is mixed."""
    return Tensor(np.arange(batch)[::-1].copy(), ms.int32)
