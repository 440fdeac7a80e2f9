"""Number types of a network."""

from __future__ import annotations

from typing import Optional

import mindspore as ms
from mindspore import Tensor, nn

from mindvit.kernels.ops import ProductCell

FULL_PRECISION = ms.float32


def in_float32(x: Tensor) -> Tensor:
    """x as float32, whatever it was computed in."""
    return x.astype(ms.float32)


def set_precision(net: nn.Cell, level: str, half: Optional[ms.dtype.Type]) -> None:
    """Choose the number types of a network before it is compiled.

    O0: float32. O1: products in `half`, the residual stream in float32 (as PyTorch's autocast). O2, O3: the stream in
    `half` too. Norms, softmax, resizing and the master weights stay float32 at every level.

    bfloat16 on a CPU: at every level but O0 our kernels round the operands of their products to bfloat16 and add up in
    float32 (an MLP's keep what its gradient needs in bfloat16); all else stays float32, for the framework's operators
    know no bfloat16 there.
    """
    compute = ms.float32 if level == "O0" or half is None else half
    in_kernels = compute == ms.bfloat16 and ms.get_context("device_target") == "CPU"
    if in_kernels:
        compute = ms.float32
    for _, cell in net.cells_and_names():
        if isinstance(cell, ProductCell):
            cell.use_bfloat16(in_kernels)
        if hasattr(cell, "compute_type"):
            cell.compute_type = compute
        if hasattr(cell, "stream_type"):
            cell.stream_type = compute if level in ("O2", "O3") else ms.float32
