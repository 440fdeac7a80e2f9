"""Multi-head self-attention and the transformer block of ViT (Dosovitskiy et al. 2021), on rows (B*N, C)."""

from __future__ import annotations

from typing import Any, Optional

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindvit import device, kernels
from mindvit.layers.basic import Dropout, LayerNorm, Linear, Mlp, Residual, Softmax
from mindvit.layers.flash import flash_attention


class HeadAttention(nn.Cell):
    """What self-attention of any groups of tokens has: products before and after, and softmax(q k^T / sqrt(d) + bias) v in h heads of d channels."""

    def __init__(self, channels: int, heads: int, attn_drop: float, proj_drop: float, biased: bool = False):
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.compute_type = ms.float32
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)
        self.attn_drop = Dropout(attn_drop)
        self.proj_drop = Dropout(proj_drop)
        self.split = ops.Split(axis=1, output_num=3)
        self.softmax = Softmax()
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.mix = ops.BatchMatMul()
        fused = device.has_product_kernels() and attn_drop == 0
        self.fused: Any = (kernels.BiasedAttention if biased else kernels.Attention)(heads, self.scale) if fused else None
        self.flash: Any = None if biased else flash_attention(channels, heads, self.scale, attn_drop)
        self.thirds = ops.Split(axis=2, output_num=3)
        self.whole: Any = None  # a kernel of the whole residual branch

    def attend_packed(self, qkv: Tensor) -> Tensor:
        """(groups of tokens, N, 3C) -> (groups, N, C), without a bias."""
        if self.fused is not None and qkv.dtype == ms.float32:
            return self.fused(qkv)[0]
        if self.flash is not None and qkv.dtype != ms.float32:
            q, k, v = self.thirds(qkv)
            return self.flash(q, k, v)
        groups, tokens, width = qkv.shape
        y = self.attend(qkv.reshape(groups, tokens, 3 * self.heads, -1).transpose(0, 2, 1, 3))      # groups h N d
        return y.transpose(0, 2, 1, 3).reshape(groups, tokens, width // 3)

    def attend(self, qkv: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        """(groups of tokens, 3h, N, d) -> (groups, h, N, d); bias: (h, N, N) or (groups of a sample, h, N, N) float32, added to the scores."""
        q, k, v = self.split(qkv)
        scores = self.scores(q * self.scale, k).astype(ms.float32)              # groups h N N
        if bias is not None:
            scores = (scores.reshape(-1, *bias.shape) + bias).reshape(scores.shape)
        weights = self.softmax(scores)
        return self.mix(self.attn_drop(weights).astype(self.compute_type), v)


class SelfAttention(HeadAttention):
    """Each token attends to the N of its sample. x: (B*N, C) with C = h*d."""

    def __init__(self, channels: int, heads: int, attn_drop: float, proj_drop: float):
        super().__init__(channels, heads, attn_drop, proj_drop)
        if self.fused is not None and proj_drop == 0:
            self.whole = kernels.AttentionBranch(heads, self.scale)

    def branch(self, x: Tensor, batch: int, keep: Tensor, gamma: Tensor, norm: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """x + keep gamma attention(norm(x)) in one kernel, where `whole` is there and all is float32; keep and gamma: see kernels.Residual."""
        weight, bias, eps = norm
        return self.whole(x.reshape(batch, -1, x.shape[1]), keep, gamma, weight, bias, eps, self.qkv.weight.value(), self.qkv.bias.value(),
                          self.proj.weight.value(), self.proj.bias.value())[0].reshape(x.shape)

    def construct(self, x: Tensor, batch: int) -> Tensor:
        rows, channels = x.shape
        y = self.attend_packed(self.qkv(x).reshape(batch, rows // batch, 3 * channels))
        return self.proj_drop(self.proj(y.reshape(rows, channels)))


class Block(nn.Cell):
    """x + attention(norm(x)), then x + MLP(norm(x)). x: (B*N, C); grid: height and width in tokens, for attentions that ask for it."""

    def __init__(self, channels: int, attention: nn.Cell, mlp_ratio: float, eps: float, drop: float, drop_path: float,
                 activation: Optional[nn.Cell] = None):
        super().__init__()
        self.norm1 = LayerNorm(channels, eps)
        self.attn = attention
        self.residual1 = Residual(drop_path)
        self.norm2 = LayerNorm(channels, eps)
        self.mlp = Mlp(channels, int(channels * mlp_ratio), drop, activation)
        self.residual2 = Residual(drop_path)

    def construct(self, x: Tensor, batch: int, kept: Optional[Tensor] = None, grid: Optional[tuple[int, int]] = None) -> Tensor:
        if self.attn.whole is not None and x.dtype == ms.float32 and self.attn.compute_type == ms.float32:
            x = self.attn.branch(x, batch, self.residual1.factors(batch, kept), self.residual1.one, self.norm1.numbers())
        else:
            x, y = self.norm1.beside(x)
            y = self.attn(y, batch) if grid is None else self.attn(y, batch, grid)
            x = self.residual1(x, y, batch, kept)
        return self.mlp_branch(x, batch, kept)

    def mlp_branch(self, x: Tensor, batch: int, kept: Optional[Tensor]) -> Tensor:
        """The block's second half."""
        if self.mlp.whole is not None and x.dtype == ms.float32 and self.mlp.fc1.compute_type == ms.float32:
            return self.mlp.branch(x, self.residual2.factors(batch, kept), self.residual2.one, self.norm2.numbers())
        x, y = self.norm2.beside(x)
        return self.residual2(x, self.mlp(y), batch, kept)
