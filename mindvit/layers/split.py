"""Cutting a tensor into pieces along an axis."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from mindvit.runtime import platform


class Split(nn.Cell):
    """x -> pieces of the given sizes along `axis`.

    Slices are older operators of an NPU, two for each piece with the gradient's; SplitWithSize, which a CPU doesn't
    have, is one for all, and so is its gradient.
    """

    def __init__(self, axis: int):
        super().__init__()
        self.axis = axis
        self.direct = platform.current().direct_operators
        self.operator = ops.auto_generate.SplitWithSize()

    def construct(self, x: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
        if self.direct:
            return self.operator(x, sizes, self.axis)
        return ops.split(x, sizes, self.axis)


class SplitEvenly(nn.Cell):
    """x -> `pieces` of one size along `axis`."""

    def __init__(self, axis: int, pieces: int):
        super().__init__()
        self.axis, self.pieces = axis, pieces
        self.split, self.operator = Split(axis), ops.Split(axis, pieces)

    def construct(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.split.direct:
            return self.split(x, (x.shape[self.axis] // self.pieces,) * self.pieces)
        return self.operator(x)
