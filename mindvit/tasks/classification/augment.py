"""Mixup, cutmix and random erasing: what is sampled, on the host, from a generator that is passed in. layers.augment
applies it."""

from __future__ import annotations

import math
from typing import NamedTuple, Sequence

import numpy as np

from mindvit.data.arrays import ArraySpec
from mindvit.recipe.options import AugmentOptions

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
