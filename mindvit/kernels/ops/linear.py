"""Products with weights."""

from __future__ import annotations

from mindspore import Tensor

from mindvit.kernels.ops.custom import ProductCell, Shape, kernel


class Linear(ProductCell):
    """x W^T + bias. x: (..., I), weight: (O, I), bias: (O,), float32 -> (..., O)."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("Linear", lambda x, weight, *_: [*x[:-1], weight[0]])
        self.input_gradient = kernel("LinearInputGrad", lambda weight, dy: [*dy[:-1], weight[1]])
        # apart from the input's: a graph drops what nobody asks for
        self.weight_gradient = kernel("LinearWeightGrad", weight_and_bias, 2)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.forward(x, weight, bias)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradients of x, weight and bias."""
        return (self.input_gradient(weight, gradient), *self.weight_gradient(x, gradient))


def weight_and_bias(x: Shape, dy: Shape) -> tuple[Shape, Shape]:
    """Outputs: the weight's and the bias's shape, for inputs (..., I) and outputs (..., O)."""
    return [dy[-1], x[-1]], [dy[-1]]
