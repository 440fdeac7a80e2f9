"""GELU and softmax."""

from __future__ import annotations

from mindspore import Tensor, nn

from mindvit.kernels.ops.custom import kernel, like_first


class Gelu(nn.Cell):
    """x * Phi(x), any shape, float32."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("GeluForward", like_first)
        self.backward = kernel("GeluGrad", like_first)

    def construct(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def bprop(self, x: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradient of x."""
        return (self.backward(x, gradient),)


class Softmax(nn.Cell):
    """softmax over the last axis, any shape, float32."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("SoftmaxForward", like_first)
        self.backward = kernel("SoftmaxGrad", like_first)

    def construct(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def bprop(self, x: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradient of x."""
        return (self.backward(out, gradient),)
