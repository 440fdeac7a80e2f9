"""Kernels of our own for CPUs: kernels.cpp, built once with the system's compiler, and cells that use them.

Only mindvit.device decides whether they are used; every cell has the same result, within rounding, as the operators it stands for.
A weight that a gradient needs is handed over as weight.value(): where the parameter itself is, the gradient reads it a second time, and
MindSpore copies what is read twice (300 copies a step of XCiT, once batch normalisation has changed its running statistics in between).
Operators are called with each argument by itself: one that is called with *arguments loses its cell's name, which profiles show.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
from pathlib import Path
from typing import Any, Callable, Iterator, Optional, Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops.signature import make_sig, sig_rw

from mindvit import compiler

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-pthread")
SWITCH = "MINDVIT_KERNELS"  # 0 in the environment: do without


_wanted = [True]


def wanted() -> bool:
    """Whether networks that are built now may use kernels."""
    return _wanted[-1]


@contextlib.contextmanager
def left_out() -> Iterator[None]:
    """Networks that are built inside do without: for files that other machines read."""
    _wanted.append(False)
    try:
        yield
    finally:
        _wanted.pop()


def flags() -> tuple[str, ...]:
    """The compiler's flags: without AVX-512 where the framework's kernels have to do without it too."""
    return (*FLAGS, "-mno-avx512f") if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() == "AVX2" else FLAGS


@functools.cache
def library() -> Optional[str]:
    """The built library, or None, said once on stderr with the reason, where there can be none."""
    path = compiler.library(SOURCE, flags(), SWITCH, "mindvit's own CPU kernels are left out, and networks are slower")
    if path is None:
        return None
    ctypes.CDLL(str(path))  # stays for good: MindSpore unloads it with the last graph that needs it, under the feet of the library's threads
    return str(path)


@functools.cache
def has_products() -> bool:
    """Whether the library found the framework's matrix product, which the attention kernels are made of."""
    path = library()
    return path is not None and bool(ctypes.CDLL(path).HasGemm())


def kernel(name: str, shapes: Callable[..., Any], outputs: int = 1, variant: Any = None) -> ops.Custom:
    """The kernel of that name as an operator with float32 outputs; `shapes`: the inputs' shapes -> the outputs'.

    variant: what those depend on beside the inputs' shapes. Outside graphs the framework keeps operators by name, attributes and shapes.
    """
    operator = ops.Custom(f"{library()}:{name}", out_shape=shapes, out_dtype=(ms.float32,) * outputs if outputs > 1 else ms.float32, func_type="aot")
    operator.add_prim_attr("variant", str(variant))
    return operator


def changing(operator: ops.Custom, inputs: str) -> ops.Custom:
    """The operator, declared to change some inputs in place, 1 in `inputs`: without that the framework may hand it copies."""
    kinds = {"0": sig_rw.RW_READ, "1": sig_rw.RW_WRITE}
    operator.set_signatures([make_sig(f"input{number}", kinds[kind]) for number, kind in enumerate(inputs)])
    operator.add_prim_attr("side_effect_mem", True)
    return operator


class Gelu(nn.Cell):
    """x * Phi(x), any shape, float32."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("GeluForward", _like_first)
        self.backward = kernel("GeluGrad", _like_first)

    def construct(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def bprop(self, x: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradient of x."""
        return (self.backward(x, gradient),)


class Linear(nn.Cell):
    """x W^T + bias. x: (..., I), weight: (O, I), bias: (O,), float32."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("Linear", _product)
        self.input_gradient = kernel("LinearInputGrad", lambda weight, dy: [*dy[:-1], weight[1]])
        self.weight_gradient = kernel("LinearWeightGrad", _weight_and_bias, 2)  # apart: a graph leaves out what nobody asks for

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.forward(x, weight, bias)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradients of x, weight and bias."""
        return (self.input_gradient(weight, gradient), *self.weight_gradient(x, gradient))


