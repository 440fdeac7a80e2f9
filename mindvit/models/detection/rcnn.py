"""Faster R-CNN (Ren et al. 2015; https://arxiv.org/abs/1506.01497), Mask R-CNN (He et al. 2017;
https://arxiv.org/abs/1703.06870) and their cascade (Cai and Vasconcelos 2018; https://arxiv.org/abs/1712.00726).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindvit.layers.anchors import AnchorGrid
from mindvit.layers.boxes import clip, decode
from mindvit.layers.nms import Suppression
from mindvit.layers.roi_align import RoIAlign, box_levels
from mindvit.layers.rows import take_rows
from mindvit.models.detection.dense_heads import RPNHead
from mindvit.models.detection.detector import DETECTIONS, OVERLAP, SCORE, UNIT_STDS, Best, Detector
from mindvit.models.detection.roi_heads import BOX_SIZE, MASK_SIZE, BoxHead, MaskHead
from mindvit.models.pyramid import Pyramid

RATIOS, SCALE = (0.5, 1.0, 2.0), 8.0
PROPOSAL_OVERLAP = 0.7
STAGE_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))


@dataclass(frozen=True)
class Numbers:
    """How many boxes each step leaves: the best of each level, while training and otherwise; proposals of an image;
    boxes with a class, before those that overlap a better one are taken away.
    """

    best_of_level_training: int = 2000
    best_of_level: int = 1000
    proposals: int = 1000
    candidates: int = 2000


class Proposals(nn.Cell):
    """Where there may be objects: each level's best boxes, and of them the best that overlap no better one of their
    level.

    logits, deltas, anchors: of each level; sizes: (B, 2) -> (B, P, 4) boxes and (B, P) scores, 0 where there are no
    more. No gradient.
    """

    def __init__(self, numbers: Numbers):
        super().__init__()
        self.numbers = numbers
        self.best_of_level = (numbers.best_of_level, numbers.best_of_level_training)
        self.best = Best(PROPOSAL_OVERLAP, numbers.proposals, with_classes=False)
        # without kernels of ours level by level: its boxes are compared with each other, not with all
        self.by_level = Suppression(PROPOSAL_OVERLAP)

    def construct(
        self,
        logits: tuple[Tensor, ...],
        deltas: tuple[Tensor, ...],
        anchors: tuple[Tensor, ...],
        sizes: Tensor,
    ) -> tuple[Tensor, Tensor]:
        boxes, scores, levels = [], [], []
        most = self.best_of_level[1] if self.training else self.best_of_level[0]
        for level in range(len(logits)):
            score, place = ops.topk(ops.stop_gradient(logits[level]), min(most, logits[level].shape[1]))
            place = place.astype(ms.int32)
            delta = take_rows(ops.stop_gradient(deltas[level]), place)
            box = clip(decode(ops.gather(anchors[level], place, 0), delta, UNIT_STDS), sizes)
            sides = box[..., 2:] - box[..., :2]
            has_area = ((sides[..., 0] > 0) & (sides[..., 1] > 0)).astype(ms.float32)
            score = ops.sigmoid(score) * has_area
            if self.best.nms.fused_op is None:
                score = score * self.by_level(box, has_area - 1)
            boxes.append(box)
            scores.append(score)
            levels.append(level * ops.ones_like(place))
        found, score = ops.cat(boxes, 1), ops.cat(scores, 1)
        if self.best.nms.fused_op is not None:
            found, score = self.best(found, score, ops.cat(levels, 1))
        else:
            score, place = ops.topk(score, min(self.numbers.proposals, score.shape[1]))
            found = take_rows(found, place.astype(ms.int32))
        return ops.stop_gradient(found), ops.stop_gradient(score)


class RoIHead(nn.Cell):
    """The heads of each stage and the maps of boxes that they see."""

    def __init__(self, boxes: Sequence[BoxHead], masks: Sequence[MaskHead], strides: Sequence[int]):
        super().__init__()
        self.stages, self.levels = len(boxes), len(strides)
        self.has_masks, self.num_classes = len(masks) > 0, boxes[0].num_classes
        self.bbox_head: Any = boxes[0] if len(boxes) == 1 else nn.CellList(boxes)
        self.mask_head: Any = None
        if masks:
            self.mask_head = masks[0] if len(masks) == 1 else nn.CellList(masks)
        self.box_maps, self.mask_maps = RoIAlign(BOX_SIZE, strides), RoIAlign(MASK_SIZE, strides)

    def boxes(
        self, stage: int, maps: tuple[Tensor, ...], boxes: Tensor, counts: Optional[Tensor] = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (B K, classes + 1) and deltas (B K, classes, 4) of boxes (B, K, 4); counts: (B, K), 0 for padding."""
        x = self.box_maps(maps[: self.levels], boxes, box_levels(boxes, self.levels))
        counts = None if counts is None else counts.reshape(-1)
        if self.stages == 1:
            return self.bbox_head(x, counts)
        return self.bbox_head[stage](x, counts)

    def masks(
        self, stage: int, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor, counts: Optional[Tensor] = None
    ) -> Tensor:
        """Logits (B K, 28, 28) of the masks of boxes (B, K, 4) with labels (B, K) int32; counts: see boxes."""
        x = self.mask_maps(maps[: self.levels], boxes, box_levels(boxes, self.levels))
        counts = None if counts is None else counts.reshape(-1)
        if self.stages == 1:
            return self.mask_head(x, labels.reshape(-1), counts)
        return self.mask_head[stage](x, labels.reshape(-1), counts)


