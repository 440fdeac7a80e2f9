"""Attention of every kind."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

from mindvit.kernels.ops.custom import ProductCell, Shape, Tensors, kernel, like_first, like_first_two

Pair = tuple[Tensor, Tensor]


class Attention(ProductCell):
    """softmax(scale q k^T) v in `heads` heads. qkv: (B, N, 3C) -> (B, N, C)."""

    def __init__(self, heads: int, scale: float) -> None:
        super().__init__()
        self.numbers = Tensor([scale, heads], ms.float32)
        self.forward = kernel("Attention", third_width)
        self.backward = kernel("AttentionGrad", like_first)

    def construct(self, qkv: Tensor) -> Tensor:
        return self.forward(qkv, self.numbers)

    def bprop(self, qkv: Tensor, out: Tensor, gradient: Tensor) -> Tensors:
        """Gradient of qkv."""
        return (self.backward(qkv, self.numbers, gradient),)


class BiasedAttention(ProductCell):
    """Attention with a bias on the scores, (heads, N, N), and on those of a key that of a mask, (groups, 1, 1, N),
    where sample b has group b % groups. The mask gets no gradient.
    """

    def __init__(self, heads: int, scale: float) -> None:
        super().__init__()
        self.numbers = Tensor([scale, heads], ms.float32)
        self.forward = kernel("BiasedAttention", third_width)
        self.backward = kernel("BiasedAttentionGrad", lambda qkv, numbers, bias, *_: (qkv, bias), 2)

    def construct(self, qkv: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        return self.forward(qkv, self.numbers, bias, mask)

    def bprop(self, qkv: Tensor, bias: Tensor, mask: Tensor, out: Tensor, gradient: Tensor) -> Tensors:
        """Gradients of qkv and bias."""
        return (*self.backward(qkv, self.numbers, bias, mask, gradient), ops.zeros_like(mask))


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
