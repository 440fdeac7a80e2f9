"""Non-maximum suppression with static shapes."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindvit.kernels import ops as kernels
from mindvit.layers.boxes import area, intersection
from mindvit.runtime import platform

MOST = 2864  # boxes that Ascend's NMSWithMask takes


class Greedy(nn.Cell):
    """Which boxes greedy suppression keeps, found as the one fixed point of 'kept: no kept one before it overlaps it'.

    overlaps: (B, M, M), 1 where box i would suppress a later box j, else 0 -> (B, M), 1 for those kept. A box's answer
    is final once those of all boxes before it are, so the loop ends after as many rounds as the longest chain has
    links. No gradient.
    """

    def construct(self, overlaps: Tensor) -> Tensor:
        kept = ops.ones_like(overlaps[:, :1])
        found = self.next(kept, overlaps)
        while ops.abs(found - kept).sum() > 0:
            kept = found
            found = self.next(kept, overlaps)
        return found.reshape(found.shape[0], -1)

    def next(self, kept: Tensor, overlaps: Tensor) -> Tensor:
        """One round."""
        return 1 - ops.minimum(ops.matmul(kept, overlaps), Tensor(1, ms.float32))

    def bprop(self, overlaps: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor]:
        """None."""
        return (ops.zeros_like(overlaps),)


class Suppression(nn.Cell):
    """Which boxes overlap no better one of their group with an IoU above the threshold, without kernels of ours.

    boxes: (B, M, 4), the best first; groups: (B, M) float32, see NMS -> (B, M) float32, 1 for those. The framework's
    NMSWithMask is taken for as many boxes as it takes, where it is known to be right. It knows no groups: boxes of
    another lie beyond all those of one, as in mmdetection. It sorts by scores, equal ones anyhow: they are counters.
    """

    def __init__(self, threshold: float):
        super().__init__()
        self.threshold, self.greedy = threshold, Greedy()
        self.operator: Any = ops.NMSWithMask(threshold) if platform.current().nms_operator else None

    def construct(self, boxes: Tensor, groups: Tensor) -> Tensor:
        boxes, groups = ops.stop_gradient(boxes), ops.stop_gradient(groups)
        counts = (groups >= 0).astype(ms.float32)
        if self.operator is not None and boxes.shape[1] <= MOST:
            return self.by_operator(boxes * counts.expand_dims(2), groups) * counts
        order = ops.arange(boxes.shape[1])
        one, other = ops.expand_dims(boxes, 2), ops.expand_dims(boxes, 1)
        overlap = intersection(one, other)
        union = area(one) + area(other) - overlap
        iou = overlap / ops.select(union > 0, union, ops.ones_like(union))
        same = (ops.expand_dims(groups, 2) == ops.expand_dims(groups, 1)) & (groups >= 0).expand_dims(2)
        later = (order.reshape(1, -1, 1) < order.reshape(1, 1, -1)) & (iou > self.threshold) & same
        return self.greedy(later.astype(ms.float32)) * counts

    def by_operator(self, boxes: Tensor, groups: Tensor) -> Tensor:
        """Image by image; boxes that don't count have no area."""
        count = boxes.shape[1]
        score = (count - ops.arange(count)).astype(ms.float32).expand_dims(1)
        kept = []
        for image in range(boxes.shape[0]):
            shift = ops.relu(groups[image]).expand_dims(1) * (boxes[image].max() + 1)
            rows = ops.cat((boxes[image] + shift, score), 1)
            kept.append(self.operator(rows)[2].astype(ms.float32))
        return ops.stack(kept)


class NMS(nn.Cell):
    """Boxes of which none overlaps a better one of its group with an IoU above the threshold.

    boxes: (B, M, 4), the best first; groups: (B, M) float32, whole numbers (levels or classes; boxes of two groups
    don't meet), below 0 for boxes that don't count. -> (B, limit) int32, places of the first boxes that are kept,
    the best first, and (B, limit) float32: 1 where there is one. A box without area overlaps nothing.
    """

    def __init__(self, threshold: float, limit: int):
        super().__init__()
        self.threshold, self.limit = threshold, limit
        self.fused_op: Any = kernels.NMS(threshold, limit) if platform.current().kernels else None
        self.suppress = Suppression(threshold)

    def construct(self, boxes: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        boxes, groups = ops.stop_gradient(boxes), ops.stop_gradient(groups)
        if self.fused_op is not None:
            places = self.fused_op(boxes, groups)
            return ops.relu(places).astype(ms.int32), (places >= 0).astype(ms.float32)
        count = boxes.shape[1]
        # all different where kept, and falling
        first = self.suppress(boxes, groups) * (count - ops.arange(count)).astype(ms.float32)
        limit = min(self.limit, count)
        values, places = ops.topk(first, limit)
        found = (values > 0).astype(ms.float32)
        places = places.astype(ms.int32) * found.astype(ms.int32)
        if limit < self.limit:
            padding = ops.zeros((boxes.shape[0], self.limit - limit), ms.int32)
            return ops.cat((places, padding), 1), ops.cat((found, padding.astype(ms.float32)), 1)
        return places, found
