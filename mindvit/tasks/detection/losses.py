"""What a detector's training minimizes, as mmdetection divides and weighs it.

B images, N anchors or boxes, C classes, G places for objects. `boxes` (B, G, 4) and `labels` (B, G) int32 are the
objects', of which a label below 0 is none; `real` (B, G) says 1 for the others.
"""

from __future__ import annotations

from typing import Any, Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindvit.kernels import ops as kernels
from mindvit.layers.boxes import decode, encode, generalized_iou
from mindvit.layers.rows import take_rows
from mindvit.models.detection.detector import UNIT_STDS
from mindvit.runtime import platform
from mindvit.tasks.detection.targets import BACKGROUND, MaxIoUAssigner, Sampler

ALPHA = 0.25  # focal loss: the weight of positives (Lin et al. 2017, section 4.1); its exponent is 2
GIOU_WEIGHT = 10.0


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Of each logit and a target in 0..1."""
    return ops.relu(logits) - logits * targets + ops.log1p(ops.exp(-ops.abs(logits)))


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sigmoid focal loss of each logit and a target 0 or 1."""
    probability = ops.sigmoid(logits)
    miss = (1 - probability) * targets + probability * (1 - targets)
    weight = ALPHA * targets + (1 - ALPHA) * (1 - targets)
    return weight * miss * miss * binary_cross_entropy(logits, targets)


