"""The residual branch of an MLP."""

from __future__ import annotations

from mindspore import Tensor, ops

from mindvit.kernels.ops.custom import (
    ProductCell,
    Shape,
    Tensors,
    branch_end_gradients,
    first_and_row_statistics,
    halved,
    kernel,
    like_first,
)


class MlpBranch(ProductCell):
    """x + drop_path_scale gamma (activation(norm(x) W1^T + b1) W2^T + b2), from end to end.

    x: (..., C); drop_path_scale and gamma: see Residual; norm: weight (C,), bias (C,) and eps (1,); products: W1
    (hidden, C), b1 (hidden,), W2 (C, hidden), b2 (C,). Outputs: the result and, while training, four for the
    gradient, unless it recomputes.
    """

    recomputes = False  # keep the inputs alone, and find in the backward pass what else the gradient needs

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.forward = kernel(f"Mlp{activation}", forward_shapes, 5, bfloat16_shapes=forward_shapes_of_halves)
        self.predict = kernel(f"Mlp{activation}Predict", like_first)
        self.forward_again = kernel(
            f"Mlp{activation}Recompute",
            lambda *shapes: forward_shapes(*shapes)[1:],
            4,
            bfloat16_shapes=lambda *shapes: forward_shapes_of_halves(*shapes)[1:],
        )
        self.backward = kernel(f"Mlp{activation}Grad", backward_shapes, 11, bfloat16_shapes=backward_shapes_of_halves)

    def construct(self, x: Tensor, drop_path_scale: Tensor, gamma: Tensor, norm: Tensors, products: Tensors) -> Tensors:
        weight, bias, eps = norm
        weight1, bias1, weight2, bias2 = products
        if self.training and not self.recomputes:
            return self.forward(x, drop_path_scale, gamma, weight, bias, eps, weight1, bias1, weight2, bias2)
        return (self.predict(x, drop_path_scale, gamma, weight, bias, eps, weight1, bias1, weight2, bias2),)

    def bprop(
        self,
        x: Tensor,
        drop_path_scale: Tensor,
        gamma: Tensor,
        norm: Tensors,
        products: Tensors,
        out: Tensors,
        gradients: Tensors,
    ) -> tuple:
        """Gradients of all but drop_path_scale and eps."""
        weight, bias, eps = norm
        weight1, bias1, weight2, bias2 = products
        saved = out[1:]
        if self.recomputes or not self.training:
            later = ops.depend(x, gradients[0])  # not before the gradient is there
            saved = self.forward_again(later, drop_path_scale, gamma, weight, bias, eps, weight1, bias1, weight2, bias2)
        y, mean, inverse, hidden = saved
        # fmt: off
        found = self.backward(
            x, drop_path_scale, gamma, weight, bias, eps, weight1, bias1, weight2, bias2, y, mean, inverse, hidden,
            gradients[0]
        )
        # fmt: on
        zeros = ops.zeros_like(drop_path_scale)
        return found[0], zeros, found[1], (found[2], found[3], ops.zeros_like(eps)), found[4:8]


def forward_shapes(x: Shape, *others: Shape) -> tuple[Shape, ...]:
    """Outputs: the result, norm(x), its rows' means and inverse deviations, what the activation is of."""
    hidden = others[5][0]
    return x, *first_and_row_statistics(x), [*x[:-1], hidden]


def forward_shapes_of_halves(x: Shape, *others: Shape) -> tuple[Shape, ...]:
    """The same where what is kept is rounded to bfloat16, two values in the room of a float32."""
    out, normed, means, inverses, hidden = forward_shapes(x, *others)
    return out, halved(normed), means, inverses, halved(hidden)


def backward_shapes(*shapes: Shape) -> tuple[Shape, ...]:
    """Outputs: the gradients, and three tensors to work with."""
    x, hidden = shapes[0], shapes[13]
    return *branch_end_gradients(*shapes), x, hidden, hidden


def backward_shapes_of_halves(*shapes: Shape) -> tuple[Shape, ...]:
    """The same where the tensors to work with are rounded to bfloat16; what the activation is of is so already."""
    x, hidden = shapes[0], shapes[13]
    return *branch_end_gradients(*shapes), halved(x), hidden, hidden
