"""Layer and batch normalization."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindvit.kernels.ops.custom import (
    Tensors,
    changing,
    first_and_row_statistics,
    kernel,
    like_first,
    like_first_and_second_twice,
)


class LayerNorm(nn.Cell):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis.

    x: (..., C), weight and bias: (C,), float32.

    Outputs: x, for a residual branch, whose gradient is then added up with the norm's own; the result; and each row's
    mean and inverse deviation.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = Tensor([eps], ms.float32)
        self.forward = kernel("LayerNormForward", first_and_row_statistics, 3)
        self.backward = kernel("LayerNormGrad", like_first_and_second_twice, 3)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        y, mean, inverse = self.forward(x, weight, bias, self.eps)
        return x, y, mean, inverse

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensors, gradients: Tensors) -> Tensors:
        """Gradients of x, weight and bias."""
        return self.backward(x, weight, out[2], out[3], gradients[1], gradients[0])


class BatchNorm(nn.Cell):
    """Normalizes channels, the last axis, by the batch's own mean and (biased) variance.

    The running statistics move in place, as PyTorch's do. x: (..., C), counts: (K,), a number for each of the K maps
    that x is, 0 for those that are padding and don't count; the others (C,). Outputs: the result, mean (C,) and
    variance (C,).
    """

    def __init__(self, eps: float, momentum: float) -> None:
        super().__init__()
        self.numbers = Tensor([eps, momentum], ms.float32)
        self.forward = changing(kernel("BatchNormForward", lambda x, weight, *_: (x, weight, weight), 3), "0001100")
        self.backward = kernel("BatchNormGrad", like_first_and_second_twice, 3)

    def construct(
        self, x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, counts: Tensor
    ) -> Tensors:
        return self.forward(x, weight, bias, running_mean, running_var, counts, self.numbers)

    def bprop(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        counts: Tensor,
        out: Tensors,
        gradients: Tensors,
    ) -> Tensors:
        """Gradients of x, weight and bias."""
        found = self.backward(x, weight, counts, self.numbers, out[1], out[2], gradients[0])
        return (*found, ops.zeros_like(running_mean), ops.zeros_like(running_var), ops.zeros_like(counts))


class BatchNormPredict(nn.Cell):
    """BatchNorm by the running mean and variance, which stay as they are."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.numbers = Tensor([eps, 0.0], ms.float32)
        self.forward = kernel("BatchNormPredict", like_first)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor) -> Tensor:
        return self.forward(x, weight, bias, running_mean, running_var, self.numbers)

    def bprop(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        out: Tensor,
        gradient: Tensor,
    ) -> Tensors:
        """Gradients of x, weight and bias; with plain operators, for nobody trains this way."""
        inverse = ops.rsqrt(running_var + self.eps)
        rows = gradient.reshape(-1, x.shape[-1])
        deviations = x.reshape(-1, x.shape[-1]) - running_mean
        dx, dweight, dbias = gradient * (weight * inverse), (rows * deviations).sum(0) * inverse, rows.sum(0)
        return dx, dweight, dbias, ops.zeros_like(running_mean), ops.zeros_like(running_var)
