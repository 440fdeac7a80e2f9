"""Feature Pyramid Networks for Object Detection (Lin et al. 2017; https://arxiv.org/abs/1612.03144), with mmdetection's
parameter names.
"""

from __future__ import annotations

from typing import Sequence

from mindspore import Tensor, nn

from mindvit.layers.conv import FeatureLayout
from mindvit.layers.conv_module import ConvModule
from mindvit.layers.resample import Resample


class FPN(nn.Cell):
    """Maps of a backbone, the finest first -> as many maps of `channels` channels, of the same sides.

    Each is what a coarser one says about the place (nearest neighbour, added from the top down) and what the backbone's
    own map says (1x1 convolution), then smoothed (3x3 convolution). No norm and no activation.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256):
        super().__init__()
        self.layout = FeatureLayout()
        self.lateral_convs = nn.CellList(
            [ConvModule(width, channels, 1, norm=False, xavier=True) for width in in_channels]
        )
        self.fpn_convs = nn.CellList([ConvModule(channels, channels, 3, norm=False, xavier=True) for _ in in_channels])
        self.resample = Resample("nearest")

    def construct(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        laterals = [conv(maps[level]) for level, conv in enumerate(self.lateral_convs)]
        for level in range(len(laterals) - 1, 0, -1):
            height, width = self.layout.grid(laterals[level - 1])
            laterals[level - 1] = laterals[level - 1] + self.resample(laterals[level], height, width)
        return tuple([conv(laterals[level]) for level, conv in enumerate(self.fpn_convs)])
