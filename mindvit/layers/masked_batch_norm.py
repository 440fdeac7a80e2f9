"""Batch normalization of maps of which some are padding."""

from __future__ import annotations

from typing import Optional

import mindspore as ms
from mindspore import Tensor, ops

from mindvit.layers.conv import FeatureLayout
from mindvit.layers.norm import BatchNorm


class MaskedBatchNorm(BatchNorm):
    """As BatchNorm, by the mean and variance of the maps that count alone while training, in float32.

    x: maps of K boxes; counts: (K,) float32, 1 or 0; None: all count. Ranks may have different numbers of maps that
    count: with synchronize_batch_norm all are seen together.
    """

    def __init__(self, channels: int):
        super().__init__(channels)
        self.layout = FeatureLayout()

    def construct(self, x: Tensor, counts: Optional[Tensor] = None) -> Tensor:
        if counts is None or not self.training:
            return super().construct(x)
        kind, x = x.dtype, x.astype(ms.float32)
        if self.fused_op is not None and self.sync_op is None:
            return self.fused(x, counts).astype(kind)
        axis = self.layout.channel_axis
        axes = tuple([place for place in range(4) if place != axis])
        shape = tuple([x.shape[axis] if place == axis else 1 for place in range(4)])
        weights = counts.reshape((1, -1, 1, 1) if axis == 0 else (-1, 1, 1, 1))
        number = counts.sum().reshape(1) * (x.size // x.shape[axis] // counts.shape[0])
        total = (x * weights).sum(axes)
        if self.sync_op is not None:
            # in one message: of two that wait for nothing, each rank may send another first
            both = self.sync_op.across(ops.cat((number, total)))
            number, total = both[:1], both[1:]
        number = ops.maximum(number, Tensor(1, ms.float32))
        mean = total / number
        centred = x - mean.reshape(shape)
        squares = (centred * centred * weights).sum(axes)
        if self.sync_op is not None:
            squares = self.sync_op.across(squares)
        variance = squares / number
        y = centred * ops.rsqrt(variance + self.EPS).reshape(shape) * self.weight.reshape(shape)
        y = y + self.bias.reshape(shape)
        unbiased = squares / ops.maximum(number - 1, Tensor(1, ms.float32))
        keep, moved = 1 - self.MOMENTUM, self.MOMENTUM
        changed = (
            ops.assign(self.running_mean, ops.stop_gradient(self.running_mean * keep + mean * moved)),
            ops.assign(self.running_var, ops.stop_gradient(self.running_var * keep + unbiased * moved)),
        )
        return ops.depend(y, changed).astype(kind)
