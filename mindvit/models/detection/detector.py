"""What all detectors have: a backbone, a neck, anchors, and a choice of the best boxes."""

from __future__ import annotations

from typing import Optional, Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindvit.layers.anchors import AnchorGrid
from mindvit.layers.nms import NMS
from mindvit.layers.rows import take_rows
from mindvit.models.pyramid import OnPyramid, Pyramid, add_prefix

UNIT_STDS = (1.0, 1.0, 1.0, 1.0)  # of the deltas that anchors are encoded with
SCORE, OVERLAP, DETECTIONS = 0.05, 0.5, 100  # below, above and beyond which nothing is detected
PYRAMID_LEVELS = 5

Grid = tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]


@ops.constexpr
def _anchors(grid: Grid, sizes: tuple[tuple[int, int], ...], level: int) -> Tensor:
    return Tensor(AnchorGrid(*grid).anchors(sizes)[level])


@ops.constexpr
def _corners(grid: Grid, sizes: tuple[tuple[int, int], ...]) -> Tensor:
    return Tensor(AnchorGrid(*grid).corners(sizes))


class Best(nn.Cell):
    """The best boxes of each image that don't overlap a better one of their class.

    boxes: (B, N, 4); scores: (B, N), 0 or less for boxes that don't count; classes: (B, N) int32 -> (B, limit, 4),
    (B, limit) and (B, limit) int32, the best first; where there are fewer, scores are 0. with_classes: whether the
    third output is wanted.
    """

    def __init__(self, threshold: float, limit: int, with_classes: bool = True):
        super().__init__()
        self.nms = NMS(threshold, limit)
        self.with_classes = with_classes

    def construct(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> tuple[Tensor, ...]:
        scores, order = ops.topk(scores, scores.shape[1])
        order = order.astype(ms.int32)
        boxes, classes = take_rows(boxes, order), take_rows(classes, order)
        groups = ops.select(scores > 0, classes.astype(ms.float32), -ops.ones_like(scores))
        places, found = self.nms(boxes, groups)
        kept = take_rows(boxes, places) * found.expand_dims(2)
        scores = take_rows(scores, places) * found
        if not self.with_classes:
            return kept, scores
        return kept, scores, take_rows(classes, places) * found.astype(ms.int32)


class Detector(OnPyramid):
    """Boxes of objects: (B, in_channels, H, W) and the images' true heights and widths (B, 2) float32, px, without
    padding -> boxes (B, 100, 4) px, scores (B, 100) and labels (B, 100) int32, the best first; a score of 0 means that
    there is no more. A third input, score_thr, a float or float32 (1,), is the score that a box must be above.

    Parameter names are mmdetection's: backbone, neck and the heads'.
    """

    PARTS: tuple[str, ...] = ()  # names of the heads

    def __init__(self, backbone: Pyramid, neck: nn.Cell, grid: AnchorGrid, num_classes: int):
        super().__init__(backbone, num_classes)
        self.neck = neck
        self.grid: Grid = (grid.strides, grid.scales, grid.ratios)
        self.per_place = grid.per_place

    def name_parts(self) -> None:
        """Give parameters their names, once all parts are there."""
        for name in ("backbone", "neck", *self.PARTS):
            add_prefix(getattr(self, name), f"{name}.")

    def features(self, x: Tensor, drop_path_scale: Optional[Tensor] = None) -> tuple[Tensor, ...]:
        """The neck's maps, the finest first."""
        return self.neck(self.backbone(x, drop_path_scale))

    def anchors(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Each level's anchors (N, 4)."""
        sizes = tuple([self.layout.grid(x) for x in maps])
        return tuple([_anchors(self.grid, sizes, level) for level in range(len(maps))])

    def valid_anchors(self, maps: Sequence[Tensor], sizes: Tensor) -> Tensor:
        """(B, N) float32: 1 for anchors whose place lies in their image, padded to a multiple of 32."""
        padded = ops.ceil(sizes / 32) * 32
        inside = _corners(self.grid, tuple([self.layout.grid(x) for x in maps])).expand_dims(0) < padded.expand_dims(1)
        return (inside[..., 0] & inside[..., 1]).astype(ms.float32)