class Softmax(nn.Cell):
    """softmax over the last axis, any shape, float32."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("SoftmaxForward", _like_first)
        self.backward = kernel("SoftmaxGrad", _like_first)

    def construct(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def bprop(self, x: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradient of x."""
        return (self.backward(out, gradient),)


class LayerNorm(nn.Cell):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis. x: (..., C), weight and bias: (C,), float32.

    Outputs: x, for a residual branch, whose gradient is then added up with the norm's own; the result; and each row's mean and inverse deviation.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = Tensor([eps], ms.float32)
        self.forward = kernel("LayerNormForward", _first_and_rows, 3)
        self.backward = kernel("LayerNormGrad", _first_and_twice_second, 3)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        y, mean, inverse = self.forward(x, weight, bias, self.eps)
        return x, y, mean, inverse

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Gradients of x, weight and bias."""
        return self.backward(x, weight, out[2], out[3], gradients[1], gradients[0])


class Attention(nn.Cell):
    """softmax(scale q k^T) v in `heads` heads. qkv: (B, N, 3C). Outputs: (B, N, C), and the weights (B, heads, N, N)."""

    def __init__(self, heads: int, scale: float) -> None:
        super().__init__()
        self.scale = Tensor([scale], ms.float32)
        self.forward = kernel("Attention", lambda qkv, *_: ([*qkv[:2], qkv[2] // 3], [qkv[0], heads, qkv[1], qkv[1]]), 2, heads)
        self.backward = kernel("AttentionGrad", _like_first)

    def construct(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(qkv, self.scale)

    def bprop(self, qkv: Tensor, out: tuple[Tensor, Tensor], gradients: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Gradient of qkv."""
        return (self.backward(qkv, self.scale, out[1], gradients[0]),)


