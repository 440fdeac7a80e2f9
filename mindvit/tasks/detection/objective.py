"""A detector's losses of a batch: what a training step minimizes.

Inputs, the same for all detectors: images (B, C, H, W); sizes (B, 2) float32, their true heights and widths; objects:
boxes (B, G, 4), labels (B, G) int32, below 0 where there is none, and for an R-CNN with masks those, (B, G, H, W / 8)
uint8, eight pixels a byte; priorities, by which an R-CNN samples: whole numbers from 0 on, all different in an image.

Outputs: the loss (), its parts by `names`, and what they come from, which the compiler leaves out where nobody uses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindvit.layers.drop_path import DropPathScale, number_drop_paths
from mindvit.layers.normalize import NormalizePadded
from mindvit.layers.rows import take_rows
from mindvit.models.detection import RCNN, RetinaNet
from mindvit.models.detection.rcnn import STAGE_STDS
from mindvit.tasks.detection.losses import BoxLoss, MaskLoss, MeanOverRanks, RetinaNetLoss, RPNLoss, at_least_one
from mindvit.tasks.detection.targets import MaskTargets, MaxIoUAssigner, Sampler, of_candidates

STAGE_WEIGHTS = (1.0, 0.5, 0.25)
STAGE_OVERLAPS = (0.5, 0.6, 0.7)


@dataclass(frozen=True)
class Sampled:
    """How many anchors and boxes of an image take part in an R-CNN's losses, and the largest share with an object."""

    anchors: int = 256
    anchors_share: float = 0.5
    boxes: int = 512
    boxes_share: float = 0.25


class RetinaNetObjective(nn.Cell):
    """The last output: logits and deltas of each level, both losses of each level, and the objects of all anchors."""

    names = ("loss_cls", "loss_bbox")

    def __init__(self, net: RetinaNet, ranks: int = 1):
        super().__init__(auto_prefix=False)
        self.net = net
        self.loss = RetinaNetLoss(net.num_classes, ranks)

    def construct(
        self,
        images: Tensor,
        sizes: Tensor,
        objects: tuple[Tensor, ...],
        priorities: tuple[Tensor, ...] = (),
        drop_path_scale: Optional[Tensor] = None,
    ) -> tuple[Tensor, tuple[Tensor, ...], Any]:
        maps = self.net.features(images, drop_path_scale)
        outputs = self.net.bbox_head(maps, images.shape[0])
        anchors = ops.cat(self.net.anchors(maps)).expand_dims(0)
        losses = self.loss(*outputs, anchors, self.net.valid_anchors(maps, sizes), objects[0], objects[1])
        parts = (losses[0].sum(), losses[1].sum())
        return parts[0] + parts[1], parts, (outputs, losses)


