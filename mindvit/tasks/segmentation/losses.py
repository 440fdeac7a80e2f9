"""What a segmentor's training minimizes."""

from __future__ import annotations

from typing import Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindvit.data.transforms.dense import IGNORED
from mindvit.layers.conv import FeatureLayout
from mindvit.layers.pixel_cross_entropy import PixelCrossEntropy
from mindvit.layers.resample import Resample
from mindvit.tasks.class_weights import weights_parameter

AUXILIARY_WEIGHT = 0.4


class SegmentationLoss(nn.Cell):
    """The decode head's loss, plus the auxiliary head's times AUXILIARY_WEIGHT.

    logits: of each head (Segmentor.heads); labels: (B, H, W) int32. -> (), and each head's part of it.
    """

    def __init__(self, weights: Sequence[float] = (1.0, AUXILIARY_WEIGHT), class_weights: Optional[np.ndarray] = None):
        super().__init__()
        self.weights = tuple(weights)
        self.cross_entropy = PixelCrossEntropy(IGNORED, weights_parameter(class_weights))

    def construct(self, logits: tuple[Tensor, ...], labels: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        losses = [self.weights[place] * self.cross_entropy(found, labels) for place, found in enumerate(logits)]
        total = losses[0]
        for loss in losses[1:]:
            total = total + loss
        return total, tuple(losses)


class PixelAccuracy(nn.Cell):
    """The share of labelled pixels whose largest logit is the label's, per cent, (); NaN without labelled pixels.

    The inputs are PixelCrossEntropy's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layout = FeatureLayout()
        self.resample = Resample("bilinear")

    def construct(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = self.resample(logits.astype(ms.float32), labels.shape[1], labels.shape[2])
        found = self.layout.to_tokens(logits).argmax(1).astype(ms.int32)
        labels = labels.reshape(-1)
        right = ops.logical_and(found == labels, labels != IGNORED)
        counted = (labels != IGNORED).astype(ms.float32).sum()
        return 100 * right.astype(ms.float32).sum() / counted


class ChannelDropout(nn.Cell):
    """Random numbers, uniform in 0..1, (B, channels of all heads) -> each head's factors (see heads.Head).

    channels: of each head; None of a head that drops nothing.
    """

    def __init__(self, channels: Sequence[int], rate: float):
        super().__init__()
        self.channels, self.rate = tuple(channels), rate

    def construct(self, dropout_rand: Tensor) -> tuple[Optional[Tensor], ...]:
        factors = (dropout_rand >= self.rate).astype(ms.float32) / (1 - self.rate)
        first = 0
        found = []
        for count in self.channels:
            found.append(factors[:, first : first + count])
            first = first + count
        return tuple(found)