class BiasedAttention(nn.Cell):
    """Attention with a bias on the scores, (groups, heads, N, N), where sample b has group b % groups."""

    def __init__(self, heads: int, scale: float) -> None:
        super().__init__()
        self.scale = Tensor([scale], ms.float32)
        self.forward = kernel("BiasedAttention", lambda qkv, *_: ([*qkv[:2], qkv[2] // 3], [qkv[0], heads, qkv[1], qkv[1]]), 2, heads)
        self.backward = kernel("BiasedAttentionGrad", lambda qkv, scale, bias, *_: (qkv, bias), 2)

    def construct(self, qkv: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(qkv, self.scale, bias)

    def bprop(self, qkv: Tensor, bias: Tensor, out: tuple[Tensor, Tensor], gradients: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Gradients of qkv and bias."""
        return self.backward(qkv, self.scale, bias, out[1], gradients[0])


class MixedAttention(nn.Cell):
    """Attention of q (B, M, C) to k and v (B, N, C). Outputs: (B, M, C), and the weights (B, heads, M, N)."""

    def __init__(self, heads: int, scale: float) -> None:
        super().__init__()
        self.scale = Tensor([scale], ms.float32)
        self.forward = kernel("MixedAttention", lambda q, k, *_: (q, [q[0], heads, q[1], k[1]]), 2, heads)
        self.backward = kernel("MixedAttentionGrad", lambda q, k, v, *_: (q, k, v), 3)

    def construct(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(q, k, v, self.scale)

    def bprop(self, q: Tensor, k: Tensor, v: Tensor, out: tuple[Tensor, Tensor], gradients: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Gradients of q, k and v."""
        return self.backward(q, k, v, self.scale, out[1], gradients[0])


class ClassQuery(nn.Cell):
    """softmax(q t^T) t, where t are a class token and patches. q: (B, heads, C), own: the class token (B, 1, C), y: (B, N, C), patches after `skip` others.

    Outputs: (B, heads, C), and the weights (B, heads, 1 + N - skip).
    """

    def __init__(self, skip: int) -> None:
        super().__init__()
        self.forward = kernel("ClassQuery", lambda q, own, y: (q, [*q[:2], 1 + y[1] - skip]), 2, skip)
        self.backward = kernel("ClassQueryGrad", lambda q, own, y, *_: (q, own, y), 3)

    def construct(self, q: Tensor, own: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(q, own, y)

    def bprop(self, q: Tensor, own: Tensor, y: Tensor, out: tuple[Tensor, Tensor], gradients: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Gradients of q, own and y."""
        return self.backward(q, own, y, out[1], gradients[0])


class CrossFusion(nn.Cell):
    """CrossViT's fusion from end to end, for one branch: its class token is projected to the other branch's width (LayerNorm, GELU, Linear), attends to
    that branch's patches (see ClassQuery; keys and values are never formed), and is projected back.

    own: (B, N, C), other: (B, M, D), keep: see Residual. norm1, bias1: (C,), weight1: (D, C); norm, bias: (D,); wq, wk, wv, wo: (D, D), bq, bv, bo: (D,);
    norm2, bias2: (D,), weight2: (C, D). Outputs: own tokens with the new class token (B, N, C), or that alone (B, 1, C) (last); own and other, for another
    reader, whose gradients are then added up with these (beside), or for none; and ten for the gradient.
    """

    def __init__(self, heads: int, scale: float, eps: float, beside: bool, last: bool) -> None:
        super().__init__()
        self.beside = beside
        self.eps, self.numbers = Tensor([eps], ms.float32), Tensor([scale, heads], ms.float32)

        def shapes(own: Any, other: Any, *_: Any) -> Any:
            batch, tokens, width = other
            row, seen, rows = [batch, width], [batch, heads, width], [batch * tokens]
            return [own[0], 1, own[2]] if last else own, row, row, seen, [batch, heads, tokens], seen, row, row, other, rows, rows

        self.forward = kernel("CrossFusion", shapes, 11, (heads, last))
        self.backward = kernel("CrossFusionGrad", lambda own, other, keep, eps, *more: (own, other, *more[:17], other), 20, beside)

    def construct(self, own: Tensor, other: Tensor, keep: Tensor, norm1: Tensor, bias1: Tensor, weight1: Tensor, product_bias1: Tensor, norm: Tensor,
                  bias: Tensor, wq: Tensor, bq: Tensor, wk: Tensor, wv: Tensor, bv: Tensor, wo: Tensor, bo: Tensor, norm2: Tensor, bias2: Tensor,
                  weight2: Tensor, product_bias2: Tensor) -> tuple[Tensor, ...]:
        out = self.forward(own, other, keep, self.eps, norm1, bias1, weight1, product_bias1, norm, bias, wq, bq, wk, wv, bv, wo, bo, norm2, bias2, weight2,
                           product_bias2, self.numbers)
        return (out[0], own, other, *out[1:])

    def bprop(self, own: Tensor, other: Tensor, keep: Tensor, norm1: Tensor, bias1: Tensor, weight1: Tensor, product_bias1: Tensor, norm: Tensor,
              bias: Tensor, wq: Tensor, bq: Tensor, wk: Tensor, wv: Tensor, bv: Tensor, wo: Tensor, bo: Tensor, norm2: Tensor, bias2: Tensor,
              weight2: Tensor, product_bias2: Tensor, out: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Gradients of all but keep."""
        more_own, more_other = (gradients[1], gradients[2]) if self.beside else (self.eps, self.eps)
        found = self.backward(own, other, keep, self.eps, norm1, bias1, weight1, product_bias1, norm, bias, wq, bq, wk, wv, bv, wo, bo, norm2, bias2, weight2,
                              product_bias2, self.numbers,
                              out[3], out[4], out[5], out[6], out[7], out[8], out[9], out[10], out[11], out[12], gradients[0], more_own, more_other)
        return (*found[:2], ops.zeros_like(keep), *found[2:19])


class LocalBranch(nn.Cell):
    """x + keep gamma conv2(bn(gelu(conv1(norm(x))))), XCiT's local patch interaction in training: LayerNorm, two depth-wise 3x3 convolutions, BatchNorm.

    x: (B, H, W, C), keep and gamma: see Residual, gamma (C,); the others (C,), but weight1 and weight2: (C, 1, 3, 3). The running statistics move
    in place. Outputs: (B, H, W, C), and eight for the gradient.
    """

    def __init__(self, eps: float, momentum: float) -> None:
        super().__init__()
        self.numbers = Tensor([eps, momentum], ms.float32)

        def shapes(x: Any, keep: Any, gamma: Any, *_: Any) -> Any:
            rows = [x[0] * x[1] * x[2]]
            return x, x, rows, rows, x, x, x, gamma, gamma

        self.forward = changing(kernel("LocalBranch", shapes, 9), "000000000011000")
        self.backward = kernel("LocalBranchGrad", lambda x, keep, *more: (x, *more[:3], *more[4:8], *more[11:13], x, x), 12)

    def construct(self, x: Tensor, keep: Tensor, gamma: Tensor, norm: Tensor, norm_bias: Tensor, norm_eps: Tensor, weight1: Tensor, bias1: Tensor,
                  weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, weight2: Tensor, bias2: Tensor) -> tuple[Tensor, ...]:
        return self.forward(x, keep, gamma, norm, norm_bias, norm_eps, weight1, bias1, weight, bias, running_mean, running_var, self.numbers, weight2, bias2)

    def bprop(self, x: Tensor, keep: Tensor, gamma: Tensor, norm: Tensor, norm_bias: Tensor, norm_eps: Tensor, weight1: Tensor, bias1: Tensor,
              weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, weight2: Tensor, bias2: Tensor, out: tuple[Tensor, ...],
              gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Gradients of all but keep, eps and the running statistics."""
        found = self.backward(x, keep, gamma, norm, norm_bias, norm_eps, weight1, bias1, weight, bias, out[7], out[8], self.numbers, weight2, bias2,
                              out[1], out[2], out[3], out[4], out[5], out[6], gradients[0])
        return (found[0], ops.zeros_like(keep), *found[1:4], ops.zeros_like(norm_eps), *found[4:8], ops.zeros_like(running_mean),
                ops.zeros_like(running_var), *found[8:10])


class PatchTokens(nn.Cell):
    """A class token, and the patches of pictures, side x side px and side by side, times a matrix; each plus its position.

    x: (B, C, H, W), weight: (D, C, side, side), bias: (D,), cls: (1, 1, D), positions: (1, 1 + N, D). Outputs: tokens (B, 1 + N, D), and patches
    (B, N, C side side).
    """

    def __init__(self, side: int) -> None:
        super().__init__()

        def shapes(x: Any, weight: Any, *_: Any) -> Any:
            patches = (x[2] // side) * (x[3] // side)
            return [x[0], 1 + patches, weight[0]], [x[0], patches, x[1] * side * side]

        def gradients(patches: Any, tokens: Any) -> Any:
            width = tokens[2]
            return [width, patches[2] // side ** 2, side, side], [width], [1, 1, width], [1, *tokens[1:]]

        self.side = side
        self.forward = kernel("PatchTokens", shapes, 2, side)
        self.backward = kernel("PatchTokensGrad", gradients, 4, side)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor, cls: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(x, weight, bias, cls, positions)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, cls: Tensor, positions: Tensor, out: tuple[Tensor, ...],
              gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Gradients of all; that of x with plain operators: training needs no gradient of pictures."""
        batch, channels, height, width = x.shape
        across, down = width // self.side, height // self.side
        dx = ops.matmul(gradients[0][:, 1:].reshape(-1, weight.shape[0]), weight.reshape(weight.shape[0], -1))
        dx = dx.reshape(batch, down, across, channels, self.side, self.side).transpose(0, 3, 1, 4, 2, 5).reshape(x.shape)
        found = self.backward(out[1], gradients[0])
        return dx, found[0], found[1], found[2], found[3]


class CrossCovariance(nn.Cell):
    """XCiT's attention among channels. qkv: (B, N, 3C), temperature: (heads, 1, 1). Outputs: (B, N, C), the weights (B, heads, d, d), two for the gradient."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = Tensor([eps], ms.float32)
        self.forward = kernel("CrossCovariance", _cross_covariance, 4)
        self.backward = kernel("CrossCovarianceGrad", _first_and_second, 2)

    def construct(self, qkv: Tensor, temperature: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.forward(qkv, temperature, self.eps)

    def bprop(self, qkv: Tensor, temperature: Tensor, out: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Gradients of qkv and temperature."""
        return self.backward(qkv, temperature, self.eps, out[1], out[2], out[3], gradients[0])


class Depthwise(nn.Cell):
    """3x3 convolution of every channel by itself, padding 1, stride 1 or 2. x: (B, H, W, C), weight: (C, 1, 3, 3), bias: (C,)."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.forward = kernel("Depthwise", lambda x, *_: [x[0], (x[1] - 1) // stride + 1, (x[2] - 1) // stride + 1, x[3]], 1, stride)
        self.backward = kernel("DepthwiseGrad", lambda x, weight, dy: (x, weight, [x[3]]), 3)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.forward(x, weight, bias)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradients of x, weight and bias."""
        return self.backward(x, weight, gradient)


class Columns(nn.Cell):
    """What lies under a convolution's kernel at each place. x: (B, H, W, I) -> (B, H', W', k*k*I), the input's channels innermost."""

    def __init__(self, size: int, stride: int, padding: int) -> None:
        super().__init__()
        self.geometry = Tensor([size, stride, padding], ms.float32)

        def shapes(x: Any, *_: Any) -> Any:
            return [x[0], *((side + 2 * padding - size) // stride + 1 for side in x[1:3]), size * size * x[3]]

        self.forward = kernel("Columns", shapes, 1, (size, stride, padding))
        self.backward = kernel("ColumnsGrad", lambda gradient, geometry, x: x)

    def construct(self, x: Tensor) -> Tensor:
        return self.forward(x, self.geometry)

    def bprop(self, x: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradient of x."""
        return (self.backward(gradient, self.geometry, x),)


class BatchNorm(nn.Cell):
    """Normalises channels, the last axis, by the batch's own mean and (biased) variance, and moves the running ones in place, as PyTorch does.

    x: (..., C), the others (C,). Outputs: the result, mean (C,) and variance (C,).
    """

    def __init__(self, eps: float, momentum: float) -> None:
        super().__init__()
        self.numbers = Tensor([eps, momentum], ms.float32)
        self.forward = changing(kernel("BatchNormForward", lambda x, weight, *_: (x, weight, weight), 3), "000110")
        self.backward = kernel("BatchNormGrad", _first_and_twice_second, 3)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.forward(x, weight, bias, running_mean, running_var, self.numbers)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, out: tuple[Tensor, ...],
              gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Gradients of x, weight and bias."""
        return (*self.backward(x, weight, self.numbers, out[1], out[2], gradients[0]), ops.zeros_like(running_mean), ops.zeros_like(running_var))


class BatchNormPredict(nn.Cell):
    """BatchNorm by the running mean and variance, which stay as they are."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.numbers = Tensor([eps, 0.0], ms.float32)
        self.forward = kernel("BatchNormPredict", _like_first)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor) -> Tensor:
        return self.forward(x, weight, bias, running_mean, running_var, self.numbers)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradients of x, weight and bias; with plain operators, for nobody trains this way."""
        inverse = ops.rsqrt(running_var + self.eps)
        rows, deviations = gradient.reshape(-1, x.shape[-1]), x.reshape(-1, x.shape[-1]) - running_mean
        return (gradient * (weight * inverse), (rows * deviations).sum(0) * inverse, rows.sum(0), ops.zeros_like(running_mean), ops.zeros_like(running_var))


class Sum(nn.Cell):
    """x + y of one shape, float32."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("Sum", _like_first)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return self.forward(x, y)

    def bprop(self, x: Tensor, y: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradients of x and y."""
        return gradient, gradient


class Residual(nn.Cell):
    """x + keep * gamma * y. x and y: (..., C), gamma: (C,) or (1,), keep: (B,), a factor for the rows of each sample; no gradient of that."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("Residual", _like_first)
        self.backward = kernel("ResidualGrad", lambda gamma, keep, gradient: gradient)
        self.gamma_gradient = kernel("ResidualGammaGrad", lambda y, gamma, *_: gamma)

    def construct(self, x: Tensor, y: Tensor, gamma: Tensor, keep: Tensor) -> Tensor:
        return self.forward(x, y, gamma, keep)

    def bprop(self, x: Tensor, y: Tensor, gamma: Tensor, keep: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradients of x, y and gamma."""
        return gradient, self.backward(gamma, keep, gradient), self.gamma_gradient(y, gamma, keep, gradient), ops.zeros_like(keep)


class MlpBranch(nn.Cell):
    """Residual of an MLP of LayerNorm, from end to end: x + keep gamma (activation(norm(x) W1^T + b1) W2^T + b2).

    x: (..., C); keep and gamma: see Residual; weight, bias, eps: the norm's; weight1: (hidden, C), weight2: (C, hidden). Outputs: the result and,
    while training, four for the gradient.
    """

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.forward = kernel(f"Mlp{activation}", _mlp_branch, 5)
        self.predict = kernel(f"Mlp{activation}Predict", _like_first)
        self.backward = kernel(f"Mlp{activation}Grad", lambda *shapes: (*_ends(*shapes), shapes[0], shapes[13], shapes[13]), 11)

    def construct(self, x: Tensor, keep: Tensor, gamma: Tensor, weight: Tensor, bias: Tensor, eps: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor,
                  bias2: Tensor) -> tuple[Tensor, ...]:
        if self.training:
            return self.forward(x, keep, gamma, weight, bias, eps, weight1, bias1, weight2, bias2)
        return (self.predict(x, keep, gamma, weight, bias, eps, weight1, bias1, weight2, bias2),)

    def bprop(self, x: Tensor, keep: Tensor, gamma: Tensor, weight: Tensor, bias: Tensor, eps: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor,
              bias2: Tensor, out: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Gradients of all but keep and eps."""
        kept = out if self.training else self.forward(x, keep, gamma, weight, bias, eps, weight1, bias1, weight2, bias2)
        found = self.backward(x, keep, gamma, weight, bias, eps, weight1, bias1, weight2, bias2, kept[1], kept[2], kept[3], kept[4], gradients[0])
        return (found[0], ops.zeros_like(keep), *found[1:4], ops.zeros_like(eps), *found[4:8])


class AttentionBranch(nn.Cell):
    """Residual of the self-attention (Attention) of LayerNorm, from end to end. x: (B, N, C); weight1: (3C, C), weight2: (C, C); the rest as MlpBranch.

    Outputs: the result and, while training, six for the gradient.
    """

    def __init__(self, heads: int, scale: float) -> None:
        super().__init__()
        self.numbers = Tensor([scale, heads], ms.float32)

        def weights(x: Any) -> Any:
            return [x[0], heads, x[1], x[1]]

        self.forward = kernel("AttentionBranch", lambda x, *_: (*_attention_branch(x), weights(x)), 7, heads)
        self.predict = kernel("AttentionBranchPredict", lambda x, *_: (x, _triple(x), x), 3)
        self.backward = kernel("AttentionBranchGrad", lambda *shapes: (*_ends(*shapes), shapes[0], shapes[0], _triple(shapes[0])), 11)

    def construct(self, x: Tensor, keep: Tensor, gamma: Tensor, weight: Tensor, bias: Tensor, eps: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor,
                  bias2: Tensor) -> tuple[Tensor, ...]:
        if self.training:
            return self.forward(x, keep, gamma, weight, bias, eps, weight1, bias1, weight2, bias2, self.numbers)
        return self.predict(x, keep, gamma, weight, bias, eps, weight1, bias1, weight2, bias2, self.numbers)

    def bprop(self, x: Tensor, keep: Tensor, gamma: Tensor, weight: Tensor, bias: Tensor, eps: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor,
              bias2: Tensor, out: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Gradients of all but keep and eps."""
        kept = out if self.training else self.forward(x, keep, gamma, weight, bias, eps, weight1, bias1, weight2, bias2, self.numbers)
        found = self.backward(x, keep, gamma, weight, bias, eps, weight1, bias1, weight2, bias2, self.numbers, kept[1], kept[2], kept[3], kept[4], kept[5],
                              kept[6], gradients[0])
        return (found[0], ops.zeros_like(keep), *found[1:4], ops.zeros_like(eps), *found[4:8])


class CrossCovarianceBranch(nn.Cell):
    """AttentionBranch with CrossCovariance's attention and its temperature (heads, 1, 1). Outputs: the result and, while training, eight for the gradient."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = Tensor([eps], ms.float32)

        def squares(x: Any, temperature: Any) -> Any:
            return _cross_covariance(_triple(x), temperature)[1:]

        self.forward = kernel("CovarianceBranch", lambda *shapes: (*_attention_branch(shapes[0]), *squares(shapes[0], shapes[10])), 9)
        self.predict = kernel("CovarianceBranchPredict", lambda *shapes: (shapes[0], _triple(shapes[0]), shapes[0], *squares(shapes[0], shapes[10])), 6)
        self.backward = kernel("CovarianceBranchGrad", lambda *shapes: (*_ends(*shapes), shapes[0], shapes[0], _triple(shapes[0]), shapes[10]), 12)

    def construct(self, x: Tensor, keep: Tensor, gamma: Tensor, weight: Tensor, bias: Tensor, eps: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor,
                  bias2: Tensor, temperature: Tensor) -> tuple[Tensor, ...]:
        if self.training:
            return self.forward(x, keep, gamma, weight, bias, eps, weight1, bias1, weight2, bias2, temperature, self.eps)
        return self.predict(x, keep, gamma, weight, bias, eps, weight1, bias1, weight2, bias2, temperature, self.eps)

    def bprop(self, x: Tensor, keep: Tensor, gamma: Tensor, weight: Tensor, bias: Tensor, eps: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor,
              bias2: Tensor, temperature: Tensor, out: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Gradients of all but keep and eps."""
        kept = out if self.training else self.forward(x, keep, gamma, weight, bias, eps, weight1, bias1, weight2, bias2, temperature, self.eps)
        found = self.backward(x, keep, gamma, weight, bias, eps, weight1, bias1, weight2, bias2, temperature, self.eps, kept[1], kept[2], kept[3], kept[4],
                              kept[5], kept[6], kept[7], kept[8], gradients[0])
        return (found[0], ops.zeros_like(keep), *found[1:4], ops.zeros_like(eps), *found[4:8], found[11])


class Pixels(nn.Cell):
    """x factor + offset, float32, channels before height and width. x: uint8 (B, H, W, C), factor and offset: (C,). -> (B, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("Pixels", _channels_first)

    def construct(self, x: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
        return self.forward(x, factor, offset)


class MixedPixels(nn.Cell):
    """As Pixels, then erased and mixed: noise (H, W, C), boxes (B, 4) int32 and own_pixel (H, W, 1) are those of data.mixing.Draw."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("MixedPixels", _channels_first)

    def construct(self, x: Tensor, factor: Tensor, offset: Tensor, noise: Tensor, boxes: Tensor, own_pixel: Tensor) -> Tensor:
        return self.forward(x, factor, offset, noise, boxes, own_pixel)


class ChannelsLast(nn.Cell):
    """(B, C, H, W) -> (B, H, W, C), for few channels."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("ChannelsLast", lambda x: [x[0], *x[2:], x[1]])

    def construct(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def bprop(self, x: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradient of x; with a plain operator: training needs no gradient of pictures."""
        return (gradient.transpose(0, 3, 1, 2),)


class Resize(nn.Cell):
    """R x K^T for each picture and channel. x: (B, C, H, W), R: (H', H), K: (W', W), of few values that are not zero; no gradients of those."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("Resize", lambda x, rows, columns: [*x[:2], rows[0], columns[0]])

    def construct(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return self.forward(x, rows, columns)

    def bprop(self, x: Tensor, rows: Tensor, columns: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradient of x; with plain operators: training needs no gradient of pictures."""
        return ops.matmul(ops.matmul(rows.transpose(1, 0), gradient), columns), ops.zeros_like(rows), ops.zeros_like(columns)


class SquareSum(nn.Cell):
    """The sum of all squares of any number of float32 tensors, (1,)."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("SquareSum", lambda *_: [1])

    def construct(self, *tensors: Tensor) -> Tensor:
        return self.forward(*tensors)


class AdamW(nn.Cell):
    """A step of optimiser.AdamW for all weights. decay and rates: one a weight. Output: (1,), there once weights and moments have changed in place."""

    def __init__(self, decay: Sequence[float], rates: Sequence[float]) -> None:
        super().__init__()
        self.decay, self.rates = Tensor(decay, ms.float32), Tensor(rates, ms.float32)
        self.forward = changing(kernel("AdamW", lambda *_: [1]), "1" * 3 * len(decay) + "0" * (len(decay) + 3))

    def construct(self, weights: tuple[Tensor, ...], moment1: tuple[Tensor, ...], moment2: tuple[Tensor, ...], gradients: tuple[Tensor, ...],
                  numbers: Tensor) -> Tensor:
        return self.forward(*weights, *moment1, *moment2, *gradients, self.decay, self.rates, numbers)


# cells that stand for a Softmax among others
WITH_WEIGHTS = (Attention, BiasedAttention, MixedAttention, ClassQuery, CrossCovariance, AttentionBranch, CrossCovarianceBranch, CrossFusion)


def _cross_covariance(qkv: Any, temperature: Any, *_: Any) -> Any:
    batch, tokens = qkv[:2]
    channels, heads = qkv[2] // 3, temperature[0]
    depth = channels // heads
    return [batch, tokens, channels], [batch, heads, depth, depth], [batch, heads, depth, depth], [batch, heads, 2, depth]


def _product(x: Any, weight: Any, *_: Any) -> Any:
    return [*x[:-1], weight[0]]


def _weight_and_bias(x: Any, dy: Any) -> Any:
    return [dy[-1], x[-1]], [dy[-1]]


def _channels_first(x: Any, *_: Any) -> Any:
    return [x[0], x[3], *x[1:3]]


def _like_first(first: Any, *_: Any) -> Any:
    return first


def _first_and_second(first: Any, second: Any, *_: Any) -> Any:
    return first, second


def _first_and_twice_second(first: Any, second: Any, *_: Any) -> Any:
    return first, second, second


def _first_and_rows(first: Any, *_: Any) -> Any:
    rows = [math.prod(first[:-1])]
    return first, rows, rows


def _triple(x: Any) -> Any:
    return [*x[:-1], 3 * x[-1]]


def _mlp_branch(x: Any, *more: Any) -> Any:
    return x, *_first_and_rows(x), [*x[:-1], more[5][0]]


def _attention_branch(x: Any) -> Any:
    return x, *_first_and_rows(x), _triple(x), x


def _ends(x: Any, keep: Any, gamma: Any, weight: Any, bias: Any, eps: Any, *products: Any) -> Any:
    return x, gamma, weight, bias, *products[:4]
