"""Batch normalization by the statistics of all ranks: ranks with parts of a batch take the step that one would take
with the whole.
"""

from __future__ import annotations

from typing import Any

from mindspore import Tensor, nn, ops

from mindvit.layers.conv import FeatureLayout
from mindvit.layers.norm import BatchNorm


class SumOverRanks(nn.Cell):
    """x summed over all ranks. The gradient is summed too, for every rank's loss depends on every rank's x."""

    def __init__(self) -> None:
        super().__init__()
        self.all_reduce = ops.AllReduce()

    def construct(self, x: Tensor) -> Tensor:
        return self.all_reduce(x)

    def bprop(self, x: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor]:
        """Gradient of x."""
        return (self.all_reduce(gradient),)


class SyncBatchNorm(nn.Cell):
    """What BatchNorm computes of maps while training, by the mean and variance of all ranks' maps, in float32.

    The mean is summed over the ranks first and then the squares of what is left, which loses no digits where the mean
    is large. ranks: how many there are; each must have as many places as the others. `across`: the sum over ranks, for
    tests.
    """

    def __init__(self, ranks: int, across: Any = None):
        super().__init__()
        self.ranks = ranks
        self.layout = FeatureLayout()
        self.across = SumOverRanks() if across is None else across

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor) -> Tensor:
        axis = self.layout.channel_axis
        axes = tuple([place for place in range(4) if place != axis])
        shape = tuple([x.shape[axis] if place == axis else 1 for place in range(4)])
        count = self.ranks * (x.size // x.shape[axis])
        mean = self.across(x.sum(axes)) / count
        centred = x - mean.reshape(shape)
        variance = self.across((centred * centred).sum(axes)) / count
        y = centred * ops.rsqrt(variance + BatchNorm.EPS).reshape(shape) * weight.reshape(shape) + bias.reshape(shape)
        unbiased = variance * (count / max(count - 1, 1))
        keep = 1 - BatchNorm.MOMENTUM
        moved = (
            ops.assign(running_mean, ops.stop_gradient(running_mean * keep + mean * BatchNorm.MOMENTUM)),
            ops.assign(running_var, ops.stop_gradient(running_var * keep + unbiased * BatchNorm.MOMENTUM)),
        )
        return ops.depend(y, moved)


def synchronize_batch_norm(net: nn.Cell, ranks: int) -> int:
    """Let every BatchNorm of a network normalize by all ranks' statistics from now on; how many there are.

    Of one rank nothing changes. Kernels that hold a BatchNorm within them are left out for plain cells.
    """
    found = 0
    for _, cell in net.cells_and_names():
        if isinstance(cell, BatchNorm):
            found += 1
            cell.sync_op = SyncBatchNorm(ranks) if ranks > 1 else None
        if ranks > 1 and getattr(cell, "holds_batch_norm", False):
            cell.fused_branch = None
    if hasattr(net, "compile_cache"):
        net.compile_cache.clear()
    return found
