"""Dropout, and residual branches with layer scale and stochastic depth."""

from __future__ import annotations

from typing import Any, Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindvit.kernels import ops as kernels
from mindvit.runtime import platform


class Dropout(nn.Cell):
    """Zeroes elements with probability `rate` while training; nothing in the graph at rate 0."""

    def __init__(self, rate: float):
        super().__init__()
        self.active = rate > 0
        self.drop = nn.Dropout(p=rate)

    def construct(self, x: Tensor) -> Tensor:
        return self.drop(x) if self.active else x


class Residual(nn.Cell):
    """x + gamma * branch, with stochastic depth (Huang et al. 2016): while training, a sample's branch is dropped with
    probability `rate`.

    x, branch: (..., C), each sample's rows beside each other, dropped together or scaled by 1 / (1 - rate);
    `batch`: the number of samples B; gamma, layer scale: (C,) or None. drop_path_scale: (cells, B) float32,
    samples' factors, 0 or 1 / (1 - rate), a row for each of the network's cells that drop (see number_drop_paths):
    what a training step passes down so that a run can be repeated, which the CPU kernel of nn.Dropout can't
    promise. Without them that is used.
    """

    def __init__(self, rate: float):
        super().__init__()
        machine = platform.current()
        self.rate = rate
        self.row = 0
        self.drop = nn.Dropout(p=rate)
        self.fused_op: Any = kernels.Residual() if machine.kernels else None
        self.fused_sum: Any = kernels.Sum() if machine.kernels else None
        self.one = Tensor([1.0], ms.float32)

    def factors(self, batch: int, drop_path_scale: Optional[Tensor]) -> Tensor:
        """Each sample's factor, (B,), or the one for all, (1,)."""
        if not (self.rate > 0 and self.training):
            return self.one
        if drop_path_scale is None:
            return self.drop(ops.ones((batch,), ms.float32))
        return drop_path_scale[self.row]

    def layer_scale(self, gamma: Optional[Parameter]) -> Tensor:
        """gamma (C,), or the one factor for all channels, (1,), where it is None."""
        return self.one if gamma is None else gamma.value()

    def construct(
        self,
        x: Tensor,
        branch: Tensor,
        batch: int,
        drop_path_scale: Optional[Tensor] = None,
        gamma: Optional[Parameter] = None,
    ) -> Tensor:
        dropping = self.rate > 0 and self.training
        fused = self.fused_op is not None and x.dtype == ms.float32 and branch.dtype == ms.float32
        if gamma is None and not dropping:
            return self.fused_sum(x, branch) if fused else x + branch
        factors = self.factors(batch, drop_path_scale)
        if fused:
            return self.fused_op(x, branch, self.layer_scale(gamma), factors)
        if gamma is not None:
            branch = gamma * branch
        if dropping:
            shape = branch.shape
            branch = (branch.reshape(batch, -1) * factors.astype(branch.dtype).expand_dims(1)).reshape(shape)
        return x + branch


def number_drop_paths(net: nn.Cell) -> list[float]:
    """Give each cell that drops anything its row of drop_path_scale; the rows' probabilities."""
    cells = [cell for _, cell in net.cells_and_names() if isinstance(cell, Residual) and cell.rate > 0]
    for row, cell in enumerate(cells):
        cell.row = row
    return [cell.rate for cell in cells]


class DropPathScale(nn.Cell):
    """Random numbers, uniform in 0..1, (cells, B) -> the factors that Residual asks for.

    drop_probs: the rows' (number_drop_paths).
    """

    def __init__(self, drop_probs: Sequence[float]):
        super().__init__()
        self.some = bool(drop_probs)
        self.drop_probs = Tensor(np.reshape(drop_probs or [0.0], (-1, 1)), ms.float32)

    def construct(self, drop_path_rand: Tensor) -> Tensor:
        if not self.some:
            return drop_path_rand
        return (drop_path_rand >= self.drop_probs).astype(ms.float32) / (1 - self.drop_probs)
