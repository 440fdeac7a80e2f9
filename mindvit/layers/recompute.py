"""Activations that are computed again in the backward pass instead of being kept from the forward pass."""

from __future__ import annotations

import mindspore as ms
from mindspore import nn

from mindvit.errors import UserError
from mindvit.layers.drop_path import Dropout, Residual
from mindvit.layers.norm import BatchNorm


def set_recompute(net: nn.Cell) -> None:
    """Let a network's blocks keep less for the backward pass. To be called before the network is compiled.

    Our kernels of residual branches then keep their inputs alone. On NPUs and GPUs MindSpore recomputes whole blocks,
    which must do no harm when they are computed twice: dropout would draw other numbers, and batch normalization
    moves its running statistics a second time.

    Raises:
        UserError: the network can't be recomputed here.
    """
    cells = [cell for _, cell in net.cells_and_names()]
    branches = [cell for cell in cells if hasattr(cell, "recomputes")]
    for branch in branches:
        branch.recomputes = True
    if branches:
        return
    if ms.get_context("device_target") == "CPU":
        raise UserError(
            "recompute is True, but on a CPU only our kernels recompute, and this network has none: they need a C++ "
            "compiler, and no dropout in attention and MLPs (leave recompute out)"
        )
    blocks = [cell for cell in cells if any(isinstance(child, Residual) for child in cell.cells())]
    if any(map(_computes_once, blocks)):
        raise UserError(
            "recompute is True, but this network's blocks have batch normalization or dropout, which MindSpore would "
            "compute twice (leave recompute out)"
        )
    for block in blocks:
        block.recompute()


def _computes_once(block: nn.Cell) -> bool:
    cells = [cell for _, cell in block.cells_and_names()]
    return any(isinstance(cell, BatchNorm) or (isinstance(cell, Dropout) and cell.active) for cell in cells)
