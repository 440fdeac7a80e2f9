"""Convolutions of maps (B, H, W, C), and patches of images."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindvit.kernels.ops.custom import ProductCell, Shape, Tensors, kernel


class Depthwise(nn.Cell):
    """3x3 convolution of every channel by itself, padding 1, stride 1 or 2.

    x: (B, H, W, C), weight: (C, 1, 3, 3), bias: (C,).
    """

    def __init__(self, stride: int) -> None:
        super().__init__()

        def shapes(x: Shape, *_: Shape) -> Shape:
            return [x[0], (x[1] - 1) // stride + 1, (x[2] - 1) // stride + 1, x[3]]

        self.forward = kernel("Depthwise", shapes, 1, stride)
        self.backward = kernel("DepthwiseGrad", lambda x, weight, dy: (x, weight, [x[3]]), 3)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.forward(x, weight, bias)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, gradient: Tensor) -> Tensors:
        """Gradients of x, weight and bias."""
        return self.backward(x, weight, gradient)


class Im2col(nn.Cell):
    """What lies under a convolution's kernel at each place, the input's channels innermost.

    x: (B, H, W, I) -> (B, H', W', k*k*I).
    """

    def __init__(self, size: int, stride: int, padding: int) -> None:
        super().__init__()
        self.geometry = Tensor([size, stride, padding], ms.float32)

        def shapes(x: Shape, *_: Shape) -> Shape:
            return [x[0], *((side + 2 * padding - size) // stride + 1 for side in x[1:3]), size * size * x[3]]

        self.forward = kernel("Im2col", shapes, 1, (size, stride, padding))
        self.backward = kernel("Im2colGrad", lambda gradient, geometry, x: x)

    def construct(self, x: Tensor) -> Tensor:
        return self.forward(x, self.geometry)

    def bprop(self, x: Tensor, out: Tensor, gradient: Tensor) -> Tensors:
        """Gradient of x."""
        return (self.backward(gradient, self.geometry, x),)


class Conv(ProductCell):
    """Convolution whose kernel (side x side) is some strides high; nothing of what lies under the kernel is kept.

    x: (B, H, W, I), weight: (O, I, side, side), bias: (O,) -> (B, H', W', O).
    """

    def __init__(self, side: int, stride: int, padding: int) -> None:
        super().__init__()
        self.geometry = Tensor([side, stride, padding], ms.float32)

        def shapes(x: Shape, weight: Shape, *_: Shape) -> Shape:
            return [x[0], *((length + 2 * padding - side) // stride + 1 for length in x[1:3]), weight[0]]

        def weight_shapes(x: Shape, dy: Shape, geometry: Shape) -> tuple[Shape, Shape]:
            return [dy[3], x[3], side, side], [dy[3]]

        self.forward = kernel("Conv", shapes, 1, (side, stride, padding))
        self.weight_gradient = kernel("ConvWeightGrad", weight_shapes, 2, side)
        self.input_gradient = kernel("ConvInputGrad", lambda weight, dy, geometry, x: x)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.forward(x, weight, bias, self.geometry)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, gradient: Tensor) -> Tensors:
        """Gradients of x, weight and bias."""
        dx = self.input_gradient(weight, gradient, self.geometry, x)
        return (dx, *self.weight_gradient(x, gradient, self.geometry))


class ConvSame(ProductCell):
    """Convolution with stride 1 and half of an odd kernel (side x side) as padding: maps keep their sides.

    x: (B, H, W, I), weight: (O, I, side, side), bias: (O,) -> (B, H, W, O). Nothing else is kept for the gradients.
    """

    def __init__(self, side: int) -> None:
        super().__init__()

        def weight_shapes(x: Shape, dy: Shape) -> tuple[Shape, Shape]:
            return [dy[3], x[3], side, side], [dy[3]]

        self.weight_gradient = kernel("ConvSameWeightGrad", weight_shapes, 2, side)
        self.forward = kernel("ConvSame", lambda x, weight, bias: [*x[:3], weight[0]])
        self.input_gradient = kernel("ConvSameInputGrad", lambda weight, dy: [*dy[:3], weight[1]])

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.forward(x, weight, bias)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: Tensor, gradient: Tensor) -> Tensors:
        """Gradients of x, weight and bias."""
        return (self.input_gradient(weight, gradient), *self.weight_gradient(x, gradient))


class PatchTokens(ProductCell):
    """A class token, and patches of side x side px times a matrix; each plus its position.

    x: (B, C, H, W), weight: (D, C, side, side), bias: (D,), cls: (1, 1, D), positions: (1, 1 + N, D). Outputs: tokens
    (B, 1 + N, D), and patches (B, N, C side side).
    """

    def __init__(self, side: int) -> None:
        super().__init__()

        def forward_shapes(x: Shape, weight: Shape, *_: Shape) -> tuple[Shape, ...]:
            patches = (x[2] // side) * (x[3] // side)
            return [x[0], 1 + patches, weight[0]], [x[0], patches, x[1] * side * side]

        def backward_shapes(patches: Shape, tokens: Shape) -> tuple[Shape, ...]:
            width = tokens[2]
            return [width, patches[2] // side**2, side, side], [width], [1, 1, width], [1, *tokens[1:]]

        self.side = side
        self.forward = kernel("PatchTokens", forward_shapes, 2, side)
        self.backward = kernel("PatchTokensGrad", backward_shapes, 4, side)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor, cls: Tensor, positions: Tensor) -> Tensors:
        return self.forward(x, weight, bias, cls, positions)

    def bprop(
        self, x: Tensor, weight: Tensor, bias: Tensor, cls: Tensor, positions: Tensor, out: Tensors, gradients: Tensors
    ) -> Tensors:
        """Gradients of all; that of x with plain operators: training needs no gradient of images."""
        batch, channels, height, width = x.shape
        side, across, down = self.side, width // self.side, height // self.side
        dx = ops.matmul(gradients[0][:, 1:].reshape(-1, weight.shape[0]), weight.reshape(weight.shape[0], -1))
        dx = dx.reshape(batch, down, across, channels, side, side).transpose(0, 3, 1, 4, 2, 5).reshape(x.shape)
        found = self.backward(out[1], gradients[0])
        return dx, found[0], found[1], found[2], found[3]
