"""Pixels to the network's input."""

from __future__ import annotations

from typing import Any, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindvit.kernels import ops as kernels
from mindvit.runtime import device


class Normalize(nn.Cell):
    """uint8 images (B, H, W, C) -> normalised float32 (B, C, H, W). mean and std are of pixels in 0..1."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.factor = Tensor(1 / (255 * np.asarray(std)), ms.float32)
        self.offset = Tensor(-np.asarray(mean) / np.asarray(std), ms.float32)
        self.fused: Any = kernels.Pixels() if device.has_kernels() else None

    def construct(self, images: Tensor) -> Tensor:
        if self.fused is not None and images.dtype == ms.uint8:
            return self.fused(images, self.factor, self.offset)
        return (images.astype(ms.float32) * self.factor + self.offset).transpose(0, 3, 1, 2)


class NormalizePadded(nn.Cell):
    """uint8 images (B, H, W, C) and their sizes (B, 2) int32, height and width of what is no padding -> normalised
    float32 (B, C, H, W), zeros beyond, as OpenMMLab pads what is normalized already.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.normalize = Normalize(mean, std)

    def construct(self, images: Tensor, sizes: Tensor) -> Tensor:
        x = self.normalize(images)
        rows = ops.arange(x.shape[2]).astype(ms.int32).reshape(1, 1, -1, 1) < sizes[:, 0].reshape(-1, 1, 1, 1)
        columns = ops.arange(x.shape[3]).astype(ms.int32).reshape(1, 1, 1, -1) < sizes[:, 1].reshape(-1, 1, 1, 1)
        return x * ops.logical_and(rows, columns).astype(x.dtype)
