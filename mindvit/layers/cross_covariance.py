"""Cross-covariance attention: among channels instead of tokens (XCiT, El-Nouby et al. 2021).

Shapes: B batch, N tokens, C = h*d channels, h heads, d channels a head. Tokens are (B*N, C).
"""

from __future__ import annotations

from typing import Optional

import mindspore as ms
from mindspore import Tensor, ops

from mindvit.kernels import ops as kernels
from mindvit.layers.attention import Attention
from mindvit.layers.linear import Linear, weight_of
from mindvit.layers.norm import LayerNorm
from mindvit.layers.split import SplitEvenly
from mindvit.runtime import platform

NORMALIZE_EPS = 1e-12  # torch's for F.normalize


class CrossCovarianceAttention(Attention):
    """softmax(temperature * q k^T) v over the d channels of each head, q and k normalized along the tokens (section
    3.2).

    x: (B*N, C). Without the normalization (MindCV) it is another network. There is no 1 / sqrt(d): the learned
    temperature stands for it.
    """

    def __init__(self, channels: int, heads: int, attn_drop: float, proj_drop: float):
        super().__init__(heads, attn_drop, proj_drop)
        self.temperature = weight_of((heads, 1, 1), "ones")
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)
        self.split = SplitEvenly(1, 3)
        if platform.current().product_kernels and attn_drop == 0:
            self.fused_op = kernels.CrossCovariance(NORMALIZE_EPS)
            if proj_drop == 0:
                self.fused_branch = kernels.CrossCovarianceBranch(NORMALIZE_EPS)

    def run_fused_branch(
        self, x: Tensor, factors: Tensor, gamma: Tensor, norm: LayerNorm, grid: Optional[tuple[int, int]]
    ) -> Tensor:
        """The residual branch in one kernel. x: (B, N, C)."""
        products = (self.qkv.weight.value(), self.qkv.bias.value(), self.proj.weight.value(), self.proj.bias.value())
        return self.fused_branch(x, factors, gamma, norm.kernel_args(), products, self.temperature.value())[0]

    def normalized(self, x: Tensor) -> Tensor:
        """(B, h, d, N), every channel divided by its length over the tokens, in float32: sums of squares leave
        float16's range.
        """
        shape = x.shape
        x = x.astype(ms.float32).reshape(-1, shape[3])
        squares = (x * x).sum(1, keepdims=True)
        return (x * ops.rsqrt(ops.maximum(squares, NORMALIZE_EPS**2))).astype(self.compute_type).reshape(shape)

    def attend(self, qkv: Tensor) -> Tensor:
        """(B, N, 3C) -> (B, N, C)."""
        if self.fused_op is not None and self.compute_type == ms.float32:
            return self.fused_op(qkv, self.temperature.value())[0]
        batch, tokens, width = qkv.shape
        q, k, v = self.split(qkv.transpose(0, 2, 1).reshape(batch, 3 * self.heads, -1, tokens))  # B h d N, each
        scores = self.scores(self.normalized(q), self.normalized(k)).astype(ms.float32) * self.temperature  # B h d d
        weights = self.attn_drop(self.softmax(scores)).astype(self.compute_type)
        return self.mix(weights, v).reshape(batch, width // 3, tokens).transpose(0, 2, 1)

    def construct(self, x: Tensor, batch: int) -> Tensor:
        rows, channels = x.shape
        y = self.attend(self.qkv(x).reshape(batch, rows // batch, 3 * channels))  # B N C
        return self.proj_drop(self.proj(y.reshape(rows, channels)))
