"""Convolutions with PyTorch's weights (O, I, k, k), as matrix products where that is faster than the framework's kernel."""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Uniform

from mindvit import device
from mindvit.layers.basic import weight_of


class Conv2d(nn.Cell):
    """Convolution with bias. x: (B, I, H, W) -> (B, O, H', W'), H' = (H + 2 padding - kernel) // stride + 1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, padding: int):
        super().__init__()
        bound = 1 / math.sqrt(inputs * kernel * kernel)  # torch's default for weight and bias, which the papers keep
        self.weight = weight_of((outputs, inputs, kernel, kernel), Uniform(bound))
        self.bias = weight_of((outputs,), Uniform(bound))
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.compute_type = ms.float32
        self.as_product = device.convolution_is_slow()
        self.product = ops.MatMul(transpose_b=True)
        self.convolve = ops.Conv2D(outputs, kernel, pad_mode="pad", pad=padding, stride=stride)

    def rows(self, x: Tensor) -> Tensor:
        """The same, channels last and flattened: (B*H'*W', O)."""
        x = x.astype(self.compute_type)
        weight = self.weight.astype(self.compute_type)
        batch, channels, height, width = x.shape
        if self.kernel == self.stride and self.padding == 0:  # patches do not overlap: a reshape finds them
            h, w, k = height // self.stride, width // self.stride, self.kernel
            patches = x.reshape(batch, channels, h, k, w, k).transpose(0, 2, 4, 1, 3, 5)
        elif self.as_product:
            patches = ops.unfold(x, (self.kernel, self.kernel), 1, self.padding, self.stride).transpose(0, 2, 1)
        else:
            y = self.convolve(x, weight).transpose(0, 2, 3, 1)
            return y.reshape(-1, y.shape[3]) + self.bias.astype(self.compute_type)
        weight = weight.reshape(weight.shape[0], -1)
        return self.product(patches.reshape(-1, weight.shape[1]), weight) + self.bias.astype(self.compute_type)

    def construct(self, x: Tensor) -> Tensor:
        height, width = ((side + 2 * self.padding - self.kernel) // self.stride + 1 for side in x.shape[2:])
        return self.rows(x).reshape(x.shape[0], height, width, -1).transpose(0, 3, 1, 2)
