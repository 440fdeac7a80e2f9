"""Axes in another order."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn

from mindvit.kernels import ops as kernels
from mindvit.runtime import platform


class Transpose(nn.Cell):
    """x with its axes in another order, as numpy.transpose has it.

    On CPUs MindSpore's operator keeps eight bytes for each value, where it comes from, as long as its graph lives; our
    kernel keeps nothing.
    """

    def __init__(self, *axes: int):
        super().__init__()
        self.axes = axes
        self.fused_op: Any = kernels.Transpose(axes) if platform.current().kernels else None

    def construct(self, x: Tensor) -> Tensor:
        if self.fused_op is not None and x.dtype == ms.float32:
            return self.fused_op(x)
        return x.transpose(self.axes)
