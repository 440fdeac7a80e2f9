"""Maps (layers.conv) of another height and width, by a constant matrix along each axis: bilinear, nearest, averages.

One operator and its gradient (the same with the matrices transposed) serve all three. The matrices hold few values
that are not zero; our own kernel skips the zeros.
"""

from __future__ import annotations

from typing import Any, Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindvit.kernels import ops as kernels
from mindvit.layers.conv import FeatureLayout
from mindvit.runtime import platform


def bilinear_places(inputs: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Where PyTorch's bilinear resizing with align_corners=False, without antialias, looks for each output: (outputs,)
    int64, the input before it, and (outputs,) float32, the share of the one after that.
    """
    scale = np.float32(inputs) / np.float32(outputs)
    centre = np.maximum(scale * (np.arange(outputs, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
    low = np.minimum(centre.astype(np.int64), inputs - 1)
    return low, (centre - low).astype(np.float32)


def bilinear_matrix(inputs: int, outputs: int) -> np.ndarray:
    """(outputs, inputs) float32 matrix of bilinear resizing."""
    low, share = bilinear_places(inputs, outputs)
    matrix = np.zeros((outputs, inputs), np.float32)
    np.add.at(matrix, (np.arange(outputs), low), 1 - share)
    np.add.at(matrix, (np.arange(outputs), np.minimum(low + 1, inputs - 1)), share)
    return matrix


def nearest_matrix(inputs: int, outputs: int) -> np.ndarray:
    """(outputs, inputs) float32 matrix of PyTorch's nearest-neighbour resizing: output i takes input i * inputs /
    outputs, rounded down.
    """
    scale = np.float32(inputs) / np.float32(outputs)
    places = np.minimum((np.arange(outputs, dtype=np.float32) * scale).astype(np.int64), inputs - 1)
    return np.eye(inputs, dtype=np.float32)[places]


def average_matrix(inputs: int, outputs: int) -> np.ndarray:
    """(outputs, inputs) float32 matrix of adaptive average pooling: output i is the mean of inputs floor(i * inputs /
    outputs) to ceil((i + 1) * inputs / outputs) - 1.
    """
    first = np.arange(outputs) * inputs // outputs
    last = -(-(np.arange(outputs) + 1) * inputs // outputs)
    places = np.arange(inputs)
    inside = (places >= first[:, None]) & (places < last[:, None])
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)


def every_second_matrix(inputs: int, outputs: int) -> np.ndarray:
    """(outputs, inputs) float32: output i takes input 2 i. The framework's gradient of such a slice fails for an odd
    number of inputs.
    """
    return np.eye(inputs, dtype=np.float32)[2 * np.arange(outputs)]


MATRICES: dict[str, Callable[[int, int], np.ndarray]] = {
    "bilinear": bilinear_matrix,
    "nearest": nearest_matrix,
    "average": average_matrix,
    "every_second": every_second_matrix,
}


@ops.constexpr
def resizing_matrix(rule: str, inputs: int, outputs: int) -> Tensor:
    """(outputs, inputs) by a rule of MATRICES, a constant of the graph."""
    return Tensor(MATRICES[rule](inputs, outputs))


@ops.constexpr
def _transposed_matrix(rule: str, inputs: int, outputs: int) -> Tensor:
    return Tensor(np.ascontiguousarray(MATRICES[rule](inputs, outputs).T))


class Resample(nn.Cell):
    """Maps -> maps of height x width, in float32, by a rule of MATRICES."""

    def __init__(self, rule: str):
        super().__init__()
        self.rule = rule
        self.layout = FeatureLayout()
        self.fused_op: Any = kernels.ResizeMaps() if platform.current().kernels else None

    def construct(self, x: Tensor, height: int, width: int) -> Tensor:
        kind = x.dtype
        grid = self.layout.grid(x)
        if grid == (height, width):
            return x
        x = x.astype(ms.float32)
        if self.fused_op is not None:
            rows = (resizing_matrix(self.rule, grid[0], height), resizing_matrix(self.rule, grid[1], width))
            columns = (
                _transposed_matrix(self.rule, grid[0], height),
                _transposed_matrix(self.rule, grid[1], width),
            )
            return self.fused_op(x, rows[0], rows[1], columns[0], columns[1]).astype(kind)
        first, second = x.shape[:2]
        x = ops.matmul(x.reshape(-1, grid[1]), _transposed_matrix(self.rule, grid[1], width))
        x = x.reshape(first, second, grid[0], width).transpose(0, 1, 3, 2)
        x = ops.matmul(x.reshape(-1, grid[0]), _transposed_matrix(self.rule, grid[0], height))
        return x.reshape(first, second, width, height).transpose(0, 1, 3, 2).astype(kind)


class ResizedImages(nn.Cell):
    """Maps -> images (B, C, height, width), float32, bilinear. What is transposed is the smaller ones."""

    def __init__(self) -> None:
        super().__init__()
        self.layout = FeatureLayout()
        self.resample = Resample("bilinear")
        self.fused_op: Any = kernels.Resize() if platform.current().kernels else None

    def construct(self, x: Tensor, height: int, width: int) -> Tensor:
        if self.fused_op is None:
            return self.layout.to_images(self.resample(x.astype(ms.float32), height, width))
        grid = self.layout.grid(x)
        rows = resizing_matrix("bilinear", grid[0], height)
        columns = resizing_matrix("bilinear", grid[1], width)
        return self.fused_op(self.layout.to_images(x.astype(ms.float32)), rows, columns)


class Enlarge(nn.Cell):
    """Maps -> maps with both sides twice as long, bilinear."""

    def __init__(self) -> None:
        super().__init__()
        self.layout = FeatureLayout()
        self.resample = Resample("bilinear")

    def construct(self, x: Tensor) -> Tensor:
        height, width = self.layout.grid(x)
        return self.resample(x, 2 * height, 2 * width)


class AdaptiveAveragePool(nn.Cell):
    """Maps -> maps of side x side means."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side
        self.resample = Resample("average")

    def construct(self, x: Tensor) -> Tensor:
        return self.resample(x, self.side, self.side)
