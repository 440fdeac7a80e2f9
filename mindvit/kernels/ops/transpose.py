"""Axes in another order."""

from __future__ import annotations

from typing import Sequence

import mindspore as ms
from mindspore import Tensor, nn

from mindvit.kernels.ops.custom import Tensors, kernel


class Transpose(nn.Cell):
    """x with its axes in another order, as numpy.transpose has it."""

    def __init__(self, axes: Sequence[int]) -> None:
        super().__init__()
        inverse = tuple(sorted(range(len(axes)), key=axes.__getitem__))
        self.order, self.inverse = Tensor(axes, ms.float32), Tensor(inverse, ms.float32)
        self.forward = kernel("Transpose", lambda x, order: [x[axis] for axis in axes], 1, axes)
        self.backward = kernel("Transpose", lambda x, order: [x[axis] for axis in inverse], 1, inverse)

    def construct(self, x: Tensor) -> Tensor:
        return self.forward(x, self.order)

    def bprop(self, x: Tensor, out: Tensor, gradient: Tensor) -> Tensors:
        """Gradient of x."""
        return (self.backward(gradient, self.inverse),)
