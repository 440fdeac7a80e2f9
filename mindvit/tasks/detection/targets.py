"""Which boxes of a batch are to find which objects, and which of them take part in the loss.

B images, N boxes (anchors or proposals), G places for objects, of which `real` (B, G) float32 says 1 for those that
are there. Everything is in float32 and has static shapes.
"""

from __future__ import annotations

from typing import Any, Optional

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindvit.kernels import ops as kernels
from mindvit.layers.boxes import clip, pairwise_iou
from mindvit.layers.roi_align import axis_weights
from mindvit.layers.rows import take_rows
from mindvit.runtime import platform

IGNORED, BACKGROUND = -1, 0  # what a box is assigned to that has no object; the k-th object is k, from 1 on
MASK_SIZE = 28
MASKS_AT_ONCE = 16  # unpacked, a mask is as large as its image


class MaxIoUAssigner(nn.Cell):
    """The object that each box is to find (mmdetection's MaxIoUAssigner).

    A box with an IoU of at least `positive` gets its best object, one below `negative` the background, others are
    ignored. low_quality: where it is not None, an object whose best IoU is at least that gets all boxes with just that
    IoU, whatever else they were to find; of several such objects the last has the box.

    boxes: (B, N, 4); valid: (B, N), 0 for boxes that don't count, which are ignored; objects: (B, G, 4) -> (B, N)
    int32. Crowd regions are no objects: boxes on them are background, as in mmdetection.
    """

    def __init__(self, positive: float, negative: float, low_quality: Optional[float] = None):
        super().__init__()
        self.positive, self.negative, self.low_quality = positive, negative, low_quality
        self.fused_op: Any = None
        if platform.current().kernels:
            self.fused_op = kernels.AssignBoxes(positive, negative, -1.0 if low_quality is None else low_quality)
        self.largest_with_place = ops.ArgMaxWithValue(1)
        self.largest = ops.ReduceMax(keep_dims=True)

    def construct(self, boxes: Tensor, valid: Tensor, objects: Tensor, real: Tensor) -> Tensor:
        boxes, objects = ops.stop_gradient(boxes), ops.stop_gradient(objects)
        if self.fused_op is not None:
            return self.fused_op(boxes, valid, objects, real).astype(ms.int32)
        iou = pairwise_iou(objects, boxes)  # (B, G, N)
        counts = (real.expand_dims(2) * valid.expand_dims(1)) > 0
        iou = ops.select(counts, iou, -ops.ones_like(iou))
        place, best = self.largest_with_place(iou)
        found = ops.select(
            best >= self.positive, place.astype(ms.int32) + 1, IGNORED * ops.ones_like(best).astype(ms.int32)
        )
        found = ops.select(best < self.negative, ops.zeros_like(found), found)
        if self.low_quality is not None:
            best_of_object = self.largest(iou, 2)
            chosen = (iou == best_of_object) & (best_of_object >= self.low_quality) & counts
            number = (ops.arange(iou.shape[1]) + 1).astype(ms.float32).reshape(1, -1, 1)
            last = self.largest(chosen.astype(ms.float32) * number, 1).reshape(found.shape).astype(ms.int32)
            found = ops.select(last > 0, last, found)
        return ops.select(valid > 0, found, IGNORED * ops.ones_like(found))


def of_candidates(priority: Tensor, valid: Tensor) -> Tensor:
    """Each candidate's priorities where just those that count have some, in their order: (B, P, M), (B, N) -> (B, P,
    N).
    """
    place = ops.cumsum(valid, 1).astype(ms.int32) - 1
    place = ops.maximum(place, ops.zeros_like(place)).expand_dims(1)
    return ops.gather_elements(priority, 2, ops.broadcast_to(place, priority.shape[:2] + place.shape[2:]))


