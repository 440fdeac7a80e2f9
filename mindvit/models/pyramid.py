"""Backbones of detectors and segmentors: any network's feature maps as a pyramid, the finest first."""

from __future__ import annotations

from typing import Any, Optional, Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Uniform

from mindvit.errors import UserError
from mindvit.layers.activation import GELU
from mindvit.layers.compiled import Compiled
from mindvit.layers.conv import FeatureLayout
from mindvit.layers.linear import Product, weight_of
from mindvit.layers.norm import BatchNorm
from mindvit.layers.transpose import Transpose
from mindvit.models.network import Feature, Network

STRIDES = (4, 8, 16, 32)  # of the maps made of a network's that are all of one stride


class DoubleSides(nn.Cell):
    """A transposed convolution 2x2 with stride 2, whose outputs do not overlap: a product. Maps -> maps."""

    def __init__(self, channels: int):
        super().__init__()
        bound = 1 / (4 * channels) ** 0.5
        self.weight = weight_of((channels, channels, 2, 2), Uniform(bound))
        self.bias = weight_of((channels,), Uniform(bound))
        self.layout = FeatureLayout()
        self.product = Product(4 * channels)
        self.to_rows = Transpose(0, 1, 3, 2, 4, 5)
        self.compute_type = ms.float32

    def construct(self, x: Tensor, batch: int) -> Tensor:
        height, width = self.layout.grid(x)
        tokens = self.layout.to_tokens(x).astype(self.compute_type)
        weight, bias = self.weight.astype(self.compute_type), self.bias.astype(self.compute_type)
        channels = weight.shape[0]
        weight = weight.transpose(2, 3, 1, 0).reshape(-1, channels)  # (2 2 out) in
        y = self.product(tokens, weight, ops.broadcast_to(bias, (4, channels)).reshape(-1))
        y = self.to_rows(y.reshape(batch, height, width, 2, 2, channels)).reshape(-1, channels)
        return self.layout.from_tokens(y, batch, 2 * height, 2 * width)


class MaxPool(nn.Cell):
    """The largest value of each square of side x side, maps -> maps; what hangs over the edge is left out."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side
        self.layout = FeatureLayout()
        self.largest = ops.ReduceMax()

    def construct(self, x: Tensor, batch: int) -> Tensor:
        height, width = self.layout.grid(x)
        down, across, side = height // self.side, width // self.side, self.side
        whole = (down * side, across * side) == (height, width)  # a slice of all would be a copy
        if self.layout.channel_axis == 3:
            x = x if whole else x[:, : down * side, : across * side]
            x = x.reshape(x.shape[0], down, side, across, side, x.shape[3])
            return self.largest(self.largest(x, 4), 2)
        x = x if whole else x[:, :, : down * side, : across * side]
        x = x.reshape(x.shape[0], x.shape[1], down, side, across, side)
        return self.largest(self.largest(x, 5), 3)


class Doubled(nn.Cell):
    """Maps -> maps of two or four times the sides, as XCiT's authors make them: a doubling, or two with BatchNorm and
    GELU between.
    """

    def __init__(self, channels: int, twice: bool):
        super().__init__()
        self.twice = twice
        cells: list[nn.Cell] = [DoubleSides(channels)]
        if twice:
            cells += [BatchNorm(channels), GELU(), DoubleSides(channels)]
        self.steps = nn.CellList(cells)

    def construct(self, x: Tensor, batch: int) -> Tensor:
        x = self.steps[0](x, batch)
        if self.twice:
            x = self.steps[3](self.steps[2](self.steps[1](x)), batch)
        return x


class Same(nn.Cell):
    """Maps as they are."""

    def construct(self, x: Tensor, batch: int) -> Tensor:
        return x


def resizer(channels: int, stride: int, wanted: int) -> nn.Cell:
    """What makes a map of stride `wanted` of one of `stride`."""
    if wanted == stride:
        return Same()
    return Doubled(channels, stride // wanted == 4) if wanted < stride else MaxPool(wanted // stride)


def add_prefix(cell: nn.Cell, prefix: str) -> None:
    """Put `prefix` before the names of a cell's parameters."""
    for parameter in cell.get_parameters():
        parameter.name = prefix + parameter.name


