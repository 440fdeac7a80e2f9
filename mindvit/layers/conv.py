"""Convolutions and batch normalization (norm.BatchNorm) with PyTorch's weights, as matrix products where that is
faster than the framework's kernels.

They work on maps: images or tokens on their grid, in one of three layouts. (B, H, W, C), tokens as they are, with
our own kernels; (C, B, H, W) where convolutions are products, which then need no transposition between them; (B,
C, H, W) elsewhere. `FeatureLayout` goes in and out; nothing else knows the layout.
"""

from __future__ import annotations

import math
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, mint, nn, ops
from mindspore.common.initializer import Uniform

from mindvit.kernels import ops as kernels
from mindvit.layers.linear import Product, weight_of
from mindvit.layers.transpose import Transpose
from mindvit.runtime import platform

PRODUCT_INPUTS = 64  # channels from which on a convolution is a product for each place under its kernel


class FeatureLayout(nn.Cell):
    """The layout of maps; channel_axis is where they have their channels."""

    def __init__(self) -> None:
        super().__init__()
        self.channels_last = platform.current().kernels
        self.channels_first = platform.current().slow_convolution
        self.channel_axis = 3 if self.channels_last else (0 if self.channels_first else 1)
        self.to_last, self.to_first = Transpose(0, 2, 3, 1), Transpose(0, 3, 1, 2)

    def grid(self, x: Tensor) -> tuple[int, int]:
        """Height and width of maps."""
        return (x.shape[1], x.shape[2]) if self.channels_last else (x.shape[2], x.shape[3])

    def from_images(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> maps."""
        if self.channels_last:
            return self.to_last(x.astype(ms.float32))
        return x.transpose(1, 0, 2, 3) if self.channels_first else x

    def from_tokens(self, x: Tensor, batch: int, height: int, width: int) -> Tensor:
        """(B*H*W, C) -> maps."""
        if self.channels_last:
            return x.reshape(batch, height, width, -1)
        if self.channels_first:
            return x.transpose(1, 0).reshape(-1, batch, height, width)
        return x.reshape(batch, height, width, -1).transpose(0, 3, 1, 2)

    def to_images(self, x: Tensor) -> Tensor:
        """Maps -> (B, C, H, W)."""
        if self.channels_last:
            return self.to_first(x)
        return self.from_images(x)  # swapping the first two axes is its own inverse

    def to_tokens(self, x: Tensor) -> Tensor:
        """Maps -> (B*H*W, C)."""
        if self.channels_last:
            return x.reshape(-1, x.shape[3])
        if self.channels_first:
            return x.reshape(x.shape[0], -1).transpose(1, 0)
        return x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1])


def _parameters(outputs: int, inputs: int, kernel: int, bias: bool) -> tuple[Parameter, Any]:
    """Weight and bias with torch's default initialization, which the papers keep for convolutions."""
    bound = 1 / math.sqrt(inputs * kernel * kernel)
    return weight_of((outputs, inputs, kernel, kernel), Uniform(bound)), weight_of(
        (outputs,), Uniform(bound)
    ) if bias else None


class Convolution(nn.Cell):
    """The device's own convolution of images, without a bias.

    x: (B, I, H, W); weight: (O, I / groups, k, k) of the same type -> (B, O, H', W').
    """

    def __init__(self, outputs: int, kernel: int, stride: int, padding: int, groups: int = 1):
        super().__init__()
        self.stride, self.padding, self.groups = stride, padding, groups
        self.direct = platform.current().direct_operators
        self.operator = ops.Conv2D(outputs, kernel, pad_mode="pad", pad=padding, stride=stride, group=groups)

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        if self.direct:
            return mint.nn.functional.conv2d(x, weight, None, self.stride, self.padding, 1, self.groups)
        return self.operator(x, weight)


class Conv2d(nn.Cell):
    """Convolution of maps: side S -> (S + 2 padding - kernel) // stride + 1, `inputs` -> `outputs` channels."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, padding: int, bias: bool = True):
        super().__init__()
        self.weight, self.bias = _parameters(outputs, inputs, kernel, bias)
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.compute_type = ms.float32
        keeps_sides = stride == 1 and kernel % 2 == 1 and padding == kernel // 2 and kernel > 1
        # the framework's product, one for each place under the kernel; of few inputs one for all is faster
        fits = platform.current().product_kernels and keeps_sides and inputs >= PRODUCT_INPUTS
        self.same_op: Any = kernels.ConvSame(kernel) if fits else None
        self.no_bias = Tensor(np.zeros(outputs, np.float32))
        # CrossFormer's kernel of 32 x 32 with stride 4 sees each pixel 64 times: it goes by blocks, without columns
        overlaps = platform.current().product_kernels and kernel >= 2 * stride and kernel % stride == 0 and not fits
        self.fused_op: Any = kernels.Conv(kernel, stride, padding) if overlaps else None
        self.im2col_op: Any = kernels.Im2col(kernel, stride, padding) if platform.current().kernels else None
        self.tokens_product = Product(outputs)
        self.to_last = Transpose(0, 2, 3, 1)
        self.as_product = platform.current().slow_convolution
        self.pointwise = kernel == stride == 1 and padding == 0
        self.patches = kernel == stride and padding == 0  # they do not overlap: a reshape finds them
        self.product = ops.MatMul()
        self.product_t = ops.MatMul(transpose_b=True)
        self.product_tt = ops.MatMul(transpose_a=True, transpose_b=True)
        self.convolve = Convolution(outputs, kernel, stride, padding)

    def side(self, side: int) -> int:
        """Output's height or width for an input's."""
        return (side + 2 * self.padding - self.kernel) // self.stride + 1

    def im2col(self, x: Tensor) -> Tensor:
        """(I, B, H, W) -> (I*k*k, B*H'*W'), the input under the kernel at every place."""
        inputs, batch, height, width = x.shape
        if self.pointwise:
            return x.reshape(inputs, -1)
        x = ops.unfold(
            x.reshape(inputs * batch, 1, height, width), (self.kernel, self.kernel), 1, self.padding, self.stride
        )
        return (
            x.reshape(inputs, batch, self.kernel * self.kernel, -1)
            .transpose(0, 2, 1, 3)
            .reshape(inputs * self.kernel * self.kernel, -1)
        )

    def by_kernel(self, x: Tensor) -> Tensor:
        """(B, H, W, I) -> (B*H'*W', O)."""
        if self.fused_op is not None and self.compute_type == ms.float32:
            y = self.fused_op(x.astype(ms.float32), self.weight, self.no_bias if self.bias is None else self.bias)
            return y.reshape(-1, y.shape[3])
        columns = x.astype(self.compute_type)
        if not self.pointwise:
            columns = self.im2col_op(x.astype(ms.float32)).astype(self.compute_type)
        weight = self.to_last(self.weight.astype(self.compute_type))
        columns, weight = columns.reshape(-1, columns.shape[3]), weight.reshape(weight.shape[0], -1)
        bias = None if self.bias is None else self.bias.astype(self.compute_type)
        return self.tokens_product(columns, weight, bias)

    def tokens(self, x: Tensor) -> Tensor:
        """Maps -> tokens (B*H'*W', O)."""
        if self.im2col_op is not None:
            return self.by_kernel(x)
        x, weight = x.astype(self.compute_type), self.weight.astype(self.compute_type)
        if self.patches:
            inputs, k = weight.shape[1], self.kernel
            height, width = self.side(x.shape[2]), self.side(x.shape[3])
            if x.shape[2] % k or x.shape[3] % k:
                x = x[:, :, : height * k, : width * k]
            if self.as_product:
                x = x.reshape(inputs, -1, height, k, width, k).transpose(1, 2, 4, 0, 3, 5)
            else:
                x = x.reshape(-1, inputs, height, k, width, k).transpose(0, 2, 4, 1, 3, 5)
            y = self.product_t(x.reshape(-1, inputs * k * k), weight.reshape(weight.shape[0], -1))
        elif self.as_product:
            y = self.product_tt(self.im2col(x), weight.reshape(weight.shape[0], -1))
        else:
            y = self.convolve(x, weight).transpose(0, 2, 3, 1)
            y = y.reshape(-1, y.shape[3])
        return y if self.bias is None else y + self.bias.astype(self.compute_type)

    def construct(self, x: Tensor) -> Tensor:
        if self.same_op is not None and self.compute_type == ms.float32:
            return self.same_op(x.astype(ms.float32), self.weight, self.no_bias if self.bias is None else self.bias)
        if self.im2col_op is not None:
            return self.by_kernel(x).reshape(x.shape[0], self.side(x.shape[1]), self.side(x.shape[2]), -1)
        x, weight = x.astype(self.compute_type), self.weight.astype(self.compute_type)
        bias = None if self.bias is None else self.bias.astype(self.compute_type).reshape(-1, 1, 1, 1)
        if self.as_product:
            y = self.product(weight.reshape(weight.shape[0], -1), self.im2col(x))
            y = y.reshape(y.shape[0], x.shape[1], self.side(x.shape[2]), self.side(x.shape[3]))
            return y if bias is None else y + bias
        y = self.convolve(x, weight)
        return y if bias is None else y + bias.reshape(1, -1, 1, 1)


@ops.constexpr
def _bands(width: int, stride: int) -> Tensor:
    """(9, rows in a block * width, blocks * W'): where each of a 3x3 kernel's nine values stands in the matrix of
    _product.

    Rows of the image, one of padding above, are cut into blocks of `stride`; tap row `dy` is row dy % stride of
    block dy // stride.
    """
    blocks, outputs = -(-3 // stride), (width - 1) // stride + 1
    bands = np.zeros((3, 3, stride, width, blocks, outputs), np.float32)
    for dy in range(3):
        for dx in range(3):
            for place in range(outputs):
                if 0 <= place * stride + dx - 1 < width:
                    bands[dy, dx, dy % stride, place * stride + dx - 1, dy // stride, place] = 1
    return Tensor(bands.reshape(9, stride * width, blocks * outputs))


class DepthwiseConv3x3(nn.Cell):
    """3x3 convolution of every channel of maps by itself, padding 1: side S -> (S - 1) // stride + 1.

    As a product: along a row of the image, convolving is multiplying by a banded matrix with the kernel's values.
    A block of `stride` rows times such a matrix gives the block's part in each of the output rows that it touches;
    these are added up.
    """

    def __init__(self, channels: int, stride: int = 1, bias: bool = True):
        super().__init__()
        self.weight, self.bias = _parameters(channels, 1, 3, bias)
        self.stride = stride
        self.compute_type = ms.float32
        self.fused_op: Any = kernels.Depthwise(stride) if platform.current().kernels else None
        self.no_bias = Tensor(np.zeros(channels, np.float32))
        self.as_product = platform.current().slow_convolution
        self.convolve = Convolution(channels, 3, stride, 1, channels)
        self.product = ops.BatchMatMul()

    def by_product(self, x: Tensor) -> Tensor:
        """(C, B, H, W) -> (C, B, H', W')."""
        channels, batch, height, width = x.shape
        stride, blocks = self.stride, -(-3 // self.stride)
        bands = _bands(width, stride).astype(x.dtype)
        outputs, out_width = (height - 1) // stride + 1, bands.shape[2] // blocks
        matrices = ops.matmul(self.weight.astype(x.dtype).reshape(channels, 9), bands.reshape(9, -1)).reshape(
            channels, *bands.shape[1:]
        )
        above = ops.zeros((channels, batch, 1, width), x.dtype)
        below = ops.zeros((channels, batch, stride * (outputs + blocks - 1) - 1 - height, width), x.dtype)
        x = ops.cat((above, x, below), 2).reshape(channels, -1, stride * width)
        parts = ops.split(self.product(x, matrices).reshape(channels, batch, -1, blocks * out_width), out_width, 3)
        y = parts[0][:, :, :outputs]
        for block in range(1, blocks):
            y = y + parts[block][:, :, block : block + outputs]
        return y

    def kernel_args(self) -> tuple[Tensor, Tensor]:
        """What a kernel that convolves takes: weight (C, 1, 3, 3) and bias (C,)."""
        return self.weight.value(), self.bias.value()

    def construct(self, x: Tensor) -> Tensor:
        if self.fused_op is not None:
            bias = self.no_bias if self.bias is None else self.bias
            return self.fused_op(x.astype(ms.float32), self.weight.value(), bias).astype(self.compute_type)
        x = x.astype(self.compute_type)
        y = self.by_product(x) if self.as_product else self.convolve(x, self.weight.astype(self.compute_type))
        if self.bias is None:
            return y
        return y + self.bias.astype(self.compute_type).reshape((-1, 1, 1, 1) if self.as_product else (1, -1, 1, 1))
