"""A segmentor's objective: from uint8 images and label maps to the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np
from mindspore import Tensor, nn

from mindvit.layers.drop_path import DropPathScale, number_drop_paths
from mindvit.layers.normalize import NormalizePadded
from mindvit.models.segmentation import Segmentor
from mindvit.tasks.segmentation.losses import AUXILIARY_WEIGHT, ChannelDropout, SegmentationLoss


@dataclass(frozen=True)
class ObjectiveOptions:
    """What the objective depends on; what changes from step to step is its inputs."""

    mean: Sequence[float]
    std: Sequence[float]
    auxiliary_weight: float = AUXILIARY_WEIGHT
    class_weights: Optional[np.ndarray] = None  # (classes,) float32


class SegmentationObjective(nn.Cell):
    """The loss of a batch, float32 ().

    Inputs: images (B, H, W, C) uint8; labels (B, H, W) int32; sizes (B, 2) int32, height and width of what is no
    padding: beyond it the network sees zeros; dropout_rand (B, channels of the heads, at least one) and drop_path_rand
    (drop paths, B) float32.
    """

    def __init__(self, net: Segmentor, options: ObjectiveOptions):
        super().__init__(auto_prefix=False)
        self.normalize = NormalizePadded(options.mean, options.std)
        self.net = net
        rates = number_drop_paths(net)
        self.drop_paths = len(rates)
        self.drop_path_scale = DropPathScale(rates)
        self.dropout_channels = net.dropout_channels
        self.channel_dropout = ChannelDropout(net.dropout_channels, net.decode_head.drop_rate)
        self.criterion = SegmentationLoss((1.0, options.auxiliary_weight), options.class_weights)

    def construct(
        self, images: Tensor, labels: Tensor, sizes: Tensor, dropout_rand: Tensor, drop_path_rand: Tensor
    ) -> Tensor:
        x = self.normalize(images, sizes)
        scales = self.channel_dropout(dropout_rand) if self.dropout_channels else (None, None)
        return self.criterion(self.net.heads(x, self.drop_path_scale(drop_path_rand), scales), labels)[0]
