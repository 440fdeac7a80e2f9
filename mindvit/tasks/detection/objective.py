"""A detector's losses of a batch: what a training step minimizes.

Inputs, the same for all detectors: images (B, C, H, W); sizes (B, 2) float32, their true heights and widths; objects'
boxes (B, G, 4) and labels (B, G) int32, below 0 where there is none; their masks (B, G, H, W / 8) uint8, eight pixels a
byte; priorities, by which boxes are sampled: whole numbers from 0 on, all different in an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindvit.layers.drop_path import DropPathScale, number_drop_paths
from mindvit.layers.normalize import Normalize
from mindvit.layers.rows import take_rows
from mindvit.models.detection import RCNN, RetinaNet
from mindvit.models.detection.rcnn import STAGE_STDS
from mindvit.tasks.detection.losses import BoxLoss, MaskLoss, RetinaNetLoss, RPNLoss
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
    """The loss () and its parts by `names`."""

    names = ("loss_cls", "loss_bbox")

    def __init__(self, net: RetinaNet):
        super().__init__(auto_prefix=False)
        self.net = net
        self.loss = RetinaNetLoss(net.num_classes)

    def levels(
        self, images: Tensor, sizes: Tensor, boxes: Tensor, labels: Tensor, drop_path_scale: Optional[Tensor] = None
    ) -> tuple[Tensor, Tensor]:
        """Both losses of each level."""
        maps = self.net.features(images, drop_path_scale)
        logits, deltas = self.net.bbox_head(maps, images.shape[0])
        anchors = ops.cat(self.net.anchors(maps)).expand_dims(0)
        return self.loss(logits, deltas, anchors, self.net.valid_anchors(maps, sizes), boxes, labels)

    def construct(
        self, images: Tensor, sizes: Tensor, boxes: Tensor, labels: Tensor, drop_path_scale: Optional[Tensor] = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        classes, deltas = self.levels(images, sizes, boxes, labels, drop_path_scale)
        return classes.sum() + deltas.sum(), (classes.sum(), deltas.sum())


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
        an object, whether it is an object itself.
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
        is_object = (index < labels.shape[1]).astype(ms.float32)
        return take_rows(candidates, index), place, label, chosen, positive, is_object

    def construct(
        self, net: RCNN, maps: tuple[Tensor, ...], drawn: tuple[Tensor, ...], boxes: Tensor, masks: Optional[Tensor]
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """drawn: what `sampled` gives. -> the losses' parts, and the head's logits and deltas."""
        rois, place, label, chosen, positive, _ = drawn
        logits, deltas = net.roi_head.boxes(self.stage, maps, rois, chosen)
        objects = take_rows(boxes, place).reshape(-1, 4)
        flat = rois.reshape(-1, 4), objects, label.reshape(-1), chosen.reshape(-1)
        classes, moves, accuracy = self.box_loss(logits, deltas, *flat)
        parts = [classes * self.weight, moves * self.weight]
        if masks is not None:
            most = self.sample.positives  # those with an object come first
            found = net.roi_head.masks(self.stage, maps, rois[:, :most], ops.minimum(label, self.last())[:, :most])
            target = self.mask_targets(rois[:, :most], place[:, :most], masks)
            parts.append(self.mask_loss(found, target, positive[:, :most].reshape(-1)) * self.weight)
        return (*parts, accuracy), logits, deltas

    def last(self) -> Tensor:
        """The last class."""
        return Tensor(self.num_classes - 1, ms.int32)


class RCNNObjective(nn.Cell):
    """The loss () and its parts by `names`; an accuracy, per cent, is no part of the loss.

    with_steps: whether `everything` gives what losses come from too, for tests.
    """

    def __init__(self, net: RCNN, sampled: Optional[Sampled] = None, with_steps: bool = False):
        super().__init__(auto_prefix=False)
        self.with_steps = with_steps
        numbers = Sampled() if sampled is None else sampled
        self.net = net
        self.rpn_loss = RPNLoss(numbers.anchors, numbers.anchors_share)
        self.looks = nn.CellList([Stage(net, stage, numbers) for stage in range(net.stages)])
        kinds = ("loss_cls", "loss_bbox", *(["loss_mask"] if net.roi_head.has_masks else []), "acc")
        prefixes = [f"s{stage}." for stage in range(net.stages)] if net.stages > 1 else [""]
        self.names = ("loss_rpn_cls", "loss_rpn_bbox", *(prefix + kind for prefix in prefixes for kind in kinds))

    def everything(
        self,
        images: Tensor,
        sizes: Tensor,
        boxes: Tensor,
        labels: Tensor,
        masks: Optional[Tensor],
        rpn_priority: Tensor,
        box_priority: Tensor,
        drop_path_scale: Optional[Tensor] = None,
    ) -> Any:
        """Losses of the RPN's levels and parts of each stage. with_steps: also proposals with scores, and the boxes of
        each stage with what is known of them.

        rpn_priority: (B, P, anchors); box_priority: (B, stages, P, M), M at least the objects' places and proposals; P:
        see Sampler.
        """
        maps = self.net.features(images, drop_path_scale)
        logits, deltas = self.net.rpn_head(maps, images.shape[0])
        anchors = self.net.anchors(maps)
        valid = self.net.valid_anchors(maps, sizes)
        rpn = self.rpn_loss(logits, deltas, ops.cat(anchors).expand_dims(0), valid, boxes, labels, rpn_priority)
        proposals = self.net.propose(logits, deltas, anchors, sizes)
        rois, counts = proposals[0], (proposals[1] > 0).astype(ms.float32)
        parts, stages = [], []
        for stage in range(self.net.stages):
            drawn = self.looks[stage].sampled(rois, counts, boxes, labels, box_priority[:, stage])
            found, scores, moves = self.looks[stage](self.net, maps, drawn, boxes, masks)
            parts.append(found)
            stages.append((*drawn, scores, moves))
            if stage < self.net.stages - 1:
                likely = ops.argmax(scores[:, : self.net.num_classes], 1).astype(ms.int32).reshape(drawn[2].shape)
                label = ops.select(drawn[4] > 0, drawn[2], likely)
                rois = self.net.refined(stage, drawn[0], label, moves, sizes)
                counts = drawn[3] * (1 - drawn[5])
        if not self.with_steps:
            return rpn, tuple(parts)
        return rpn, tuple(parts), proposals, tuple(stages)

    def construct(
        self,
        images: Tensor,
        sizes: Tensor,
        boxes: Tensor,
        labels: Tensor,
        masks: Optional[Tensor],
        rpn_priority: Tensor,
        box_priority: Tensor,
        drop_path_scale: Optional[Tensor] = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        rpn, stages = self.everything(images, sizes, boxes, labels, masks, rpn_priority, box_priority, drop_path_scale)
        parts = (rpn[0].sum(), rpn[1].sum())
        total = parts[0] + parts[1]
        for found in stages:
            for part in found[:-1]:
                total = total + part
            parts = parts + found
        return total, parts


class DetectionObjective(nn.Cell):
    """The loss of a batch, float32 (), from pixels.

    Inputs: images (B, H, W, C) uint8; sizes (B, 2) int32, height and width of what is no padding: beyond it the network
    sees zeros; boxes and labels of objects; for an R-CNN masks, if it has them, and both priorities; last
    drop_path_rand (drop paths, B) float32.
    """

    def __init__(self, net: nn.Cell, mean: Sequence[float], std: Sequence[float], sampled: Optional[Sampled] = None):
        super().__init__(auto_prefix=False)
        self.normalize = Normalize(mean, std)
        self.net = net
        self.is_rcnn = isinstance(net, RCNN)
        self.has_masks = isinstance(net, RCNN) and net.roi_head.has_masks
        rates = number_drop_paths(net)
        self.drop_paths = len(rates)
        self.drop_path_scale = DropPathScale(rates)
        self.losses: Any = RCNNObjective(net, sampled) if isinstance(net, RCNN) else RetinaNetObjective(net)

    def pixels(self, images: Tensor, sizes: Tensor) -> Tensor:
        """What the network sees: (B, C, H, W)."""
        x = self.normalize(images)
        rows = ops.arange(x.shape[2]).astype(ms.int32).reshape(1, 1, -1, 1) < sizes[:, 0].reshape(-1, 1, 1, 1)
        columns = ops.arange(x.shape[3]).astype(ms.int32).reshape(1, 1, 1, -1) < sizes[:, 1].reshape(-1, 1, 1, 1)
        return x * ops.logical_and(rows, columns).astype(x.dtype)

    def construct(self, images: Tensor, sizes: Tensor, boxes: Tensor, labels: Tensor, *others: Tensor) -> Tensor:
        x, true = self.pixels(images, sizes), sizes.astype(ms.float32)
        scale = self.drop_path_scale(others[-1])
        if not self.is_rcnn:
            return self.losses(x, true, boxes, labels, scale)[0]
        masks = others[0] if self.has_masks else None
        return self.losses(x, true, boxes, labels, masks, others[-3], others[-2], scale)[0]
