"""Multi-head attention, and the transformer block of ViT (Dosovitskiy et al. 2021).

Shapes: B batch, N tokens, C = h*d channels, h heads, d channels a head. Tokens are (B*N, C).
"""

from __future__ import annotations

from typing import Any, Optional

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from mindvit.kernels import ops as kernels
from mindvit.layers.activation import Softmax
from mindvit.layers.drop_path import Dropout, Residual
from mindvit.layers.flash import flash_attention
from mindvit.layers.linear import Linear
from mindvit.layers.mlp import Mlp
from mindvit.layers.norm import LayerNorm
from mindvit.layers.split import SplitEvenly
from mindvit.runtime import platform


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
            tokens = x.reshape(batch, -1, x.shape[1])
            return self.run_fused_branch(tokens, factors, scale, norm, grid).reshape(x.shape)
        x, y = norm.with_residual(x)
        y = self.construct(y, batch) if grid is None else self.construct(y, batch, grid)
        return residual(x, y, batch, drop_path_scale, gamma)


class HeadAttention(Attention):
    """What self-attention of any groups of tokens has.

    Products before and after, and softmax(q k^T / sqrt(d) + bias) v in h heads of d channels.
    """

    def __init__(self, channels: int, heads: int, attn_drop: float, proj_drop: float):
        super().__init__(heads, attn_drop, proj_drop)
        self.scale = (channels // heads) ** -0.5
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)
        self.split = SplitEvenly(1, 3)
        if platform.current().product_kernels and attn_drop == 0:
            self.fused_op = kernels.Attention()
            if proj_drop == 0:
                self.fused_branch = kernels.AttentionBranch()

    def run_fused_branch(
        self, x: Tensor, factors: Tensor, gamma: Tensor, norm: LayerNorm, grid: Optional[tuple[int, int]]
    ) -> Tensor:
        """The residual branch in one kernel. x: (B, N, C)."""
        numbers, bias = self.for_kernels(grid)  # a subclass's: see kernels.Attention
        products = (self.qkv.weight.value(), self.qkv.bias.value(), self.proj.weight.value(), self.proj.bias.value())
        return self.fused_branch(x, factors, gamma, norm.kernel_args(), products, numbers, bias)[0]

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
        self.thirds = SplitEvenly(2, 3)
        self.numbers, self.no_bias = kernels.attention_numbers(self.scale, heads), Tensor([0.0], ms.float32)
        self.flash = flash_attention(channels, heads, self.scale, attn_drop)

    def for_kernels(self, grid: Optional[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """The kernels' numbers and bias."""
        return self.numbers, self.no_bias

    def attend_packed(self, qkv: Tensor) -> Tensor:
        """(B, N, 3C) -> (B, N, C)."""
        if self.fused_op is not None and qkv.dtype == ms.float32:
            return self.fused_op(qkv, self.numbers, self.no_bias)
        if self.flash is not None and qkv.dtype != ms.float32:
            q, k, v = self.thirds(qkv)
            return self.flash(q, k, v)
        batch, tokens, width = qkv.shape
        y = self.attend(qkv.reshape(batch, tokens, 3 * self.heads, -1).transpose(0, 2, 1, 3))  # B h N d
        return y.transpose(0, 2, 1, 3).reshape(batch, tokens, width // 3)

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
