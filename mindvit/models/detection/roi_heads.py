"""Heads that look at one box each, with mmdetection's parameter names."""

from __future__ import annotations

import math
from typing import Optional

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Normal, Uniform, Zero, initializer

from mindvit.layers.conv import Conv2d, FeatureLayout
from mindvit.layers.conv_module import ConvModule
from mindvit.layers.linear import Linear
from mindvit.layers.masked_batch_norm import MaskedBatchNorm
from mindvit.layers.precision import in_float32
from mindvit.models.pyramid import DoubleSides

BOX_SIZE, MASK_SIZE = 7, 14  # sides of the boxes' maps
CONVOLUTIONS = 4


def dense(inputs: int, outputs: int, std: float = 0.0) -> Linear:
    """A product whose weights begin normal or, without a standard deviation, uniform with Xavier's bound."""
    cell = Linear(inputs, outputs)
    init = Normal(std) if std else Uniform(math.sqrt(6 / (inputs + outputs)))
    cell.weight.set_data(initializer(init, cell.weight.shape, ms.float32))
    return cell


class NormalizedConv(ConvModule):
    """A convolution with BatchNorm and ReLU of boxes' maps, of which some are padding: see MaskedBatchNorm."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 3)
        self.bn = MaskedBatchNorm(outputs)

    def construct(self, x: Tensor, counts: Optional[Tensor] = None) -> Tensor:
        return self.activate(self.bn(self.conv(x), counts))


def normalized(channels: int, masked: bool) -> ConvModule:
    """A convolution 3x3 with BatchNorm and ReLU."""
    return NormalizedConv(channels, channels) if masked else ConvModule(channels, channels, 3)


class BoxHead(nn.Cell):
    """Class and deltas of boxes: maps of K boxes, 7 x 7 -> (K, classes + 1) logits, the background's last, and
    (K, classes, 4) deltas, float32.

    convolve: four convolutions and one fully connected layer, as the cascade has, instead of two of the latter.
    class_agnostic: the deltas are the same for all classes, and learnt from all boxes. masked: BatchNorm leaves padding
    out, else padding counts as what it is in our batches, an image's first object once more.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        num_classes: int,
        convolve: bool,
        class_agnostic: bool = False,
        masked: bool = True,
    ):
        super().__init__()
        self.masked = masked
        self.class_agnostic = class_agnostic
        self.num_classes, self.layout = num_classes, FeatureLayout()
        inputs = channels * BOX_SIZE * BOX_SIZE
        layers = [normalized(channels, masked) for _ in range(CONVOLUTIONS if convolve else 0)]
        self.shared_convs = nn.CellList(layers)
        products = [dense(inputs, hidden)] if convolve else [dense(inputs, hidden), dense(hidden, hidden)]
        self.shared_fcs = nn.CellList(products)
        self.fc_cls = dense(hidden, num_classes + 1, 0.01)
        self.fc_reg = dense(hidden, 4 if class_agnostic else 4 * num_classes, 0.001)
        self.relu = nn.ReLU()

    def construct(self, x: Tensor, counts: Optional[Tensor] = None) -> tuple[Tensor, Tensor]:
        for conv in self.shared_convs:
            x = conv(x, counts) if self.masked else conv(x)
        x = self.layout.to_images(x)
        x = x.reshape(x.shape[0], -1)
        for product in self.shared_fcs:
            x = self.relu(product(x))
        deltas = in_float32(self.fc_reg(x)).reshape(x.shape[0], -1, 4)
        deltas = ops.broadcast_to(deltas, (x.shape[0], self.num_classes, 4)) if self.class_agnostic else deltas
        return in_float32(self.fc_cls(x)), deltas


class MaskHead(nn.Cell):
    """Masks of boxes: maps of K boxes, 14 x 14, and labels (K,) int32 -> (K, 28, 28) logits of each label's mask.

    counts: (K,) float32, 0 for padding, whose logits are of no use: kernels of ours leave out maps that are zero.
    norm: whether BatchNorm follows each convolution.
    """

    def __init__(self, channels: int, num_classes: int, norm: bool = False):
        super().__init__()
        self.num_classes, self.layout = num_classes, FeatureLayout()
        self.clears = self.layout.channels_last
        convs = [
            normalized(channels, masked=False) if norm else ConvModule(channels, channels, 3, norm=False)
            for _ in range(CONVOLUTIONS)
        ]
        self.norm, self.convs = norm, nn.CellList(convs)
        self.upsample = DoubleSides(channels)
        self.conv_logits = Conv2d(channels, num_classes, 1, 1, 0)
        for weight, outputs in ((self.upsample.weight, 4 * channels), (self.conv_logits.weight, num_classes)):
            weight.set_data(initializer(Normal(math.sqrt(2 / outputs)), weight.shape, ms.float32))
        for bias in (self.upsample.bias, self.conv_logits.bias):
            bias.set_data(initializer(Zero(), bias.shape, ms.float32))
        self.relu = nn.ReLU()

    def construct(self, x: Tensor, labels: Tensor, counts: Optional[Tensor] = None) -> Tensor:
        count = labels.shape[0]
        clears = self.clears and counts is not None and not (self.norm and self.training)
        kept = ops.broadcast_to(ops.stop_gradient(counts).reshape(-1, 1, 1, 1), x.shape) if clears else None
        for conv in self.convs:
            if kept is not None:
                x = x * kept
            x = conv(x) if self.norm else self.relu(conv(x))
        x = self.relu(self.upsample(x, count))
        logits = in_float32(self.layout.to_tokens(self.conv_logits(x))).reshape(count, -1, self.num_classes)
        on, off = Tensor(1.0, ms.float32), Tensor(0.0, ms.float32)  # Ascend takes no int64 ones, the default
        own = ops.one_hot(labels, self.num_classes, on, off).expand_dims(2)
        side = 2 * MASK_SIZE
        return ops.matmul(logits, own).reshape(count, side, side)
