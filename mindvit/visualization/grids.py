"""Where in the image the tokens of each family lie. Points are (y, x) in px of the network's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np
from mindspore import nn

from mindvit.layers.conv import Conv2d
from mindvit.models.crossformer import STRIDE
from mindvit.models.crossvit import CrossViT
from mindvit.models.cvt import CvT
from mindvit.models.xcit import XCiT

Point = tuple[float, float]
Size = tuple[int, int]


@dataclass(frozen=True)
class Grid:
    """Tokens on an image.

    shape: rows, columns. first, step: where the first token's centre is, and how far the next one's.
    """

    shape: Size
    first: Point
    step: Point


def centres(convolutions: nn.Cell, side: float = 1.0) -> tuple[float, float]:
    """Where the place is, in px, that the first output of a chain of convolutions is centred on, and how far the next
    one is.

    side: px of the image for a px of the chain's input.
    """
    first, step = 0.5, 1
    for _, cell in convolutions.cells_and_names():
        if isinstance(cell, Conv2d):
            first += ((cell.kernel - 1) / 2 - cell.padding) * step
            step *= cell.stride
    return first * side, step * side


def of_crossvit(net: CrossViT, branch: int, size: Size) -> Grid:
    """A branch's patches on an image of this size, which it sees resized."""
    y, x = (centres(net.patch_embed[branch], side / net.sizes[branch]) for side in size)
    return Grid((net.grids[branch],) * 2, (y[0], x[0]), (y[1], x[1]))


def of_cvt(net: CvT, size: Size) -> Grid:
    """The tokens of the last stage."""
    first, step = 0.5, 1.0
    for stage in (net.stage0, net.stage1, net.stage2):
        size = stage.grid(*size)
        start, factor = centres(stage.patch_embed)
        first, step = first + (start - 0.5) * step, step * factor
    return Grid(size, (first, first), (step, step))


def of_crossformer(stage: int, size: Size) -> Grid:
    """The tokens of a stage, counted from 0."""
    step = STRIDE * 2**stage
    return Grid((size[0] // step, size[1] // step), (step / 2, step / 2), (step, step))


def of_xcit(net: XCiT, size: Size) -> Grid:
    """The patches."""
    first, step = centres(net.patch_embed)
    return Grid((net.side(size[0]), net.side(size[1])), (first, first), (step, step))


def sampled(values: np.ndarray, first: float, step: float, side: float, pixels: int) -> np.ndarray:
    """Along the first axis: values at `pixels` places over `side` px, linear between keys' centres, constant beyond;
    next key where any is missing.
    """
    places = np.clip(((np.arange(pixels) + 0.5) * side / pixels - first) / step, 0, len(values) - 1)
    if np.isnan(values).any():
        return values[np.rint(places).astype(int)]
    low = np.minimum(places.astype(int), max(len(values) - 2, 0))
    share = (places - low)[:, None]
    return values[low] * (1 - share) + values[np.minimum(low + 1, len(values) - 1)] * share


def together(grids: Sequence[Grid], maps: Sequence[np.ndarray], size: Size) -> np.ndarray:
    """Maps (rows, columns) on several grids of an image of this size as one on the first grid: the sum of what each
    says of an area.
    """
    shape = grids[0].shape
    total = np.zeros(shape)
    for grid, values in zip(grids, maps):
        values = sampled(values, grid.first[0], grid.step[0], size[0], shape[0])
        values = sampled(values.T, grid.first[1], grid.step[1], size[1], shape[1]).T
        total += values * (np.prod(grid.shape) / np.prod(shape))
    return total