class FocalLoss(nn.Cell):
    """Focal loss of every box, summed over classes: (B, N, C) logits, (B, N) int32 labels, below 0 for none, (B, N),
    0 for boxes without a loss -> (B, N).
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        self.fused_op: Any = kernels.FocalLoss() if platform.current().kernels else None

    def construct(self, logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
        if self.fused_op is not None:
            return self.fused_op(logits, labels.astype(ms.float32), counted)
        classes = ops.arange(self.num_classes).astype(ms.int32)
        return focal_loss(logits, (labels.expand_dims(2) == classes).astype(ms.float32)).sum(2) * counted


class MeanOverRanks(nn.Cell):
    """Counts' means over all ranks: what each divides by, so that the mean of their losses is one rank's with all
    images. All of a step's at once: of several messages between ranks that wait for nothing, each rank may send
    another first. No gradient.
    """

    def __init__(self, ranks: int):
        super().__init__()
        self.ranks = ranks
        self.all_reduce = ops.AllReduce() if ranks > 1 else None

    def construct(self, counts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self.all_reduce is None:
            return counts
        means = self.all_reduce(ops.stop_gradient(ops.stack(counts))) / self.ranks
        return tuple([means[place] for place in range(len(counts))])


def at_least_one(count: Tensor) -> Tensor:
    """Counts, for dividing."""
    return ops.maximum(count, Tensor(1, ms.float32))


def deltas_to(boxes: Tensor, objects: Tensor, wanted: Tensor, stds: tuple[float, ...]) -> Tensor:
    """Deltas (B, K, 4) from boxes to their objects, zeros where `wanted` (B, K) is 0."""
    return ops.select(
        ops.broadcast_to((wanted > 0).expand_dims(2), boxes.shape), encode(boxes, objects, stds), ops.zeros_like(boxes)
    )


class RetinaNetLoss(nn.Cell):
    """Focal loss of all anchors that are not ignored and L1 loss of those with an object, each divided by the number
    of the latter; an image without any counts as one with one.

    anchors: (1, N, 4) in all levels; valid: (B, N); ranks: that divide by their mean number. -> two vectors with a
    value for each level; the object of each anchor (B, N), see MaxIoUAssigner.
    """

    def __init__(self, num_classes: int, ranks: int = 1):
        super().__init__()
        self.focal_loss, self.mean = FocalLoss(num_classes), MeanOverRanks(ranks)
        self.assign = MaxIoUAssigner(0.5, 0.4, 0.0)

    def construct(
        self,
        logits: tuple[Tensor, ...],
        deltas: tuple[Tensor, ...],
        anchors: Tensor,
        valid: Tensor,
        boxes: Tensor,
        labels: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        anchors = ops.broadcast_to(anchors, (boxes.shape[0],) + anchors.shape[1:])
        assigned = self.assign(anchors, valid, boxes, (labels >= 0).astype(ms.float32))
        positive = (assigned > BACKGROUND).astype(ms.float32)
        place = ops.relu(assigned - 1)
        label = ops.select(assigned > BACKGROUND, take_rows(labels, place), -ops.ones_like(assigned))
        target = deltas_to(anchors, take_rows(boxes, place), positive, UNIT_STDS)
        divisor = self.mean((at_least_one(positive.sum(1)).sum(),))[0]
        start, class_losses, box_losses = 0, [], []
        for level in range(len(logits)):
            end = start + logits[level].shape[1]
            counted = (assigned[:, start:end] >= BACKGROUND).astype(ms.float32)
            loss = self.focal_loss(logits[level], label[:, start:end], counted)
            class_losses.append(loss.sum(1).sum() / divisor)
            loss = ops.abs(deltas[level] - target[:, start:end]).sum(2) * positive[:, start:end]
            box_losses.append(loss.sum(1).sum() / divisor)
            start = end
        return ops.stack(class_losses), ops.stack(box_losses), assigned


class RPNLoss(nn.Cell):
    """Binary cross entropy of sampled anchors and L1 loss of those with an object, summed, and what both are to be
    divided by, the number of sampled anchors; an image without objects counts one more.

    priority: (B, P, N), see Sampler. Other inputs: see RetinaNetLoss. -> two vectors with a value for each level; the
    number (); the anchors that are sampled: their places, whether they count, whether they have an object, and its
    number.
    """

    def __init__(self, number: int, share: float):
        super().__init__()
        self.assign = MaxIoUAssigner(0.7, 0.3, 0.3)
        self.sample = Sampler(number, share)

    def construct(
        self,
        logits: tuple[Tensor, ...],
        deltas: tuple[Tensor, ...],
        anchors: Tensor,
        valid: Tensor,
        boxes: Tensor,
        labels: Tensor,
        priority: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        anchors = ops.broadcast_to(anchors, (boxes.shape[0],) + anchors.shape[1:])
        assigned = self.assign(anchors, valid, boxes, (labels >= 0).astype(ms.float32))
        index, chosen, positive = self.sample(assigned, priority)
        place = ops.relu(take_rows(assigned, index) - 1)
        target = deltas_to(take_rows(anchors, index), take_rows(boxes, place), positive, UNIT_STDS)
        class_loss = binary_cross_entropy(take_rows(ops.cat(logits, 1), index), positive) * chosen
        box_loss = ops.abs(take_rows(ops.cat(deltas, 1), index) - target).sum(2) * positive
        with_object, sampled = positive.sum(1), chosen.sum(1)
        number = (at_least_one(with_object) + at_least_one(sampled - with_object)).sum()
        start, class_losses, box_losses = 0, [], []
        for level in range(len(logits)):
            end = start + logits[level].shape[1]
            own = ((index >= start) & (index < end)).astype(ms.float32)
            class_losses.append((class_loss * own).sum())
            box_losses.append((box_loss * own).sum())
            start = end
        return ops.stack(class_losses), ops.stack(box_losses), number, (index, chosen, positive, place)


class BoxLoss(nn.Cell):
    """Cross entropy of boxes and, of those with an object, L1 loss of the deltas of its class, or GIoU loss of the
    boxes that they lead to, summed, and what they are to be divided by, the number of boxes.

    logits: (M, C + 1); deltas: (M, C, 4); of boxes: (M, 4); objects: (M, 4) that they are to find; labels: (M,) int32,
    C for background; chosen: (M,), 0 for padding. -> both sums, how many classes are right, and the number.
    """

    def __init__(self, num_classes: int, stds: Sequence[float], giou: bool):
        super().__init__()
        self.num_classes, self.stds, self.giou = num_classes, tuple(stds), giou

    def construct(
        self, logits: Tensor, deltas: Tensor, boxes: Tensor, objects: Tensor, labels: Tensor, chosen: Tensor
    ) -> tuple[Tensor, ...]:
        own = ops.gather_elements(ops.log_softmax(logits, -1), 1, labels.expand_dims(1)).reshape(-1)
        right = (ops.argmax(logits, -1).astype(ms.int32) == labels).astype(ms.float32) * chosen
        positive = (labels < self.num_classes).astype(ms.float32) * chosen
        place = ops.select(positive > 0, labels, ops.zeros_like(labels))
        delta = take_rows(deltas, place.expand_dims(1)).reshape(-1, 4)
        if self.giou:
            found = decode(boxes, delta, self.stds)
            unused = ops.broadcast_to((positive == 0).expand_dims(1), boxes.shape)
            found = ops.select(unused, ops.stop_gradient(boxes), found)
            loss = GIOU_WEIGHT * (1 - generalized_iou(found, ops.select(unused, boxes, objects)))
        else:
            target = deltas_to(boxes.expand_dims(0), objects.expand_dims(0), positive.expand_dims(0), self.stds)
            loss = ops.abs(delta - target[0]).sum(1)
        return -(own * chosen).sum(), (loss * positive).sum(), right.sum(), chosen.sum()


class MaskLoss(nn.Cell):
    """Binary cross entropy of masks (M, S, S), each one's mean, summed over those with an object, and their number.
    positive: (M,).
    """

    def construct(self, logits: Tensor, targets: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
        return (binary_cross_entropy(logits, targets).mean((1, 2)) * positive).sum(), positive.sum()
