"""Heads that tell the class of every pixel, with mmsegmentation's parameter names.

Maps come and go in the layout of layers.conv, the finest first; logits have the sides of the finest map, or, in
FCNHead, of the one it looks at.
"""

from __future__ import annotations

import math
from typing import Optional, Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Normal, Zero, initializer

from mindvit.layers.conv import Conv2d, FeatureLayout
from mindvit.layers.conv_module import ConvModule
from mindvit.layers.resample import AdaptiveAveragePool, Enlarge, Resample

CLASSIFIER_STD = 0.01  # of the last convolution's initial weights
POOLS = (1, 2, 3, 6)  # sides of the grids of means in the pyramid pooling


class Head(nn.Cell):
    """What all heads have: dropout of whole channels and a 1x1 convolution to the classes (`conv_seg`).

    dropout_scale: (B, channels) float32, each sample's factors of the channels, 0 or 1 / (1 - rate): what a training
    step passes down so that a run can be repeated. Without it nn.Dropout draws.
    """

    def __init__(self, channels: int, num_classes: int, drop_rate: float):
        super().__init__()
        self.channels = channels
        self.drop_rate = drop_rate
        self.drop = nn.Dropout(p=drop_rate)
        self.layout = FeatureLayout()
        self.conv_seg = Conv2d(channels, num_classes, 1, 1, 0)
        for parameter, init in ((self.conv_seg.weight, Normal(CLASSIFIER_STD)), (self.conv_seg.bias, Zero())):
            parameter.set_data(initializer(init, parameter.shape, parameter.dtype))

    def classify(self, x: Tensor, batch: int, dropout_scale: Optional[Tensor]) -> Tensor:
        """Maps of `channels` channels -> maps of logits."""
        if self.training and self.drop_rate > 0:
            if dropout_scale is None:
                dropout_scale = self.drop(ops.ones((batch, self.channels), ms.float32))
            factors = dropout_scale.astype(x.dtype)
            if self.layout.channel_axis == 3:
                factors = factors.reshape(batch, 1, 1, self.channels)
            elif self.layout.channel_axis == 1:
                factors = factors.reshape(batch, self.channels, 1, 1)
            else:
                factors = factors.transpose(1, 0).reshape(self.channels, batch, 1, 1)
            x = x * factors
        return self.conv_seg(x)


class FCNHead(Head):
    """Fully convolutional networks (Long et al. 2015), the auxiliary head: one 3x3 convolution of one map."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, drop_rate: float, index: int):
        super().__init__(channels, num_classes, drop_rate)
        self.index = index
        self.convs = nn.SequentialCell([ConvModule(in_channels, channels, 3)])

    def construct(self, maps: tuple[Tensor, ...], batch: int, dropout_scale: Optional[Tensor] = None) -> Tensor:
        return self.classify(self.convs(maps[self.index]), batch, dropout_scale)


class FPNHead(Head):
    """Semantic FPN (Kirillov et al. 2019, Panoptic Feature Pyramid Networks, section 3; arXiv 1901.02446).

    Every map is convolved and doubled until it has the finest one's sides; then they are added.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[float], channels: int, num_classes: int, drop_rate: float
    ):
        super().__init__(channels, num_classes, drop_rate)
        self.resample = Resample("bilinear")
        heads = []
        for width, stride in zip(in_channels, strides):
            doublings = int(math.log2(stride / strides[0]))
            cells: list[nn.Cell] = []
            for place in range(max(doublings, 1)):
                cells.append(ConvModule(width if place == 0 else channels, channels, 3))
                cells += [Enlarge()] * (doublings > 0)
            heads.append(nn.SequentialCell(cells))
        self.scale_heads = nn.CellList(heads)

    def construct(self, maps: tuple[Tensor, ...], batch: int, dropout_scale: Optional[Tensor] = None) -> Tensor:
        height, width = self.layout.grid(maps[0])
        total = self.scale_heads[0](maps[0])
        for level in range(1, len(self.scale_heads)):
            total = total + self.resample(self.scale_heads[level](maps[level]), height, width)
        return self.classify(total, batch, dropout_scale)


class UPerHead(Head):
    """Unified Perceptual Parsing (Xiao et al. 2018; arXiv 1807.10221): pyramid pooling of the coarsest map, then a
    feature pyramid whose levels are put side by side.
    """

    def __init__(self, in_channels: Sequence[int], channels: int, num_classes: int, drop_rate: float):
        super().__init__(channels, num_classes, drop_rate)
        *finer, coarsest = in_channels
        self.psp_modules = nn.CellList(
            [nn.SequentialCell(AdaptiveAveragePool(side), ConvModule(coarsest, channels, 1)) for side in POOLS]
        )
        self.bottleneck = ConvModule(coarsest + len(POOLS) * channels, channels, 3)
        self.lateral_convs = nn.CellList([ConvModule(width, channels, 1) for width in finer])
        self.fpn_convs = nn.CellList([ConvModule(channels, channels, 3) for _ in finer])
        self.fpn_bottleneck = ConvModule(len(in_channels) * channels, channels, 3)
        self.resample = Resample("bilinear")

    def resized(self, x: Tensor, like: Tensor) -> Tensor:
        """Maps with another one's sides."""
        height, width = self.layout.grid(like)
        return self.resample(x, height, width)

    def pooled(self, x: Tensor) -> Tensor:
        """The coarsest map beside its means over grids of several sides, convolved."""
        parts = [x]
        for module in self.psp_modules:
            parts.append(self.resized(module(x), x))
        return self.bottleneck(ops.cat(parts, self.layout.channel_axis))

    def construct(self, maps: tuple[Tensor, ...], batch: int, dropout_scale: Optional[Tensor] = None) -> Tensor:
        laterals = [conv(maps[level]) for level, conv in enumerate(self.lateral_convs)]
        laterals.append(self.pooled(maps[-1]))
        for level in range(len(laterals) - 1, 0, -1):
            laterals[level - 1] = laterals[level - 1] + self.resized(laterals[level], laterals[level - 1])
        outputs = [conv(laterals[level]) for level, conv in enumerate(self.fpn_convs)]
        outputs.append(laterals[-1])
        outputs = [self.resized(output, outputs[0]) for output in outputs]
        return self.classify(self.fpn_bottleneck(ops.cat(outputs, self.layout.channel_axis)), batch, dropout_scale)
