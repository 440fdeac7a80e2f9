"""Attention of every kind."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindvit.kernels.ops.custom import ProductCell, Shape, Tensors, kernel, like_first, like_first_two

Pair = tuple[Tensor, Tensor]


class Attention(ProductCell):
    """softmax(scale q k^T + bias) v in each head, of all tokens of a sample or among those of each group.

    qkv: (B, N, 3C); numbers: see attention_numbers; bias: (heads, N, N), or (heads, G, G) of a group's tokens, or one
    value where there is none. Output: (B, N, C).
    """

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("Attention", third_width)
        self.backward = kernel("AttentionGrad", lambda qkv, numbers, bias, *_: (qkv, bias), 2)

    def construct(self, qkv: Tensor, numbers: Tensor, bias: Tensor) -> Tensor:
        return self.forward(qkv, numbers, bias)

    def bprop(self, qkv: Tensor, numbers: Tensor, bias: Tensor, out: Tensor, gradient: Tensor) -> Tensors:
        """Gradients of qkv and bias."""
        dqkv, dbias = self.backward(qkv, numbers, bias, gradient)
        return dqkv, ops.zeros_like(numbers), dbias


@functools.cache
def attention_numbers(scale: float, heads: int, grid: Sequence[int] = (), *axes: Sequence[int]) -> Tensor:
    """What `Attention` takes as its numbers: for groups of a grid of height x width tokens with regions, tokens of a
    group and interval along its height and its width.
    """
    return Tensor(np.array([scale, heads, *grid, *itertools.chain(*axes)], np.float32))


class PositionBias(nn.Cell):
    """CrossFormer's dynamic position bias.

    offsets: (offsets, 2); pairs: (G*G,) int32, the offset of each pair of a group's tokens; first: weight (hidden, 2)
    and bias; second, third, last: a norm's weight and bias, then those of the product that follows it and a ReLU,
    whose outputs are the heads in the last one. Output: (heads, G, G).
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = Tensor([eps], ms.float32)
        self.forward = kernel(
            "PositionBias", lambda offsets, pairs, *more: (more[-1][0], math.isqrt(pairs[0]), math.isqrt(pairs[0]))
        )
        self.backward = kernel("PositionBiasGrad", lambda offsets, pairs, eps, *more: more[:-1], 14)

    def construct(
        self, offsets: Tensor, pairs: Tensor, first: Tensors, second: Tensors, third: Tensors, last: Tensors
    ) -> Tensor:
        # fmt: off
        return self.forward(
            offsets, pairs, self.eps, first[0], first[1], second[0], second[1], second[2], second[3], third[0],
            third[1], third[2], third[3], last[0], last[1], last[2], last[3]
        )
        # fmt: on

    def bprop(
        self,
        offsets: Tensor,
        pairs: Tensor,
        first: Tensors,
        second: Tensors,
        third: Tensors,
        last: Tensors,
        out: Tensor,
        gradient: Tensor,
    ) -> tuple:
        """Gradients of all weights."""
        # fmt: off
        found = self.backward(
            offsets, pairs, self.eps, first[0], first[1], second[0], second[1], second[2], second[3], third[0],
            third[1], third[2], third[3], last[0], last[1], last[2], last[3], gradient
        )
        # fmt: on
        return ops.zeros_like(offsets), ops.zeros_like(pairs), found[:2], found[2:6], found[6:10], found[10:]


class MixedAttention(ProductCell):
    """Attention of q (B, M, C) to k and v (B, N, C) -> (B, M, C)."""

    def __init__(self, heads: int, scale: float) -> None:
        super().__init__()
        self.numbers = Tensor([scale, heads], ms.float32)
        self.forward = kernel("MixedAttention", like_first)
        self.backward = kernel("MixedAttentionGrad", lambda q, k, v, *_: (q, k, v), 3)

    def construct(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.forward(q, k, v, self.numbers)

    def bprop(self, q: Tensor, k: Tensor, v: Tensor, out: Tensor, gradient: Tensor) -> Tensors:
        """Gradients of q, k and v."""
        return self.backward(q, k, v, self.numbers, gradient)


class ClassQuery(ProductCell):
    """softmax(q t^T) t, where t are a class token and patches.

    q: (B, heads, C), cls: (B, 1, C), y: (B, N, C), whose patches come after `skip` other tokens. Outputs: (B,
    heads, C), and the weights (B, heads, 1 + N - skip).
    """

    def __init__(self, skip: int) -> None:
        super().__init__()
        self.forward = kernel("ClassQuery", lambda q, cls, y: (q, [*q[:2], 1 + y[1] - skip]), 2, skip)
        self.backward = kernel("ClassQueryGrad", lambda q, cls, y, *_: (q, cls, y), 3)

    def construct(self, q: Tensor, cls: Tensor, y: Tensor) -> Pair:
        return self.forward(q, cls, y)

    def bprop(self, q: Tensor, cls: Tensor, y: Tensor, out: Pair, gradients: Pair) -> Tensors:
        """Gradients of q, cls and y."""
        return self.backward(q, cls, y, out[1], gradients[0])


class CrossCovariance(ProductCell):
    """XCiT's attention among channels. qkv: (B, N, 3C), temperature: (heads, 1, 1).

    Outputs: (B, N, C), the weights (B, heads, d, d), and two for the gradient.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = Tensor([eps], ms.float32)
        self.forward = kernel("CrossCovariance", cross_covariance, 4)
        self.backward = kernel("CrossCovarianceGrad", like_first_two, 2)

    def construct(self, qkv: Tensor, temperature: Tensor) -> Tensors:
        return self.forward(qkv, temperature, self.eps)

    def bprop(self, qkv: Tensor, temperature: Tensor, out: Tensors, gradients: Tensors) -> Tensors:
        """Gradients of qkv and temperature."""
        return self.backward(qkv, temperature, self.eps, out[1], out[2], out[3], gradients[0])


def third_width(qkv: Shape, *_: Shape) -> Shape:
    """(B, N, 3C) -> (B, N, C)."""
    return [*qkv[:-1], qkv[-1] // 3]


def cross_covariance(qkv: Shape, temperature: Shape, *_: Shape) -> tuple[Shape, ...]:
    """(B, N, 3C) -> (B, N, C), and per head weights (d, d), products (d, d) and inverse lengths (2, d)."""
    batch, tokens, width = qkv
    channels, heads = width // 3, temperature[0]
    depth = channels // heads
    square = [batch, heads, depth, depth]
    return [batch, tokens, channels], square, square, [batch, heads, 2, depth]
