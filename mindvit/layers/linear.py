"""Products with weights, with PyTorch's parameter names, layouts and constants.

Shapes: B batch, N tokens, C channels. Tokens travel as (B*N, C): a product of two matrices is the fast one on
every device.
"""

from __future__ import annotations

from typing import Any, Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Normal, Zero, initializer

from mindvit.kernels import ops as kernels
from mindvit.runtime import platform

# timm's trunc_normal_ cuts at +-2, a hundred standard deviations away: a normal distribution.
INIT_STD = 0.02


def weight_of(shape: tuple[int, ...], init: object = None) -> Parameter:
    """A float32 parameter, normal with the papers' standard deviation unless another initializer is given."""
    return Parameter(initializer(init or Normal(INIT_STD), shape, ms.float32))


class AddRow(nn.Cell):
    """x + row, for CPUs: there a broadcast sum keeps four times its output in memory as long as the graph lives, and
    its gradient is a slow sum.

    x: (M, C); row: (C,). BiasAdd keeps nothing; the gradient of the row is a product with a row of ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self.add = ops.BiasAdd()

    def construct(self, x: Tensor, row: Tensor) -> Tensor:
        return self.add(x, row)

    def bprop(self, x: Tensor, row: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of x and row."""
        ones = ops.ones((1, x.shape[0]), gradient.dtype)
        return gradient, ops.matmul(ones, gradient).reshape(row.shape)


class Product(nn.Cell):
    """x W^T + bias with what is fastest, for cells that have the weights.

    x: (..., I); weight: (outputs, I); bias: (outputs,) or None; of one type.
    """

    def __init__(self, outputs: int):
        super().__init__()
        machine = platform.current()
        self.fused_op: Any = kernels.Linear() if machine.product_kernels else None
        self.no_bias = Tensor(np.zeros(outputs), ms.float32)
        self.dense = ops.Dense()
        self.rows = ops.MatMul(transpose_b=True)  # on a CPU the gradient of Dense transposes its operands first
        self.add_row = AddRow() if machine.slow_broadcasting else None

    def construct(self, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        if self.fused_op is not None and x.dtype == ms.float32:
            return self.fused_op(x, weight, self.no_bias if bias is None else bias)
        if self.add_row is None:
            return self.dense(x, weight, bias)
        y = self.rows(x.reshape(-1, x.shape[-1]), weight)
        return (y if bias is None else self.add_row(y, bias)).reshape(*x.shape[:-1], -1)


class Linear(nn.Cell):
    """y = x W^T + b. x: (..., inputs); W: (outputs, inputs); y: (..., outputs)."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__()
        self.weight = weight_of((outputs, inputs))
        self.bias: Any = weight_of((outputs,), Zero()) if bias else None
        self.compute_type = ms.float32
        self.product = Product(outputs)

    def construct(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.astype(self.compute_type)
        return self.product(x.astype(self.compute_type), self.weight.astype(self.compute_type), bias)
