"""RoIAlign (He et al. 2017, Mask R-CNN, section 3; arXiv 1703.06870) with half-pixel shift and adaptive sampling.

Each cell of the grid over a box is the mean of bilinear samples, `ratio` on each axis or, where that is 0, as many
as the cell is long in places of the map, rounded up. Samples, and so weights, are products of one of rows and one of
columns: out = R x C^T for each box and channel. MindSpore's ROIAlign on CPUs and GPUs rounds the number of adaptive
samples down, which gives NaN for small boxes, and has another box's gradient in one of its modes; it is taken where it
has been seen to be right.
"""

from __future__ import annotations

from typing import Any, Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindvit.kernels import ops as kernels
from mindvit.layers.conv import FeatureLayout
from mindvit.runtime import platform

NEAR = 6  # samples more than half a place apart: at most 5 lie within a place of another, and one for rounding
ROIS_AT_ONCE = 64  # what lies between the two products is as wide as the map
FINEST = 56.0  # px: boxes with sides twice as long and more leave the finest level (Lin et al. 2017, section 4.2)


def axis_weights(start: Tensor, length: Tensor, cells: int, places: int, ratio: int) -> Tensor:
    """(K, cells, places): how much each place of an axis is in each cell of a box's grid.

    start, length: (K,) float32, where boxes begin and how long they are, in places, less half a place.
    """
    cell = length / cells
    count = ops.ceil(cell) if ratio == 0 else ops.ones_like(cell) * ratio
    step = (cell / ops.maximum(count, Tensor(1, ms.float32))).reshape(-1, 1, 1, 1)
    origin = start.expand_dims(1) + ops.arange(cells).astype(ms.float32) * cell.expand_dims(1)
    origin, count = origin.expand_dims(2).expand_dims(3), count.reshape(-1, 1, 1, 1)
    place = ops.arange(places).astype(ms.float32).expand_dims(1)
    first = ops.zeros_like(origin)
    if ratio == 0:
        first = ops.relu(ops.ceil((place - 1 - origin) / ops.maximum(step, Tensor(1e-12, ms.float32)) - 0.5))
    sample = first + ops.arange(NEAR if ratio == 0 else ratio).astype(ms.float32)  # (K, cells, places, samples)
    at = origin + (sample + 0.5) * step
    taken = (sample < count) & (at >= -1) & (at <= places)
    near = ops.relu(1 - ops.abs(ops.clamp(at, 0.0, float(places - 1)) - place))
    total = (near * taken.astype(ms.float32)).sum(3)
    return total / ops.maximum(count, Tensor(1, ms.float32)).reshape(-1, 1, 1)


class OperatorRoIAlign(nn.Cell):
    """The same by the framework's ROIAlign, of maps (B, C, H, W) -> (B R, C, size, size).

    variant: its mode, and what is added to where boxes begin and end, in places of the map.
    """

    def __init__(self, size: int, strides: Sequence[float], ratio: int, variant: tuple[int, float, float]):
        super().__init__()
        mode, begin, end = variant
        self.strides, self.shift = tuple(strides), Tensor([begin - 0.5] * 2 + [end - 0.5] * 2, ms.float32)
        self.operators = [ops.ROIAlign(size, size, 1.0, ratio, mode) for _ in strides]

    def construct(self, maps: tuple[Tensor, ...], boxes: Tensor, levels: Tensor) -> Tensor:
        batch, count = boxes.shape[:2]
        image = (ops.arange(batch * count) // count).astype(ms.float32).expand_dims(1)
        elsewhere = Tensor([1.0, 1.0, 2.0, 2.0], ms.float32)  # for boxes of other levels: a place or so
        total: Any = 0
        for level in range(len(self.strides)):
            own = (levels.reshape(-1, 1) == level).astype(ms.float32)
            places = boxes.reshape(-1, 4) / self.strides[level] + self.shift
            rows = ops.cat((image, places * own + elsewhere * (1 - own)), 1)
            total = total + self.operators[level](maps[level], rows) * own.expand_dims(2).expand_dims(3)
        return total


class RoIAlign(nn.Cell):
    """Boxes' maps, each from its level of a pyramid.

    maps: of B images, the finest first, in the layout of layers.conv; boxes: (B, R, 4) px of the images, without
    gradient; levels: (B, R) float32 -> maps of B*R boxes, `size` x `size`.
    """

    def __init__(self, size: int, strides: Sequence[float], ratio: int = 0):
        super().__init__()
        self.size, self.ratio = size, ratio
        self.strides = tuple(float(stride) for stride in strides)
        self.layout = FeatureLayout()
        chosen = platform.current()
        self.fused_op: Any = kernels.RoIAlign(size, self.strides, ratio) if chosen.kernels else None
        self.operator: Any = None
        if chosen.roi_align_operator is not None:
            self.operator = OperatorRoIAlign(size, self.strides, ratio, chosen.roi_align_operator)

    def construct(self, maps: tuple[Tensor, ...], boxes: Tensor, levels: Tensor) -> Tensor:
        boxes, levels = ops.stop_gradient(boxes), ops.stop_gradient(levels)
        kind = maps[0].dtype
        if self.fused_op is not None:
            maps = tuple([x.astype(ms.float32) for x in maps])
            return self.fused_op(boxes, levels, maps).astype(kind)
        if self.operator is not None:
            images = tuple([self.layout.to_images(x).astype(ms.float32) for x in maps])
            return self.layout.from_images(self.operator(images, boxes, levels)).astype(kind)
        batch, count = boxes.shape[:2]
        total: Any = 0
        for level in range(len(self.strides)):
            height, width = self.layout.grid(maps[level])
            x = self.layout.to_tokens(maps[level]).astype(ms.float32).reshape(batch, height, -1)
            total = total + self.of_level(x, boxes / self.strides[level] - 0.5, levels == level, width)
        tokens = total.reshape(-1, total.shape[-1])
        return self.layout.from_tokens(tokens, batch * count, self.size, self.size).astype(kind)

    def of_level(self, x: Tensor, boxes: Tensor, own: Tensor, width: int) -> Tensor:
        """(B, H, W C), (B, R, 4) in places, (B, R) -> (B R, size, size, C); zeros where own is false."""
        batch, count = boxes.shape[:2]
        boxes = boxes.reshape(-1, 4)
        rows = axis_weights(boxes[:, 1], boxes[:, 3] - boxes[:, 1], self.size, x.shape[1], self.ratio)
        columns = axis_weights(boxes[:, 0], boxes[:, 2] - boxes[:, 0], self.size, width, self.ratio)
        rows = rows * own.astype(ms.float32).reshape(-1, 1, 1)
        found = []
        for image in range(batch):
            for begin in range(0, count, ROIS_AT_ONCE):
                first, last = image * count + begin, image * count + min(begin + ROIS_AT_ONCE, count)
                part = ops.matmul(rows[first:last].reshape(-1, rows.shape[2]), x[image])
                part = part.reshape(last - first, self.size, width, -1)
                found.append(ops.matmul(columns[first:last].expand_dims(1), part))
        return ops.cat(found)


def box_levels(boxes: Tensor, levels: int) -> Tensor:
    """(..., 4) -> (...) float32: the level of a pyramid that each box is looked up in, 0 the finest."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    side = ops.sqrt(ops.relu(width * height)) / FINEST + 1e-6
    level = ops.zeros_like(side)
    for power in range(1, levels):
        level = level + (side >= 2.0**power).astype(ms.float32)
    return level
