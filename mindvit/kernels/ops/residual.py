"""Sums at the end of residual branches."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from mindvit.kernels.ops.custom import Tensors, kernel, like_first


class Sum(nn.Cell):
    """x + y of one shape, float32."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("Sum", like_first)

    def construct(self, x: Tensor, y: Tensor) -> Tensor:
        return self.forward(x, y)

    def bprop(self, x: Tensor, y: Tensor, out: Tensor, gradient: Tensor) -> Tensors:
        """Gradients of x and y."""
        return gradient, gradient


class Residual(nn.Cell):
    """x + drop_path_scale * gamma * y.

    x and y: (..., C), gamma: (C,) or (1,), drop_path_scale: a factor for the rows of each sample, (B,), or of all,
    (1,). drop_path_scale gets no gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("Residual", like_first)
        self.backward = kernel("ResidualGrad", lambda gamma, drop_path_scale, gradient: gradient)
        self.gamma_gradient = kernel("ResidualGammaGrad", lambda y, gamma, *_: gamma)

    def construct(self, x: Tensor, y: Tensor, gamma: Tensor, drop_path_scale: Tensor) -> Tensor:
        return self.forward(x, y, gamma, drop_path_scale)

    def bprop(
        self, x: Tensor, y: Tensor, gamma: Tensor, drop_path_scale: Tensor, out: Tensor, gradient: Tensor
    ) -> Tensors:
        """Gradients of x, y and gamma."""
        dy = self.backward(gamma, drop_path_scale, gradient)
        dgamma = self.gamma_gradient(y, gamma, drop_path_scale, gradient)
        return gradient, dy, dgamma, ops.zeros_like(drop_path_scale)
