"""RetinaNet (Lin et al. 2017, Focal Loss for Dense Object Detection; https://arxiv.org/abs/1708.02002)."""

from __future__ import annotations

from typing import Any, Optional

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindvit.layers.anchors import AnchorGrid
from mindvit.layers.boxes import clip, decode
from mindvit.layers.rows import take_rows
from mindvit.models.detection.dense_heads import RetinaHead
from mindvit.models.detection.detector import DETECTIONS, OVERLAP, SCORE, UNIT_STDS, Best, Detector
from mindvit.models.pyramid import Pyramid

RATIOS, SCALES_PER_OCTAVE, SCALE = (0.5, 1.0, 2.0), 3, 4.0
BEST_OF_LEVEL = 1000


def anchor_grid(strides: tuple[int, ...], scale: Optional[float] = None) -> AnchorGrid:
    """Three sizes an octave, the first `scale` strides long."""
    first = SCALE if scale is None else scale
    scales = [first * 2 ** (number / SCALES_PER_OCTAVE) for number in range(SCALES_PER_OCTAVE)]
    return AnchorGrid(strides, scales, RATIOS)


class RetinaNet(Detector):
    """Detects objects with one look at every anchor."""

    PARTS = ("bbox_head",)

    def __init__(self, backbone: Pyramid, neck: nn.Cell, grid: AnchorGrid, channels: int, num_classes: int):
        super().__init__(backbone, neck, grid, num_classes)
        self.bbox_head = RetinaHead(channels, num_classes, grid.per_place)
        self.best = Best(OVERLAP, DETECTIONS)
        self.name_parts()

    def construct(self, x: Tensor, sizes: Tensor, score_thr: Any = SCORE) -> tuple[Tensor, Tensor, Tensor]:
        maps = self.features(x)
        logits, deltas = self.bbox_head(maps, x.shape[0])
        return self.detections(logits, deltas, self.anchors(maps), sizes, score_thr)

    def detections(
        self,
        logits: tuple[Tensor, ...],
        deltas: tuple[Tensor, ...],
        anchors: tuple[Tensor, ...],
        sizes: Tensor,
        score_thr: Any = SCORE,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best boxes, from the head's outputs for each level."""
        boxes, scores, classes = [], [], []
        for level in range(len(logits)):
            score = logits[level].reshape(sizes.shape[0], -1)
            score, place = ops.topk(score, min(BEST_OF_LEVEL, score.shape[1]))
            score = ops.sigmoid(score)
            score = score * (score > score_thr).astype(ms.float32)
            place = place.astype(ms.int32)
            anchor = place // self.num_classes
            boxes.append(decode(ops.gather(anchors[level], anchor, 0), take_rows(deltas[level], anchor), UNIT_STDS))
            scores.append(score)
            classes.append(place - anchor * self.num_classes)
        return self.best(clip(ops.cat(boxes, 1), sizes), ops.cat(scores, 1), ops.cat(classes, 1))
