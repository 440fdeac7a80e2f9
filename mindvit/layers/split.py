"""Cutting a tensor into pieces by the operator that suits the machine."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from mindvit.runtime import platform


class SplitTokens(nn.Cell):
    """(B, N, C) -> the `first` tokens (B, first, C), and the others.

    Slices are older operators of an NPU, two for each piece with the gradient's; SplitWithSize, which a CPU doesn't
    have, is one for both, and so is its gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        self.direct = platform.current().direct_operators
        self.operator = ops.auto_generate.SplitWithSize()

    def construct(self, x: Tensor, first: int) -> tuple[Tensor, Tensor]:
        if self.direct:
            return self.operator(x, (first, x.shape[1] - first), 1)
        return x[:, :first], x[:, first:]


class SplitEvenly(nn.Cell):
    """x -> `pieces` of one size along `axis`."""

    def __init__(self, axis: int, pieces: int):
        super().__init__()
        self.axis, self.pieces = axis, pieces
        self.direct = platform.current().direct_operators
        self.sized, self.even = ops.auto_generate.SplitWithSize(), ops.Split(axis, pieces)

    def construct(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.direct:
            return self.sized(x, (x.shape[self.axis] // self.pieces,) * self.pieces, self.axis)
        return self.even(x)
