"""XCiT's local patch interaction (El-Nouby et al. 2021, section 3.3)."""

from __future__ import annotations

from typing import Any, Optional

import mindspore as ms
from mindspore import Parameter, Tensor, nn

from mindvit.kernels import ops as kernels
from mindvit.layers.activation import GELU
from mindvit.layers.conv import DepthwiseConv3x3, FeatureLayout
from mindvit.layers.drop_path import Residual
from mindvit.layers.norm import BatchNorm, LayerNorm
from mindvit.runtime import platform


class LocalPatchInteraction(nn.Cell):
    """Two 3x3 depth-wise convolutions on the grid, GELU and then BatchNorm between them. x: (B*N, C)."""

    def __init__(self, channels: int):
        super().__init__()
        self.layout = FeatureLayout()
        self.conv1 = DepthwiseConv3x3(channels)
        self.act = GELU()
        self.bn = BatchNorm(channels)
        self.conv2 = DepthwiseConv3x3(channels)
        self.compute_type = ms.float32
        self.holds_batch_norm = True  # the kernel takes this rank's statistics alone
        fits = platform.current().kernels
        self.fused_branch: Any = kernels.LocalBranch(BatchNorm.EPS, BatchNorm.MOMENTUM) if fits else None
        self.running_branch: Any = kernels.RunningLocalBranch(BatchNorm.EPS) if fits else None

    def residual_branch(
        self,
        x: Tensor,
        norm: LayerNorm,
        residual: Residual,
        batch: int,
        grid: tuple[int, int],
        drop_path_scale: Optional[Tensor],
        gamma: Parameter,
    ) -> Tensor:
        """x + gamma * self(norm(x)), with the residual's stochastic depth. x: (B*N, C); grid: (H, W); gamma: (C,)."""
        fits = self.fused_branch is not None and x.dtype == ms.float32 and self.compute_type == ms.float32
        if fits:
            bn = (self.bn.weight.value(), self.bn.bias.value(), self.bn.running_mean, self.bn.running_var)
            conv1, conv2 = self.conv1.kernel_args(), self.conv2.kernel_args()
            factors = residual.factors(batch, drop_path_scale)
            maps = x.reshape(batch, grid[0], grid[1], -1)
            if self.bn.training:  # two calls, as profiles know a cell by the name it is called by
                y = self.fused_branch(maps, factors, gamma.value(), norm.kernel_args(), conv1, bn, conv2)[0]
            else:
                y = self.running_branch(maps, factors, gamma.value(), norm.kernel_args(), conv1, bn, conv2)[0]
            return y.reshape(x.shape)
        x, y = norm.with_residual(x)
        return residual(x, self.construct(y, batch, grid), batch, drop_path_scale, gamma)

    def construct(self, x: Tensor, batch: int, grid: tuple[int, int]) -> Tensor:
        x = self.conv1(self.layout.from_tokens(x, batch, grid[0], grid[1]))
        return self.layout.to_tokens(
            self.conv2(self.bn(self.act(x)))
        )  # GELU before BatchNorm: released weights depend on it
