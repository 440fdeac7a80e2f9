"""Multi-head attention, and the transformer block of ViT (Dosovitskiy et al. 2021).

Shapes: B batch, N tokens, C = h*d channels, h heads, d channels a head, G tokens a group. Tokens are (B*N, C).
"""

from __future__ import annotations

from typing import Any, Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindvit.kernels import ops as kernels
from mindvit.layers.activation import Softmax
from mindvit.layers.drop_path import Dropout, Residual
from mindvit.layers.flash import flash_attention
from mindvit.layers.linear import Linear
from mindvit.layers.mlp import Mlp
from mindvit.layers.norm import LayerNorm
from mindvit.layers.split import SplitEvenly
from mindvit.layers.transpose import Transpose
from mindvit.runtime import platform

Axis = tuple[
    int, int, int
]  # regions, tokens of a group, interval: token (region * tokens + i) * interval + g is the i-th of its group


@ops.constexpr
def _no_mask(tokens: int) -> Tensor:
    """Zeros (1, 1, 1, tokens)."""
    return Tensor(np.zeros((1, 1, 1, tokens), np.float32))


class Attention(nn.Cell):
    """What attention of any kind has: heads, dropout, the softmax, and its residual branch.

    `construct(x, batch)` or, for attentions on a grid of tokens, `construct(x, batch, grid)`.
    """

    def __init__(self, heads: int, attn_drop: float, proj_drop: float):
        super().__init__()
        self.heads = heads
        self.compute_type = ms.float32
        self.attn_drop = Dropout(attn_drop)
        self.proj_drop = Dropout(proj_drop)
        self.softmax = Softmax()
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.mix = ops.BatchMatMul()
        # kernels, where this machine has them: of the attention alone, and of its whole residual branch
        self.fused_op: Any = None
        self.fused_branch: Any = None
        self.flash: Any = None

    def residual_branch(
        self,
        x: Tensor,
        norm: LayerNorm,
        residual: Residual,
        batch: int,
        drop_path_scale: Optional[Tensor] = None,
        gamma: Optional[Parameter] = None,
        grid: Optional[tuple[int, int]] = None,
    ) -> Tensor:
        """x + gamma * attention(norm(x)), with the residual's stochastic depth. x: (B*N, C); gamma: (C,) or None."""
        if self.fused_branch is not None and x.dtype == ms.float32 and self.compute_type == ms.float32:
            factors, scale = residual.factors(batch, drop_path_scale), residual.layer_scale(gamma)
            return self.run_fused_branch(x.reshape(batch, -1, x.shape[1]), factors, scale, norm).reshape(x.shape)
        x, y = norm.with_residual(x)
        y = self.construct(y, batch) if grid is None else self.construct(y, batch, grid)
        return residual(x, y, batch, drop_path_scale, gamma)


