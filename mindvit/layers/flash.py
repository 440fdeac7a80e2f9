"""Attention in one operator on NPUs, which never has the N x N weights in memory (Dao et al. 2022)."""

from __future__ import annotations

from typing import Optional

from mindspore import Tensor, nn, ops

from mindvit.runtime import platform

MULTIPLE, LARGEST = 16, 512  # channels of a head that the operator takes


class FlashAttention(nn.Cell):
    """softmax(scale q k^T) v in `heads` heads. q: (B, M, C), k and v: (B, N, C), half precision -> (B, M, C)."""

    def __init__(self, heads: int, scale: float):
        super().__init__()
        self.heads, self.scale = heads, scale

    def construct(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ops.flash_attention_score(q, k, v, self.heads, scalar_value=self.scale, input_layout="BSH")


def flash_attention(channels: int, heads: int, scale: float, attn_drop: float) -> Optional[FlashAttention]:
    """The cell where the device has the operator for heads of this size; None elsewhere.

    None with dropout of the weights too, whose mask the operator wants drawn.
    """
    depth = channels // heads
    fits = attn_drop == 0 and depth % MULTIPLE == 0 and depth <= LARGEST
    return FlashAttention(heads, scale) if fits and platform.current().flash_attention else None
