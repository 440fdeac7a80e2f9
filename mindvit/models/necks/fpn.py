"""Feature Pyramid Networks for Object Detection (Lin et al. 2017; https://arxiv.org/abs/1612.03144), with mmdetection's
parameter names.
"""

from __future__ import annotations

from typing import Optional, Sequence

from mindspore import Tensor, nn

from mindvit.layers.conv import FeatureLayout
from mindvit.layers.conv_module import ConvModule
from mindvit.layers.resample import Resample


class FPN(nn.Cell):
    """Maps of a backbone, the finest first -> maps of `channels` channels, of the same sides, then smaller ones.

    Each is what a coarser one says about the place (nearest neighbour, added from the top down) and what the backbone's
    own map says (1x1 convolution), then smoothed (3x3 convolution). No activation, and BatchNorm where `norm` is true.

    start: the first map that takes part. outputs: how many maps there are in the end; those without a map of the
    backbone's halve the one before: every second pixel of it or, where `convolve_more` is true, a 3x3 convolution,
    the first one of the backbone's coarsest map.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        start: int = 0,
        outputs: Optional[int] = None,
        convolve_more: bool = False,
        norm: bool = False,
    ):
        super().__init__()
        self.layout = FeatureLayout()
        self.start = start
        used = list(in_channels[start:])
        self.more = 0 if outputs is None else outputs - len(used)
        self.convolve_more = convolve_more
        kind: dict[str, bool] = {"norm": norm, "xavier": True, "linear": True}
        self.lateral_convs = nn.CellList([ConvModule(width, channels, 1, **kind) for width in used])
        convs = [ConvModule(channels, channels, 3, **kind) for _ in used]
        if convolve_more:
            for number in range(self.more):
                width = in_channels[-1] if number == 0 else channels
                convs.append(ConvModule(width, channels, 3, stride=2, **kind))
        self.fpn_convs = nn.CellList(convs)
        self.resample, self.every_second = Resample("nearest"), Resample("every_second")

    def halved(self, x: Tensor) -> Tensor:
        """Every second pixel of maps."""
        height, width = self.layout.grid(x)
        return self.every_second(x, (height + 1) // 2, (width + 1) // 2)

    def construct(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        laterals = [conv(maps[self.start + level]) for level, conv in enumerate(self.lateral_convs)]
        for level in range(len(laterals) - 1, 0, -1):
            height, width = self.layout.grid(laterals[level - 1])
            laterals[level - 1] = laterals[level - 1] + self.resample(laterals[level], height, width)
        found = [self.fpn_convs[level](laterals[level]) for level in range(len(laterals))]
        for number in range(self.more):
            if not self.convolve_more:
                found.append(self.halved(found[-1]))
            elif number == 0:
                found.append(self.fpn_convs[len(laterals)](maps[-1]))
            else:
                found.append(self.fpn_convs[len(laterals) + number](found[-1]))
        return tuple(found)
