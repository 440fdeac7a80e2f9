"""The residual branch of XCiT's local patch interaction."""

from __future__ import annotations

from typing import Optional

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindvit.kernels.ops.custom import Shape, Tensors, changing, kernel


class RunningLocalBranch(nn.Cell):
    """x + drop_path_scale gamma conv2(bn(gelu(conv1(norm(x))))), XCiT's local patch interaction from end to end, by
    the running statistics, which stay as they are: in evaluation, and where they are frozen.

    x: (B, H, W, C); drop_path_scale: see Residual; gamma: (C,); norm: weight (C,), bias (C,) and eps (1,); conv1,
    conv2: weight (C, 1, 3, 3) and bias (C,) of a depth-wise convolution; bn: weight, bias, running mean and
    variance, (C,) each. Outputs: (B, H, W, C), and a tensor that nobody needs.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.numbers = Tensor([eps, 0, 0], ms.float32)  # no momentum, and statistics that are constants
        self.forward = kernel("LocalBranchPredict", lambda *shapes: (shapes[0], shapes[0]), 2)
        self.forward_again = kernel("LocalBranchRecompute", lambda *shapes: forward_shapes(*shapes)[1:7], 6)
        self.backward = kernel("LocalBranchGrad", backward_shapes, 12)

    def construct(
        self,
        x: Tensor,
        drop_path_scale: Tensor,
        gamma: Tensor,
        norm: Tensors,
        conv1: Tensors,
        bn: Tensors,
        conv2: Tensors,
    ) -> Tensors:
        norm_weight, norm_bias, norm_eps = norm
        weight, bias, mean, variance = bn
        # fmt: off
        return self.forward(
            x, drop_path_scale, gamma, norm_weight, norm_bias, norm_eps, conv1[0], conv1[1], weight, bias, mean,
            variance, self.numbers, conv2[0], conv2[1]
        )
        # fmt: on

    def kept(self, bn: Tensors, out: Tensors) -> tuple[Tensors, Optional[Tensors]]:
        """The mean and variance that have normalized, and six tensors that were kept for the gradient, or None."""
        return bn[2:], None

    def bprop(
        self,
        x: Tensor,
        drop_path_scale: Tensor,
        gamma: Tensor,
        norm: Tensors,
        conv1: Tensors,
        bn: Tensors,
        conv2: Tensors,
        out: Tensors,
        gradients: Tensors,
    ) -> tuple:
        """Gradients of all but drop_path_scale, eps and the running statistics."""
        norm_weight, norm_bias, norm_eps = norm
        weight, bias = bn[:2]
        (mean, variance), saved = self.kept(bn, out)
        # fmt: off
        if saved is None:
            later = ops.depend(x, gradients[0])  # not before the gradient is there
            saved = self.forward_again(
                later, drop_path_scale, gamma, norm_weight, norm_bias, norm_eps, conv1[0], conv1[1], weight, bias, mean,
                variance, self.numbers, conv2[0], conv2[1]
            )
        normed, means, inverses, z, gelu, h = saved
        found = self.backward(
            x, drop_path_scale, gamma, norm_weight, norm_bias, norm_eps, conv1[0], conv1[1], weight, bias, mean,
            variance, self.numbers, conv2[0], conv2[1], normed, means, inverses, z, gelu, h, gradients[0]
        )
        # fmt: on
        zeros = ops.zeros_like(gamma)
        return (
            found[0],
            ops.zeros_like(drop_path_scale),
            found[1],
            (found[2], found[3], ops.zeros_like(norm_eps)),
            found[4:6],
            (found[6], found[7], zeros, zeros),
            found[8:10],
        )


class LocalBranch(RunningLocalBranch):
    """The same in training: by the batch's statistics, which move the running ones in place.

    Outputs: (B, H, W, C), and eight for the gradient, of which only the last two, the batch's statistics, are kept if
    it recomputes.
    """

    recomputes = False  # see MlpBranch

    def __init__(self, eps: float, momentum: float) -> None:
        super().__init__(eps)
        self.numbers = Tensor([eps, momentum, 1], ms.float32)
        self.forward = changing(kernel("LocalBranch", forward_shapes, 9), "000000000011000")

    def kept(self, bn: Tensors, out: Tensors) -> tuple[Tensors, Optional[Tensors]]:
        return out[7:9], None if self.recomputes else out[1:7]


def forward_shapes(x: Shape, drop_path_scale: Shape, gamma: Shape, *_: Shape) -> tuple[Shape, ...]:
    """Outputs: the result, norm(x), its rows' means and inverse deviations, three maps, and the batch's mean and
    variance.
    """
    rows = [x[0] * x[1] * x[2]]
    return x, x, rows, rows, x, x, x, gamma, gamma


def backward_shapes(
    x: Shape,
    drop_path_scale: Shape,
    gamma: Shape,
    norm_weight: Shape,
    norm_bias: Shape,
    norm_eps: Shape,
    *others: Shape,
) -> tuple[Shape, ...]:
    """Outputs: the gradients, and two maps to work with."""
    weight1, bias1, weight, bias = others[:4]
    weight2, bias2 = others[7:9]
    return x, gamma, norm_weight, norm_bias, weight1, bias1, weight, bias, weight2, bias2, x, x