def chosen(net: Network, indices: Any) -> tuple[int, ...]:
    """The numbers of the maps that make a network's pyramid. UserError for those that it does not have."""
    if indices is None:
        return tuple(net.default_indices)
    last = len(net.feature_info) - 1
    if not isinstance(indices, (list, tuple)) or not all(
        isinstance(index, int) and 0 <= index <= last for index in indices
    ):
        raise UserError(f"{net.model_name}: out_indices is {indices}, but must be numbers of its maps, 0 to {last}")
    if len({net.feature_info[index].stride for index in indices}) == 1 and len(indices) != len(STRIDES):
        raise UserError(
            f"{net.model_name}: out_indices is {indices}, but its maps are of one stride, and four make a pyramid"
        )
    return tuple(indices)


class Pyramid(nn.Cell):
    """A network's feature maps, in the layout of layers.conv, each of a larger stride than the last.

    x: (B, in_channels, H, W). A network without a pyramid of its own, XCiT, gets one as its authors give it to it: maps
    of four depths, enlarged by transposed convolutions (`fpn1`, `fpn2`) or pooled. Cells that only a classifier needs
    are taken away; the other parameters keep their names. UserError for CrossViT: its branches see an image resized to
    two squares of fixed sizes, through grids of about 12 and 17 px a patch that no resizing by whole numbers brings
    over each other, and its position embeddings fit those grids alone.

    indices: which of the network's maps are taken, by default those that its authors take. Of maps of one stride there
    must be four, which may be the same: [11, 11, 11, 11] makes the whole pyramid of the last of twelve blocks, as
    ViTDet's (Li et al. 2022; https://arxiv.org/abs/2203.16527, section 3).
    """

    def __init__(self, net: Network, indices: Optional[Sequence[int]] = None):
        super().__init__(auto_prefix=False)
        indices = chosen(net, indices)
        features = [net.feature_info[index] for index in indices]
        strides = [feature.stride for feature in features]
        self.net = net
        self.model_name = net.model_name
        self.prefix = ""  # of the parameters' names, where it is part of another network
        self.indices = indices
        self.resizers: Any = None
        self.feature_info = tuple(features)
        if len(set(strides)) == 1 and len(strides) == len(STRIDES):
            self.resizers = nn.CellList(
                [resizer(item.channels, int(item.stride), wanted) for item, wanted in zip(features, STRIDES)]
            )
            for number, cell in enumerate(self.resizers):
                for name, parameter in cell.parameters_and_names():
                    parameter.name = f"fpn{number + 1}.{name.replace('steps.', '')}"
            self.feature_info = tuple(
                Feature(item.name, item.channels, wanted) for item, wanted in zip(features, STRIDES)
            )
        elif not all(fine < coarse for fine, coarse in zip(strides, strides[1:])):
            raise UserError(
                f"{net.model_name or type(net).__name__} has no pyramid of feature maps, which segmentors need: it "
                "sees two squares of fixed sizes, through patches of two sizes (take crossformer_*, cvt_* or xcit_*)"
            )
        net.remove_classifier()

    def no_weight_decay(self) -> frozenset[str]:
        """As the network's."""
        return frozenset(self.prefix + name for name in self.net.no_weight_decay())

    def construct(self, x: Tensor, drop_path_scale: Optional[Tensor] = None) -> tuple[Tensor, ...]:
        found = self.net.feature_maps(x, drop_path_scale)
        maps = [found[index] for index in self.indices]
        if self.resizers is not None:
            maps = [cell(maps[level], x.shape[0]) for level, cell in enumerate(self.resizers)]
        return tuple(maps)


class OnPyramid(Compiled):
    """A network of a backbone's feature maps."""

    def __init__(self, backbone: Pyramid, num_classes: int):
        super().__init__(auto_prefix=False)
        self.model_name = ""
        self.num_classes = num_classes
        self.layout = FeatureLayout()
        self.backbone = backbone
        backbone.prefix = "backbone."

    def __call__(self, x: Tensor, *others: Any) -> Any:
        self.check_size(*x.shape[2:])
        return super().__call__(x, *others)

    def check_size(self, height: int, width: int) -> None:
        """UserError for an image that the backbone can't take."""
        self.backbone.net.check_size(height, width)

    def no_weight_decay(self) -> frozenset[str]:
        """As the backbone's."""
        return self.backbone.no_weight_decay()