class Sampler(nn.Cell):
    """`number` boxes of each image, at most a share of them with objects, the rest background: those with the smallest
    priority, in the order of their index, those with objects first.

    assigned: (B, N) int32; priority: (B, P, N) float32, whole numbers from 0 on, all different in an image: for all
    boxes, or (P is 2) for those with objects and for the others. -> index (B, number) int32; chosen (B, number), 1
    where there is a box; positive (B, number), 1 where it has an object.
    """

    def __init__(self, number: int, share: float):
        super().__init__()
        self.number, self.positives = number, int(number * share)

    def construct(self, assigned: Tensor, priority: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        most = self.number + 0.0
        with_object, has = self.first(assigned > BACKGROUND, priority[:, 0], self.positives)
        count = has.sum(1).expand_dims(1)
        without, free = self.first(assigned == BACKGROUND, priority[:, -1], self.number, most - count)
        index = ops.cat((self.ascending(with_object, has), self.ascending(without, free)), 1)
        slot = ops.arange(self.number).astype(ms.float32).expand_dims(0) + ops.zeros_like(count)
        positive = (slot < count).astype(ms.float32)
        chosen = (slot < count + free.sum(1).expand_dims(1)).astype(ms.float32)
        place = slot + (1 - positive) * (self.positives - count)
        index = ops.gather_elements(index, 1, place.astype(ms.int32))
        return index * chosen.astype(ms.int32), chosen, positive

    def first(
        self, wanted: Tensor, priority: Tensor, number: int, limit: Optional[Tensor] = None
    ) -> tuple[Tensor, Tensor]:
        """The `number` wanted boxes with the smallest priority, of which `limit` (B, 1) count: index, 1 for each."""
        batch, boxes = priority.shape
        key = ops.select(wanted, 2.0**24 - priority, ops.zeros_like(priority))
        fits = min(number, boxes)
        value, index = ops.topk(key, fits)
        index, found = index.astype(ms.float32), (value > 0).astype(ms.float32)
        if fits < number:
            rest = ops.zeros((batch, number - fits), ms.float32)
            index, found = ops.cat((index, rest), 1), ops.cat((found, rest), 1)
        if limit is not None:
            found = found * (ops.arange(number).astype(ms.float32).expand_dims(0) < limit).astype(ms.float32)
        return index, found

    def ascending(self, index: Tensor, found: Tensor) -> Tensor:
        """Those found, in order; then the others."""
        key = ops.select(found > 0, index, 2.0**24 * ops.ones_like(index))
        return (-ops.topk(-key, key.shape[1])[0]).astype(ms.int32)


class MaskTargets(nn.Cell):
    """What the masks of boxes are to be: the object's mask, cut out by RoIAlign and rounded, (B K, 28, 28).

    boxes: (B, K, 4); object: (B, K) int32, from 0 on; masks: (B, G, H, W / 8) uint8, eight pixels a byte, the left one
    highest (numpy.packbits).
    """

    def __init__(self, size: int = MASK_SIZE):
        super().__init__()
        self.size = size
        self.fused_op: Any = kernels.CutMasks(size) if platform.current().kernels else None

    def construct(self, boxes: Tensor, objects: Tensor, masks: Tensor) -> Tensor:
        batch, count = objects.shape
        height, width = masks.shape[2], 8 * masks.shape[3]
        boxes = clip(ops.stop_gradient(boxes), Tensor([[height, width]], ms.float32).tile((batch, 1)))
        if self.fused_op is not None:
            share = self.fused_op(boxes, objects.astype(ms.float32), masks)
        else:
            boxes, own = boxes.reshape(-1, 4) - 0.5, take_rows(masks, objects).reshape(batch * count, height, -1)
            parts = []
            for begin in range(0, batch * count, MASKS_AT_ONCE):
                end = min(begin + MASKS_AT_ONCE, batch * count)
                parts.append(self.shares(boxes[begin:end], own[begin:end]))
            share = ops.cat(parts)
        return (share >= 0.5).astype(ms.float32)

    def shares(self, boxes: Tensor, masks: Tensor) -> Tensor:
        """(K, 4), (K, H, W / 8) -> (K, size, size): the share of each cell that is the object's."""
        byte = masks.astype(ms.float32)
        bits = [ops.floor(byte / 2.0**place) - 2 * ops.floor(byte / 2.0 ** (place + 1)) for place in range(7, -1, -1)]
        pixels = ops.stack(bits, 3).reshape(masks.shape[0], masks.shape[1], -1)
        rows = axis_weights(boxes[:, 1], boxes[:, 3] - boxes[:, 1], self.size, pixels.shape[1], 0)
        columns = axis_weights(boxes[:, 0], boxes[:, 2] - boxes[:, 0], self.size, pixels.shape[2], 0)
        return ops.matmul(ops.matmul(rows, pixels), columns.transpose(0, 2, 1))
