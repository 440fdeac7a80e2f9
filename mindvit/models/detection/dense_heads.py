"""Heads that say something of every anchor, with mmdetection's parameter names."""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import Tensor, nn
from mindspore.common.initializer import Constant, Normal, Zero, initializer

from mindvit.layers.conv import Conv2d, FeatureLayout
from mindvit.layers.conv_module import ConvModule
from mindvit.layers.precision import in_float32

STD = 0.01  # of the initial weights
PRIOR = 0.01  # how likely an object of a class is for every anchor at first (Lin et al. 2017, section 3.3)


def initialize(conv: Conv2d, bias: float = 0.0) -> Conv2d:
    """A convolution with small random weights."""
    conv.weight.set_data(initializer(Normal(STD), conv.weight.shape, ms.float32))
    conv.bias.set_data(initializer(Constant(bias) if bias else Zero(), conv.bias.shape, ms.float32))
    return conv


class RetinaHead(nn.Cell):
    """RetinaNet's (Lin et al. 2017; https://arxiv.org/abs/1708.02002): two towers of four convolutions, shared by all
    levels.

    maps: of B images, a level each -> for each level (B, anchors, classes) logits and (B, anchors, 4) deltas, float32.
    """

    CONVOLUTIONS = 4

    def __init__(self, channels: int, num_classes: int, per_place: int):
        super().__init__()
        self.num_classes = num_classes
        self.layout = FeatureLayout()
        towers = []
        for _ in range(2):
            convs = [ConvModule(channels, channels, 3, norm=False) for _ in range(self.CONVOLUTIONS)]
            for module in convs:
                initialize(module.conv)
            towers.append(nn.CellList(convs))
        self.cls_convs, self.reg_convs = towers
        self.retina_cls = initialize(Conv2d(channels, per_place * num_classes, 3, 1, 1), -math.log((1 - PRIOR) / PRIOR))
        self.retina_reg = initialize(Conv2d(channels, per_place * 4, 3, 1, 1))
        self.relu = nn.ReLU()

    def construct(self, maps: tuple[Tensor, ...], batch: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        logits, deltas = [], []
        for x in maps:
            classes = boxes = x
            for level in range(self.CONVOLUTIONS):
                classes = self.relu(self.cls_convs[level](classes))
                boxes = self.relu(self.reg_convs[level](boxes))
            classes = in_float32(self.layout.to_tokens(self.retina_cls(classes)))
            logits.append(classes.reshape(batch, -1, self.num_classes))
            deltas.append(in_float32(self.layout.to_tokens(self.retina_reg(boxes))).reshape(batch, -1, 4))
        return tuple(logits), tuple(deltas)


class RPNHead(nn.Cell):
    """The region proposal network's (Ren et al. 2015; https://arxiv.org/abs/1506.01497): whether there is an object.

    maps: of B images, a level each -> for each level (B, anchors) logits and (B, anchors, 4) deltas, float32.
    """

    def __init__(self, channels: int, per_place: int):
        super().__init__()
        self.layout = FeatureLayout()
        self.rpn_conv = initialize(Conv2d(channels, channels, 3, 1, 1))
        self.rpn_cls = initialize(Conv2d(channels, per_place, 1, 1, 0))
        self.rpn_reg = initialize(Conv2d(channels, per_place * 4, 1, 1, 0))
        self.relu = nn.ReLU()

    def construct(self, maps: tuple[Tensor, ...], batch: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        logits, deltas = [], []
        for x in maps:
            x = self.relu(self.rpn_conv(x))
            logits.append(in_float32(self.layout.to_tokens(self.rpn_cls(x))).reshape(batch, -1))
            deltas.append(in_float32(self.layout.to_tokens(self.rpn_reg(x))).reshape(batch, -1, 4))
        return tuple(logits), tuple(deltas)
