"""Attention of a class token, whose keys and values are never formed.

A single query lets the products be reordered: q.(W_k y) = (W_k^T q).y and sum_n a_n (W_v y_n) = W_v (sum_n a_n
y_n), for 2hNC multiply-adds instead of 2NC^2 + 2NC. The key bias adds one number to all scores of a query and
cancels in the softmax; its parameter is kept because the authors' weights have it.

Shapes: B batch, N tokens, C = h*d channels, h heads, d channels a head.
"""

from __future__ import annotations

from typing import Any, Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindvit.kernels import ops as kernels
from mindvit.layers.activation import Softmax
from mindvit.layers.drop_path import Dropout, Residual
from mindvit.layers.linear import Linear
from mindvit.layers.norm import LayerNorm
from mindvit.layers.split import SplitEvenly, SplitTokens
from mindvit.runtime import platform


@ops.constexpr
def _first_of(tokens: int) -> Tensor:
    return Tensor(np.arange(tokens).reshape(1, 1, tokens) == 0)


@ops.constexpr
def _channels_of_heads(heads: int, channels: int) -> Tensor:
    return Tensor(np.repeat(np.eye(heads, dtype=np.float32), channels // heads, axis=1))


class SingleQuery(nn.Cell):
    """What attention of a class token has."""

    def __init__(self, channels: int, heads: int, attn_drop: float, proj_drop: float, others_first: bool):
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.compute_type = ms.float32
        self.attn_drop = Dropout(attn_drop)
        self.proj_drop = Dropout(proj_drop)
        self.softmax = Softmax()
        self.rows_product = ops.MatMul()
        self.product = ops.BatchMatMul()
        self.product_t = ops.BatchMatMul(transpose_b=True)
        self.others_first = others_first
        fits = platform.current().product_kernels and attn_drop == 0
        self.fused_op: Any = kernels.ClassQuery(int(others_first)) if fits else None

    def attend(self, q: Tensor, cls: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """softmax(q t^T) t, where t are the class token and the patches.

        q: (B, h, C); cls: (B, 1, C); tokens: (B, N, C), patches alone or, with others_first, after a class token
        of their own, in whose place `cls` is seen. Returns what each query sees, (B, h, C), and its weights (B, h,
        seen tokens).
        """
        if self.fused_op is not None and self.compute_type == ms.float32:
            both = self.fused_op(q, cls, tokens)
            return both[0], both[1]
        if self.others_first:
            return self.attend_in_place(q, cls, tokens)
        tokens = ops.cat((cls, tokens), 1)  # B 1+N C
        scores = self.product_t(q, tokens).astype(ms.float32)  # B h 1+N
        weights = self.attn_drop(self.softmax(scores)).astype(self.compute_type)
        return self.product(weights, tokens), weights

    def attend_in_place(self, q: Tensor, cls: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """`attend` with the class token in the place of the first token."""
        first = _first_of(tokens.shape[1])  # 1 1 N
        scores = ops.where(first, self.product_t(q, cls), self.product_t(q, tokens))  # B h N
        weights = self.attn_drop(self.softmax(scores.astype(ms.float32))).astype(self.compute_type)
        return self.product(weights * ops.logical_not(first), tokens) + weights[:, :, :1] * cls, weights


class CrossAttention(SingleQuery):
    """The class token of one branch, cls (B, 1, C), attends to itself and to the other branch's patches, tokens (B,
    N, C).

    tokens hold the other branch's class token in front of its patches; what is seen in its place is cls. Heads are
    not cut out of the channels: each has a row of all channels, with zeros at the other heads' (a mask before W_k,
    and one after W_v).
    """

    def __init__(self, channels: int, heads: int, attn_drop: float, proj_drop: float):
        super().__init__(channels, heads, attn_drop, proj_drop, others_first=True)
        self.wq = Linear(channels, channels)
        self.wk = Linear(channels, channels)
        self.wv = Linear(channels, channels)
        self.proj = Linear(channels, channels)

    def saved_multiply_adds(self, tokens: int) -> int:
        """Multiply-adds of an image that keys and values of each token would need beyond this order's."""
        heads, channels = self.heads, self.wq.weight.shape[0]
        return 2 * tokens * channels * (channels + 1) - 2 * heads * channels * (channels + tokens) - heads * channels

    def kernel_args(self) -> tuple[Tensor, ...]:
        """What a kernel of the whole fusion takes: the weights and biases of its products, without the key bias."""
        return (
            self.wq.weight.value(),
            self.wq.bias.value(),
            self.wk.weight.value(),
            self.wv.weight.value(),
            self.wv.bias.value(),
            self.proj.weight.value(),
            self.proj.bias.value(),
        )

    def construct(self, cls: Tensor, tokens: Tensor) -> Tensor:
        kind, channels = self.compute_type, cls.shape[2]
        own, y = cls.astype(kind), tokens.astype(kind)  # B 1 C, B N C
        mask = _channels_of_heads(self.heads, channels).astype(kind)  # h C
        q = self.wq(cls) * (self.scale * mask)  # B h C
        q = self.rows_product(q.reshape(-1, channels), self.wk.weight.astype(kind)).reshape(-1, self.heads, channels)
        seen, weights = self.attend(q, own, y)
        values = self.wv(seen)  # B h C
        if self.attn_drop.active:  # without dropout the weights sum to one
            values = values + self.wv.bias.astype(kind) * (weights.sum(-1, keepdims=True) - 1)
        return self.proj_drop(self.proj((values * mask).sum(1, keepdims=True)))


class CrossAttentionBlock(nn.Cell):
    """cls + attention(norm(cls), norm(tokens)), CrossViT section 3.3; there is no MLP.

    cls: (B, 1, C); tokens: (B, N, C).

    first: whether another fusion is to read the same tokens (see kernels.CrossFusion).
    """

    def __init__(
        self, channels: int, heads: int, eps: float, drop: float, attn_drop: float, drop_path: float, first: bool
    ):
        super().__init__()
        self.norm1 = LayerNorm(channels, eps)
        self.attn = CrossAttention(channels, heads, attn_drop, drop)
        self.residual = Residual(drop_path)
        self.split = SplitTokens()
        # with the projections around it: all tokens, and the class token alone
        self.fused_branch: Any = None
        self.fused_class_token: Any = None
        if self.attn.fused_op is not None and drop == 0:
            self.fused_branch = kernels.CrossFusion(heads, self.attn.scale, eps, first, False)
            self.fused_class_token = kernels.CrossFusion(heads, self.attn.scale, eps, first, True)

    def fuse(
        self,
        own: Tensor,
        other: Tensor,
        before: nn.Cell,
        after: nn.Cell,
        drop_path_scale: Optional[Tensor],
        class_token_only: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The class token of `own` (B, N, C) is projected by `before`, attends to `other` (B, M, D), and goes back by
        `after`.

        before, after: LayerNorm, GELU, Linear. Returns own tokens with the new class token, or that alone, and
        both inputs, for another reader.
        """
        if self.fused_branch is not None and own.dtype == ms.float32 and self.attn.compute_type == ms.float32:
            fused = self.fused_class_token if class_token_only else self.fused_branch
            first = (before[0].weight.value(), before[0].bias.value(), before[2].weight.value(), before[2].bias.value())
            last = (after[0].weight.value(), after[0].bias.value(), after[2].weight.value(), after[2].bias.value())
            norm = (self.norm1.weight.value(), self.norm1.bias.value())
            factors = self.residual.factors(own.shape[0], drop_path_scale)
            return fused(own, other, factors, first, norm, self.attn.kernel_args(), last)[:3]
        cls, patches = self.split(own, 1)
        cls = after(self.construct(before(cls), other, drop_path_scale))
        return cls if class_token_only else ops.cat((cls.astype(own.dtype), patches), 1), own, other

    def construct(self, cls: Tensor, tokens: Tensor, drop_path_scale: Optional[Tensor] = None) -> Tensor:
        y = self.attn(self.norm1(cls), self.norm1(tokens))
        return self.residual(cls, y, cls.shape[0], drop_path_scale)


class ClassAttention(SingleQuery):
    """The class token, cls (B, C), attends to itself and to the patches (B*N, C) (Touvron et al. 2021, CaiT)."""

    def __init__(self, channels: int, heads: int, attn_drop: float, proj_drop: float):
        super().__init__(channels, heads, attn_drop, proj_drop, others_first=False)
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)
        self.split = SplitEvenly(0, 3)
        self.rows_product_t = ops.MatMul(transpose_b=True)

    def saved_multiply_adds(self, tokens: int) -> int:
        """Multiply-adds of an image that queries, keys and values of each token would need beyond this order's.

        The authors' product of the query and the keys is not counted: it is no matrix product there (see
        ModelInfo.macs).
        """
        channels = self.qkv.weight.shape[1]
        return 3 * (tokens - 1) * channels * channels + tokens * channels - 2 * self.heads * tokens * channels

    def construct(self, cls: Tensor, patches: Tensor) -> Tensor:
        batch, channels = cls.shape
        by_head = (self.heads, -1, channels)
        cls, patches = cls.astype(self.compute_type), patches.astype(self.compute_type)
        w_q, w_k, w_v = self.split(self.qkv.weight.astype(self.compute_type))  # C C, each
        b_q, _, b_v = self.split(self.qkv.bias.astype(self.compute_type))
        q = ((self.rows_product_t(cls, w_q) + b_q) * self.scale).reshape(batch, self.heads, -1)  # B h d
        q = self.product(q.transpose(1, 0, 2), w_k.reshape(by_head)).transpose(1, 0, 2)  # B h C
        seen, weights = self.attend(q, cls.reshape(batch, 1, channels), patches.reshape(batch, -1, channels))
        seen = seen.transpose(1, 0, 2)  # h B C
        y = self.product_t(seen, w_v.reshape(by_head)).transpose(1, 0, 2)  # B h d
        bias = b_v.reshape(self.heads, -1)
        if self.attn_drop.active:  # without dropout the weights sum to one
            bias = bias * weights.sum(-1, keepdims=True)
        return self.proj_drop(self.proj((y + bias).reshape(batch, channels)))
