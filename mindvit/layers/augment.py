"""Mixup, cutmix and random erasing of a batch of images, within the compiled step.

It takes uint8 images, so that a quarter of the bytes of float images travels.
"""

from __future__ import annotations

from typing import Any, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindvit.kernels import ops as kernels
from mindvit.layers.normalize import Normalize
from mindvit.runtime import device


class AugmentImages(nn.Cell):
    """uint8 images (B, H, W, C) -> normalized, erased and mixed float32 (B, C, H, W). Other inputs: see
    tasks.classification.augment.BatchAug."""

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
