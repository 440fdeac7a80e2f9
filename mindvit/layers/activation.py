"""Activations, and softmax."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, mint, nn, ops

from mindvit.kernels import ops as kernels
from mindvit.runtime import platform


class GELU(nn.Cell):
    """x * Phi(x), the exact form.

    nn.GELU() is the tanh approximation; ops.gelu divides where this multiplies, which is slow on a CPU.
    """

    KERNEL = "Gelu"  # kernels' name for it

    def __init__(self) -> None:
        super().__init__()
        self.fused_op: Any = kernels.Gelu() if platform.current().kernels else None
        self.direct = platform.current().direct_operators

    def construct(self, x: Tensor) -> Tensor:
        if self.fused_op is not None and x.dtype == ms.float32:
            return self.fused_op(x)
        if self.direct:
            return mint.nn.functional.gelu(x)
        return x * (ops.erf(x * 0.5**0.5) * 0.5 + 0.5)


class QuickGELU(nn.Cell):
    """x * sigmoid(1.702 x), the activation of CvT's MLPs.

    ops.fast_gelu is the same function in one kernel, but on Ascend it is off by 2e-3 (see its documentation's example).
    """

    KERNEL = "QuickGelu"

    def construct(self, x: Tensor) -> Tensor:
        return x * ops.sigmoid(1.702 * x)


class Softmax(nn.Cell):
    """Attention weights from float32 scores (..., keys).

    A cell of its own, so that a forward hook sees the weights of any attention (attention_maps).
    """

    def __init__(self) -> None:
        super().__init__()
        self.fused_op: Any = kernels.Softmax() if platform.current().kernels else None

    def construct(self, scores: Tensor) -> Tensor:
        if self.fused_op is not None:
            return self.fused_op(scores)
        return ops.softmax(scores, -1)
