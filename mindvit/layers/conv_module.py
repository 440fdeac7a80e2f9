"""A convolution with what usually follows it in the heads of detectors and segmentors."""

from __future__ import annotations

import math
from typing import Any

from mindspore import Tensor, nn
from mindspore.common.initializer import Normal, Uniform, Zero, initializer

from mindvit.layers.conv import Conv2d
from mindvit.layers.norm import BatchNorm


class ConvModule(nn.Cell):
    """Convolution of maps, and BatchNorm and, unless `linear` is true, ReLU where `norm` is true (then the convolution
    has no bias).

    The sides of maps stay as they are at stride 1. Parameter names are OpenMMLab's: conv, bn. The weights begin as
    there: normal with variance 2 / (outputs k k); `xavier`: uniform with Xavier's bound.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        norm: bool = True,
        stride: int = 1,
        xavier: bool = False,
        linear: bool = False,
    ):
        super().__init__()
        self.conv = Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=not norm)
        places = kernel * kernel
        init = (
            Uniform(math.sqrt(6 / ((inputs + outputs) * places)))
            if xavier
            else Normal(math.sqrt(2 / (outputs * places)))
        )
        self.conv.weight.set_data(initializer(init, self.conv.weight.shape, self.conv.weight.dtype))
        if not norm:
            self.conv.bias.set_data(initializer(Zero(), self.conv.bias.shape, self.conv.bias.dtype))
        self.bn: Any = BatchNorm(outputs) if norm else None
        self.activate = nn.Identity() if linear else nn.ReLU()

    def construct(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if self.bn is None else self.activate(self.bn(x))