class RCNN(Detector):
    """Detects objects with a second look at boxes where there may be one; with masks, a fourth output: (B, 100, 28,
    28), how sure it is of each cell of a box, 0..1.
    """

    PARTS = ("rpn_head", "roi_head")

    def __init__(
        self, backbone: Pyramid, neck: nn.Cell, grid: AnchorGrid, channels: int, roi_head: RoIHead, numbers: Numbers
    ):
        super().__init__(backbone, neck, grid, roi_head.num_classes)
        self.rpn_head = RPNHead(channels, grid.per_place)
        self.roi_head = roi_head
        self.propose = Proposals(numbers)
        self.best = Best(OVERLAP, DETECTIONS)
        self.candidates = numbers.candidates
        self.stages = roi_head.stages
        self.name_parts()

    def refined(self, stage: int, boxes: Tensor, labels: Tensor, deltas: Tensor, sizes: Tensor) -> Tensor:
        """Boxes (B, K, 4) moved by a stage's deltas of their labels (B, K). No gradient."""
        own = take_rows(deltas, labels.reshape(-1, 1)).reshape(boxes.shape)
        return clip(decode(boxes, ops.stop_gradient(own), STAGE_STDS[stage]), sizes)

    def classified(self, maps: tuple[Tensor, ...], boxes: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, K, classes) of proposals (B, K, 4), and a box for each class (B, K, classes, 4)."""
        batch, count = boxes.shape[:2]
        total: Any = 0
        deltas: Any = None
        for stage in range(self.stages):
            logits, deltas = self.roi_head.boxes(stage, maps, boxes)
            total = total + logits
            if stage < self.stages - 1:
                labels = ops.argmax(logits[:, : self.num_classes], 1).astype(ms.int32)
                boxes = self.refined(stage, boxes, labels.reshape(batch, count), deltas, sizes)
        scores = ops.softmax(total / self.stages, -1).reshape(batch, count, -1)[:, :, : self.num_classes]
        deltas = deltas.reshape(batch, count, self.num_classes, 4)
        return scores, clip(decode(boxes.expand_dims(2), deltas, STAGE_STDS[self.stages - 1]), sizes)

    def construct(self, x: Tensor, sizes: Tensor, score_thr: Any = SCORE) -> tuple[Tensor, ...]:
        maps = self.features(x)
        logits, deltas = self.rpn_head(maps, x.shape[0])
        proposals, likely = self.propose(logits, deltas, self.anchors(maps), sizes)
        return self.detections(maps, proposals, likely, sizes, score_thr)

    def detections(
        self, maps: tuple[Tensor, ...], proposals: Tensor, likely: Tensor, sizes: Tensor, score_thr: Any = SCORE
    ) -> tuple[Tensor, ...]:
        """The best boxes, from proposals (B, P, 4) and their scores (B, P)."""
        batch = likely.shape[0]
        scores, boxes = self.classified(maps, proposals, sizes)
        scores = scores * ((scores > score_thr) & (likely > 0).expand_dims(2)).astype(ms.float32)
        scores = scores.reshape(batch, -1)
        scores, place = ops.topk(scores, min(self.candidates, scores.shape[1]))
        place = place.astype(ms.int32)
        classes = place - place // self.num_classes * self.num_classes
        found, scores, labels = self.best(take_rows(boxes.reshape(batch, -1, 4), place), scores, classes)
        if not self.roi_head.has_masks:
            return found, scores, labels
        counts = (scores > 0).astype(ms.float32)
        total: Any = 0
        for stage in range(self.stages):
            total = total + ops.sigmoid(self.roi_head.masks(stage, maps, found, labels, counts))
        return found, scores, labels, (total / self.stages).reshape((batch, DETECTIONS) + total.shape[1:])
