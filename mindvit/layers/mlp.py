"""The MLP of a transformer block."""

from __future__ import annotations

from typing import Any, Optional

import mindspore as ms
from mindspore import Parameter, Tensor, nn

from mindvit.kernels import ops as kernels
from mindvit.layers.activation import GELU
from mindvit.layers.drop_path import Dropout, Residual
from mindvit.layers.linear import Linear
from mindvit.layers.norm import LayerNorm
from mindvit.runtime import platform


class Mlp(nn.Cell):
    """Linear, activation, Linear. x: (..., C)."""

    def __init__(self, channels: int, hidden: int, drop_rate: float, activation: Optional[nn.Cell] = None):
        super().__init__()
        self.fc1 = Linear(channels, hidden)
        self.act: Any = activation or GELU()
        self.fc2 = Linear(hidden, channels)
        self.drop = Dropout(drop_rate)
        fits = platform.current().product_kernels and drop_rate == 0
        self.fused_branch: Any = kernels.MlpBranch(self.act.KERNEL) if fits else None

    def residual_branch(
        self,
        x: Tensor,
        norm: LayerNorm,
        residual: Residual,
        batch: int,
        drop_path_scale: Optional[Tensor] = None,
        gamma: Optional[Parameter] = None,
    ) -> Tensor:
        """x + gamma * mlp(norm(x)), with the residual's stochastic depth. x: (B*N, C); gamma: (C,) or None."""
        if self.fused_branch is not None and x.dtype == ms.float32 and self.fc1.compute_type == ms.float32:
            products = (self.fc1.weight.value(), self.fc1.bias.value(), self.fc2.weight.value(), self.fc2.bias.value())
            factors = residual.factors(batch, drop_path_scale)
            return self.fused_branch(x, factors, residual.layer_scale(gamma), norm.kernel_args(), products)[0]
        x, y = norm.with_residual(x)
        return residual(x, self.construct(y), batch, drop_path_scale, gamma)

    def construct(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))