class Stage(nn.Cell):
    """One look at boxes: which of them take part, and their losses.

    cascade: boxes are compared by GIoU, and no object gets a box below the threshold.
    """

    def __init__(self, net: RCNN, stage: int, sampled: Sampled):
        super().__init__(auto_prefix=False)
        self.stage, self.num_classes = stage, net.num_classes
        overlap, cascade = STAGE_OVERLAPS[stage], net.stages > 1
        self.assign = MaxIoUAssigner(overlap, overlap, None if cascade else overlap)
        self.sample = Sampler(sampled.boxes, sampled.boxes_share)
        self.weight = STAGE_WEIGHTS[stage]
        self.box_loss = BoxLoss(net.num_classes, STAGE_STDS[stage], cascade)
        self.mask_loss, self.mask_targets = MaskLoss(), MaskTargets()

    def sampled(
        self, proposals: Tensor, valid: Tensor, boxes: Tensor, labels: Tensor, priority: Tensor
    ) -> tuple[Tensor, ...]:
        """Of each image: boxes (B, S, 4), the number of each one's object, its label, whether it counts, whether it has
        an object, and its place among the places for objects and the proposals.
        """
        real = (labels >= 0).astype(ms.float32)
        number = (ops.arange(labels.shape[1]) + 1).astype(ms.int32).expand_dims(0)
        itself = ops.select(real > 0, number + ops.zeros_like(labels), -ops.ones_like(labels))
        assigned = ops.cat((itself, self.assign(proposals, valid, boxes, real)), 1)
        candidates, counts = ops.cat((boxes, proposals), 1), ops.cat((real, valid), 1)
        index, chosen, positive = self.sample(assigned, of_candidates(priority, counts))
        place = ops.relu(take_rows(assigned, index) - 1)
        background = self.num_classes * ops.ones_like(place)
        label = ops.select(positive > 0, take_rows(labels, place), background)
        return take_rows(candidates, index), place, label, chosen, positive, index

    def construct(
        self, net: RCNN, maps: tuple[Tensor, ...], drawn: tuple[Tensor, ...], objects: tuple[Tensor, ...]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """drawn: what `sampled` gives. -> sums of the losses' parts; the numbers of boxes and masks in them; the head's
        logits and deltas, and of masks logits and targets.
        """
        rois, place, label, chosen, positive, _ = drawn
        logits, deltas = net.roi_head.boxes(self.stage, maps, rois, chosen)
        own = take_rows(objects[0], place).reshape(-1, 4)
        flat = rois.reshape(-1, 4), own, label.reshape(-1), chosen.reshape(-1)
        classes, moves, right, count = self.box_loss(logits, deltas, *flat)
        sums, numbers = [classes * self.weight, moves * self.weight], [count]
        outputs: tuple[Tensor, ...] = (logits, deltas)
        if len(objects) > 2:
            most = self.sample.positives  # those with an object come first
            known, has = ops.minimum(label, self.last())[:, :most], positive[:, :most]
            found = net.roi_head.masks(self.stage, maps, rois[:, :most], known, has)
            target = self.mask_targets(rois[:, :most], place[:, :most], objects[2])
            loss, count = self.mask_loss(found, target, has.reshape(-1))
            sums.append(loss * self.weight)
            numbers.append(count)
            outputs = (logits, deltas, found, target)
        return (*sums, 100 * right), tuple(numbers), outputs

    def last(self) -> Tensor:
        """The last class."""
        return Tensor(self.num_classes - 1, ms.int32)


def divided(sums: tuple[Tensor, ...], numbers: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A stage's parts from their sums and the numbers of boxes and, where there are masks, of masks."""
    boxes = at_least_one(numbers[0])
    masks = [sums[2] / at_least_one(numbers[1])] if len(numbers) > 1 else []
    return (sums[0] / boxes, sums[1] / boxes, *masks, sums[-1] / boxes)


class RCNNObjective(nn.Cell):
    """An accuracy, per cent, is no part of the loss.

    priorities: (B, P, at least the anchors) and (B, stages, P, M), M at least the objects' places and proposals; P: see
    Sampler. The last output: the RPN's logits and deltas of each level; its losses of each level, and the anchors that
    it samples; proposals with scores; for each stage the boxes with what is known of them, and the heads' outputs.
    """

    def __init__(self, net: RCNN, sampled: Optional[Sampled] = None, ranks: int = 1):
        super().__init__(auto_prefix=False)
        numbers = Sampled() if sampled is None else sampled
        self.net = net
        self.rpn_loss = RPNLoss(numbers.anchors, numbers.anchors_share)
        self.looks = nn.CellList([Stage(net, stage, numbers) for stage in range(net.stages)])
        self.mean = MeanOverRanks(ranks)
        kinds = ("loss_cls", "loss_bbox", *(["loss_mask"] if net.roi_head.has_masks else []), "acc")
        prefixes = [f"s{stage}." for stage in range(net.stages)] if net.stages > 1 else [""]
        self.names = ("loss_rpn_cls", "loss_rpn_bbox", *(prefix + kind for prefix in prefixes for kind in kinds))

    def construct(
        self,
        images: Tensor,
        sizes: Tensor,
        objects: tuple[Tensor, ...],
        priorities: tuple[Tensor, ...],
        drop_path_scale: Optional[Tensor] = None,
    ) -> tuple[Tensor, tuple[Tensor, ...], Any]:
        maps = self.net.features(images, drop_path_scale)
        outputs = self.net.rpn_head(maps, images.shape[0])
        anchors, valid = self.net.anchors(maps), self.net.valid_anchors(maps, sizes)
        boxes, labels = objects[:2]
        first = priorities[0][:, :, : valid.shape[1]]  # a larger canvas has more anchors
        losses = self.rpn_loss(*outputs, ops.cat(anchors).expand_dims(0), valid, boxes, labels, first)
        proposals = self.net.propose(*outputs, anchors, sizes)
        rois, counts = proposals[0], (proposals[1] > 0).astype(ms.float32)
        numbers: tuple[Tensor, ...] = (losses[2],)
        stages, sums = [], []
        for stage in range(self.net.stages):
            drawn = self.looks[stage].sampled(rois, counts, boxes, labels, priorities[1][:, stage])
            found, own, seen = self.looks[stage](self.net, maps, drawn, objects)
            sums.append(found)
            numbers = numbers + own
            stages.append((drawn, seen))
            if stage < self.net.stages - 1:
                likely = ops.argmax(seen[0][:, : self.net.num_classes], 1).astype(ms.int32).reshape(drawn[2].shape)
                label = ops.select(drawn[4] > 0, drawn[2], likely)
                rois = self.net.refined(stage, drawn[0], label, seen[1], sizes)
                counts = drawn[3] * (drawn[5] >= labels.shape[1]).astype(ms.float32)  # without objects themselves
        numbers = self.mean(numbers)
        levels = (losses[0] / numbers[0], losses[1] / numbers[0])
        parts: tuple[Tensor, ...] = (levels[0].sum(), levels[1].sum())
        total, kinds = parts[0] + parts[1], (len(numbers) - 1) // self.net.stages
        for stage in range(self.net.stages):
            found = divided(sums[stage], numbers[1 + stage * kinds : 1 + (stage + 1) * kinds])
            for part in found[:-1]:
                total = total + part
            parts = parts + found
        return total, parts, (outputs, (*levels, losses[3]), proposals, tuple(stages))


class DetectionObjective(nn.Cell):
    """The loss of a batch, float32 (), from pixels.

    Inputs: images (B, H, W, C) uint8; sizes (B, 2) int32, height and width of what is no padding: beyond it the network
    sees zeros; boxes and labels of objects; for an R-CNN masks, if it has them, and both priorities; last
    drop_path_rand (drop paths, B) float32.

    ranks: that divide their losses by the mean of their counts.
    """

    def __init__(
        self,
        net: nn.Cell,
        mean: Sequence[float],
        std: Sequence[float],
        sampled: Optional[Sampled] = None,
        ranks: int = 1,
    ):
        super().__init__(auto_prefix=False)
        self.normalize = NormalizePadded(mean, std)
        self.net = net
        self.is_rcnn = isinstance(net, RCNN)
        self.has_masks = isinstance(net, RCNN) and net.roi_head.has_masks
        rates = number_drop_paths(net)
        self.drop_paths = len(rates)
        self.drop_path_scale = DropPathScale(rates)
        self.losses: Any = (
            RCNNObjective(net, sampled, ranks) if isinstance(net, RCNN) else RetinaNetObjective(net, ranks)
        )

    def construct(self, images: Tensor, sizes: Tensor, boxes: Tensor, labels: Tensor, *others: Tensor) -> Tensor:
        x, true = self.normalize(images, sizes), sizes.astype(ms.float32)
        objects = (boxes, labels, others[0]) if self.has_masks else (boxes, labels)
        priorities = others[-3:-1] if self.is_rcnn else ()
        return self.losses(x, true, objects, priorities, self.drop_path_scale(others[-1]))[0]
