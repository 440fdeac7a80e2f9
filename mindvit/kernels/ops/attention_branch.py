"""The residual branches of attention."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops

from mindvit.kernels.ops.attention import cross_covariance
from mindvit.kernels.ops.custom import (
    ProductCell,
    Shape,
    Tensors,
    branch_end_gradients,
    first_and_row_statistics,
    kernel,
    triple_width,
)


class AttentionBranch(ProductCell):
    """x + drop_path_scale gamma attention(norm(x)), from end to end; the attention is `Attention` between two products.

    x: (B, N, C); drop_path_scale and gamma: see Residual; norm: weight (C,), bias (C,) and eps (1,); products:
    qkv's weight (3C, C) and bias (3C,), the last one's weight (C, C) and bias (C,); numbers and bias: see Attention.
    Outputs: the result and, while training, five for the gradient, unless it recomputes.
    """

    recomputes = False  # see MlpBranch

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("AttentionBranch", lambda x, *_: branch_shapes(x), 6)
        self.forward_again = kernel("AttentionBranchRecompute", lambda x, *_: branch_shapes(x)[1:], 5)
        self.predict = kernel("AttentionBranchPredict", lambda x, *_: (x, triple_width(x), x), 3)
        self.backward = kernel("AttentionBranchGrad", lambda *shapes: (*backward_shapes(*shapes), shapes[11]), 12)

    def construct(
        self,
        x: Tensor,
        drop_path_scale: Tensor,
        gamma: Tensor,
        norm: Tensors,
        products: Tensors,
        numbers: Tensor,
        scores_bias: Tensor,
    ) -> Tensors:
        weight, bias, eps = norm
        weight1, bias1, weight2, bias2 = products
        if self.training and not self.recomputes:
            return self.forward(
                x, drop_path_scale, gamma, weight, bias, eps, weight1, bias1, weight2, bias2, numbers, scores_bias
            )
        return self.predict(
            x, drop_path_scale, gamma, weight, bias, eps, weight1, bias1, weight2, bias2, numbers, scores_bias
        )

    def bprop(
        self,
        x: Tensor,
        drop_path_scale: Tensor,
        gamma: Tensor,
        norm: Tensors,
        products: Tensors,
        numbers: Tensor,
        scores_bias: Tensor,
        out: Tensors,
        gradients: Tensors,
    ) -> tuple:
        """Gradients of all but drop_path_scale, eps and numbers."""
        weight, bias, eps = norm
        weight1, bias1, weight2, bias2 = products
        saved = out[1:]
        if self.recomputes or not self.training:
            later = ops.depend(x, gradients[0])  # not before the gradient is there
            saved = self.forward_again(
                later, drop_path_scale, gamma, weight, bias, eps, weight1, bias1, weight2, bias2, numbers, scores_bias
            )
        y, mean, inverse, qkv, attended = saved
        # fmt: off
        found = self.backward(
            x, drop_path_scale, gamma, weight, bias, eps, weight1, bias1, weight2, bias2, numbers, scores_bias, y,
            mean, inverse, qkv, attended, gradients[0]
        )
        # fmt: on
        zeros = ops.zeros_like(drop_path_scale), ops.zeros_like(eps), ops.zeros_like(numbers)
        return found[0], zeros[0], found[1], (found[2], found[3], zeros[1]), found[4:8], zeros[2], found[11]


class CrossCovarianceBranch(ProductCell):
    """AttentionBranch with the attention of `CrossCovariance` and its temperature (heads, 1, 1).

    Outputs: the result and, while training, eight for the gradient, unless it recomputes.
    """

    recomputes = False  # see MlpBranch

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = Tensor([eps], ms.float32)

        def saved_shapes(shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
            return cross_covariance(triple_width(shapes[0]), shapes[10])[1:]

        def forward_shapes(*shapes: Shape) -> tuple[Shape, ...]:
            return *branch_shapes(shapes[0]), *saved_shapes(shapes)

        def predict_shapes(*shapes: Shape) -> tuple[Shape, ...]:
            return shapes[0], triple_width(shapes[0]), shapes[0], *saved_shapes(shapes)

        self.forward = kernel("CovarianceBranch", forward_shapes, 9)
        self.forward_again = kernel("CovarianceBranchRecompute", lambda *shapes: forward_shapes(*shapes)[1:], 8)
        self.predict = kernel("CovarianceBranchPredict", predict_shapes, 6)
        self.backward = kernel("CovarianceBranchGrad", lambda *shapes: (*backward_shapes(*shapes), shapes[10]), 12)

    def construct(
        self, x: Tensor, drop_path_scale: Tensor, gamma: Tensor, norm: Tensors, products: Tensors, temperature: Tensor
    ) -> Tensors:
        weight, bias, eps = norm
        weight1, bias1, weight2, bias2 = products
        if self.training and not self.recomputes:
            return self.forward(
                x, drop_path_scale, gamma, weight, bias, eps, weight1, bias1, weight2, bias2, temperature, self.eps
            )
        return self.predict(
            x, drop_path_scale, gamma, weight, bias, eps, weight1, bias1, weight2, bias2, temperature, self.eps
        )

    def bprop(
        self,
        x: Tensor,
        drop_path_scale: Tensor,
        gamma: Tensor,
        norm: Tensors,
        products: Tensors,
        temperature: Tensor,
        out: Tensors,
        gradients: Tensors,
    ) -> tuple:
        """Gradients of all but drop_path_scale and eps."""
        weight, bias, eps = norm
        weight1, bias1, weight2, bias2 = products
        saved = out[1:]
        if self.recomputes or not self.training:
            later = ops.depend(x, gradients[0])  # not before the gradient is there
            saved = self.forward_again(
                later, drop_path_scale, gamma, weight, bias, eps, weight1, bias1, weight2, bias2, temperature, self.eps
            )
        y, mean, inverse, qkv, attended, weights, inner_products, lengths = saved
        # fmt: off
        found = self.backward(
            x, drop_path_scale, gamma, weight, bias, eps, weight1, bias1, weight2, bias2, temperature, self.eps, y,
            mean, inverse, qkv, attended, weights, inner_products, lengths, gradients[0]
        )
        # fmt: on
        zeros = ops.zeros_like(drop_path_scale)
        return found[0], zeros, found[1], (found[2], found[3], ops.zeros_like(eps)), found[4:8], found[11]


def branch_shapes(x: Shape) -> tuple[Shape, ...]:
    """Outputs: the result, norm(x), its rows' means and inverse deviations, qkv, and what the last product is of."""
    return x, *first_and_row_statistics(x), triple_width(x), x


def backward_shapes(*shapes: Shape) -> tuple[Shape, ...]:
    """Outputs: the gradients, and three tensors to work with."""
    return *branch_end_gradients(*shapes), shapes[0], shapes[0], triple_width(shapes[0])
