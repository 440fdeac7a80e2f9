"""Bicubic resizing as two products with constant matrices: exact, and fast where matrix products are fast (our own
kernel skips the zeros).
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindvit.kernels import ops as kernels
from mindvit.runtime import platform

CUBIC_A = -0.75  # PyTorch's; TensorFlow-style kernels use -0.5


def cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -0.75 at `distance` >= 0 (Keys 1981, eq. 4)."""
    t = np.abs(distance)
    near = ((CUBIC_A + 2) * t - (CUBIC_A + 3)) * t * t + 1
    far = CUBIC_A * (((t - 5) * t + 8) * t - 4)
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def bicubic_matrix(inputs: int, outputs: int) -> np.ndarray:
    """(outputs, inputs) float32 matrix that resizes one axis: half-pixel centres, replicated border, no antialias."""
    # PyTorch's coordinates: a float32 scale, one fused multiply-add, rounded to float32
    scale = np.float64(np.float32(inputs) / np.float32(outputs))
    centre = (scale * (np.arange(outputs) + 0.5) - 0.5).astype(np.float32)
    first = np.floor(centre).astype(int)
    matrix = np.zeros((outputs, inputs))
    for tap in range(-1, 3):
        column = np.clip(first + tap, 0, inputs - 1)
        np.add.at(matrix, (np.arange(outputs), column), cubic(centre - (first + tap)))
    return matrix.astype(np.float32)


@ops.constexpr
def _matrix(inputs: int, outputs: int) -> Tensor:
    return Tensor(bicubic_matrix(inputs, outputs))


@ops.constexpr
def _transposed_matrix(inputs: int, outputs: int) -> Tensor:
    return Tensor(np.ascontiguousarray(bicubic_matrix(inputs, outputs).T))


class BicubicResize(nn.Cell):
    """x: (B, C, H, W) -> (B, C, size, size), in float32."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size
        self.fused_op: Any = kernels.Resize() if platform.current().kernels else None

    def construct(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        if self.fused_op is not None:
            return self.fused_op(x.astype(ms.float32), _matrix(height, self.size), _matrix(width, self.size))
        x = ops.matmul(x.reshape(-1, width), _transposed_matrix(width, self.size))
        x = x.reshape(batch, channels, height, self.size).transpose(0, 1, 3, 2)
        x = ops.matmul(x.reshape(-1, height), _transposed_matrix(height, self.size))
        return x.reshape(batch, channels, self.size, self.size).transpose(0, 1, 3, 2)