class HeadAttention(Attention):
    """What self-attention of any groups of tokens has.

    Products before and after, and softmax(q k^T / sqrt(d) + bias) v in h heads of d channels.
    """

    def __init__(self, channels: int, heads: int, attn_drop: float, proj_drop: float, biased: bool = False):
        super().__init__(heads, attn_drop, proj_drop)
        self.scale = (channels // heads) ** -0.5
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)
        self.split = SplitEvenly(1, 3)
        self.thirds = SplitEvenly(2, 3)
        self.to_groups, self.from_groups = Transpose(0, 2, 3, 5, 1, 4, 6), Transpose(0, 4, 1, 2, 5, 3, 6)
        if platform.current().product_kernels and attn_drop == 0:
            self.fused_op = (kernels.BiasedAttention if biased else kernels.Attention)(heads, self.scale)
        if not biased:
            self.flash = flash_attention(channels, heads, self.scale, attn_drop)

    def attend_packed(self, qkv: Tensor) -> Tensor:
        """(groups of tokens, N, 3C) -> (groups, N, C)."""
        if self.fused_op is not None and qkv.dtype == ms.float32:
            return self.fused_op(qkv)
        if self.flash is not None and qkv.dtype != ms.float32:
            q, k, v = self.thirds(qkv)
            return self.flash(q, k, v)
        groups, tokens, width = qkv.shape
        y = self.attend(qkv.reshape(groups, tokens, 3 * self.heads, -1).transpose(0, 2, 1, 3))  # groups h N d
        return y.transpose(0, 2, 1, 3).reshape(groups, tokens, width // 3)

    def attend_groups(self, qkv: Tensor, down: Axis, across: Axis, bias: Tensor, mask: Optional[Tensor]) -> Tensor:
        """Attention among the tokens of each group of a grid, which `down` and `across` cut it into.

        qkv: (B, H, W, 3C) -> (B, H, W, C). Rows and columns are (n r i) and (m s j): n x m regions of groups of r
        x s tokens, of which each region has i x j, interleaved. In einops' words: "b (n r i) (m s j) c -> (b n i m
        j) (r s) c". bias: (h, G, G) float32, and mask: (groups of a sample, 1, 1, G), added to the scores.
        """
        batch, height, width, channels = qkv.shape
        (n, r, i), (m, s, j) = down, across
        if self.fused_op is not None and qkv.dtype == ms.float32:
            qkv = self.to_groups(qkv.reshape(batch * n, r, i, m, s, j, channels))
            qkv = qkv.reshape(-1, r * s, channels)  # B*groups G 3C
            y = self.fused_op(qkv, bias, _no_mask(r * s) if mask is None else mask)  # B*groups G C
            y = self.from_groups(y.reshape(batch * n, i, m, j, r, s, -1))
        else:
            qkv = qkv.reshape(batch * n, r, i, m, s, j, 3 * self.heads, -1).transpose(0, 2, 3, 5, 6, 1, 4, 7)
            added = bias if mask is None else bias + mask  # (groups) h G G
            y = self.attend(qkv.reshape(-1, 3 * self.heads, r * s, qkv.shape[7]), added)  # B*groups h G d
            y = y.reshape(batch * n, i, m, j, self.heads, r, s, -1).transpose(0, 5, 1, 2, 6, 3, 4, 7)
        return y.reshape(batch, height, width, -1)

    def attend(self, qkv: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        """(groups of tokens, 3h, N, d) -> (groups, h, N, d).

        bias: (h, N, N) or (groups of a sample, h, N, N) float32, added to the scores.
        """
        q, k, v = self.split(qkv)
        scores = self.scores(q * self.scale, k).astype(ms.float32)  # groups h N N
        if bias is not None:
            scores = (scores.reshape(-1, *bias.shape) + bias).reshape(scores.shape)
        weights = self.softmax(scores)
        return self.mix(self.attn_drop(weights).astype(self.compute_type), v)


class SelfAttention(HeadAttention):
    """Each token attends to the N of its sample. x: (B*N, C)."""

    def __init__(self, channels: int, heads: int, attn_drop: float, proj_drop: float):
        super().__init__(channels, heads, attn_drop, proj_drop)
        if self.fused_op is not None and proj_drop == 0:
            self.fused_branch = kernels.AttentionBranch(heads, self.scale)

    def run_fused_branch(self, x: Tensor, factors: Tensor, gamma: Tensor, norm: LayerNorm) -> Tensor:
        """The residual branch in one kernel. x: (B, N, C)."""
        products = (self.qkv.weight.value(), self.qkv.bias.value(), self.proj.weight.value(), self.proj.bias.value())
        return self.fused_branch(x, factors, gamma, norm.kernel_args(), products)[0]

    def construct(self, x: Tensor, batch: int) -> Tensor:
        rows, channels = x.shape
        y = self.attend_packed(self.qkv(x).reshape(batch, rows // batch, 3 * channels))
        return self.proj_drop(self.proj(y.reshape(rows, channels)))


class MixedAttention(Attention):
    """What attention has whose queries are of other tokens than its keys and values."""

    def __init__(self, channels: int, heads: int, scale: float, attn_drop: float, proj_drop: float):
        super().__init__(heads, attn_drop, proj_drop)
        self.scale = scale
        if platform.current().product_kernels and attn_drop == 0:
            self.fused_op = kernels.MixedAttention(heads, scale)
        self.flash = flash_attention(channels, heads, scale, attn_drop)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, batch: int) -> Tensor:
        """softmax(scale q k^T) v in each head: queries (B*M, C), keys and values (B*N, C) -> (B*M, C)."""
        rows, channels = q.shape
        fused = self.fused_op is not None and self.compute_type == ms.float32
        if fused or (self.flash is not None and self.compute_type != ms.float32):
            q, k, v = q.reshape(batch, -1, channels), k.reshape(batch, -1, channels), v.reshape(batch, -1, channels)
            y = self.fused_op(q, k, v) if fused else self.flash(q, k, v)  # B M C
            return y.reshape(rows, channels)
        q = self.split_heads(q * self.scale, batch)  # B h M d
        k, v = self.split_heads(k, batch), self.split_heads(v, batch)
        weights = self.softmax(self.scores(q, k).astype(ms.float32))  # B h M N
        y = self.mix(self.attn_drop(weights).astype(self.compute_type), v)  # B h M d
        return y.transpose(0, 2, 1, 3).reshape(rows, channels)

    def split_heads(self, x: Tensor, batch: int) -> Tensor:
        """(B*N, C) -> (B, h, N, d)."""
        return x.reshape(batch, -1, self.heads, x.shape[1] // self.heads).transpose(0, 2, 1, 3)


class Block(nn.Cell):
    """x + attention(norm(x)), then x + MLP(norm(x)). x: (B*N, C).

    grid: height and width in tokens, for attentions that ask for it.
    """

    def __init__(
        self,
        channels: int,
        attention: nn.Cell,
        mlp_ratio: float,
        eps: float,
        drop: float,
        drop_path: float,
        activation: Optional[nn.Cell] = None,
    ):
        super().__init__()
        self.norm1 = LayerNorm(channels, eps)
        self.attn = attention
        self.residual1 = Residual(drop_path)
        self.norm2 = LayerNorm(channels, eps)
        self.mlp = Mlp(channels, int(channels * mlp_ratio), drop, activation)
        self.residual2 = Residual(drop_path)

    def construct(
        self, x: Tensor, batch: int, drop_path_scale: Optional[Tensor] = None, grid: Optional[tuple[int, int]] = None
    ) -> Tensor:
        x = self.attn.residual_branch(x, self.norm1, self.residual1, batch, drop_path_scale, None, grid)
        return self.mlp.residual_branch(x, self.norm2, self.residual2, batch, drop_path_scale)
