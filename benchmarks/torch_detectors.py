"""RetinaNet and Mask R-CNN on CrossFormer in plain PyTorch, with torchvision's NMS and RoIAlign: what mindvit's are
measured beside.

Written from the papers and facts about mmdetection's code, with its parameter names; tests/interop/check_detectors.py
compares them with mmdetection's own numbers. The backbone is that of torch_crossformer.
"""

from __future__ import annotations

import math
from typing import Optional, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_crossformer import FPN, SIZES, Backbone, ConvModule
from torchvision.ops import batched_nms, box_iou, roi_align

GROUPS = ((7, 7, 7, 7), (8, 4, 2, 1))
METHODS, CLASSES, CHANNELS = ("retinanet", "mask_rcnn"), 80, 256
RATIOS, LARGEST_LOG = (0.5, 1.0, 2.0), math.log(1000 / 16)
BOX_STDS = (0.1, 0.1, 0.2, 0.2)
SCORE, DETECTIONS, OVERLAP = 0.05, 100, 0.5


def anchors_of(maps: Sequence[Tensor], strides: Sequence[int], scales: Sequence[float]) -> list[Tensor]:
    """Each level's (H W anchors, 4), by place, ratio, scale."""
    found = []
    for x, stride in zip(maps, strides):
        root, sizes = torch.tensor(RATIOS).sqrt(), torch.tensor(scales) * stride
        wide, high = ((factor[:, None] * sizes).flatten() / 2 for factor in (1 / root, root))
        y, x_ = torch.meshgrid(torch.arange(x.shape[2]) * stride, torch.arange(x.shape[3]) * stride, indexing="ij")
        places = torch.stack([x_, y, x_, y], -1).reshape(-1, 1, 4)
        found.append((places + torch.stack([-wide, -high, wide, high], 1)).reshape(-1, 4))
    return found


def encode(boxes: Tensor, targets: Tensor, stds: Sequence[float]) -> Tensor:
    """Deltas from boxes to targets."""
    sides, wanted = boxes[:, 2:] - boxes[:, :2], targets[:, 2:] - targets[:, :2]
    shift = (targets[:, :2] + targets[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2 / sides
    return torch.cat([shift, (wanted / sides).log()], 1) / boxes.new_tensor(stds)


def decode(boxes: Tensor, deltas: Tensor, stds: Sequence[float], size: Sequence[int]) -> Tensor:
    """Boxes (N, 4) moved by deltas (N, ..., 4), within an image of this height and width."""
    deltas = deltas * boxes.new_tensor(stds)
    boxes = boxes.view(boxes.shape[0], *[1] * (deltas.ndim - 2), 4)
    sides = boxes[..., 2:] - boxes[..., :2]
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2 + sides * deltas[..., :2]
    half = sides * deltas[..., 2:].clamp(-LARGEST_LOG, LARGEST_LOG).exp() / 2
    limits = boxes.new_tensor([size[1], size[0]])
    return torch.cat([torch.minimum((centre + sign * half).clamp(min=0), limits) for sign in (-1, 1)], -1)


def assign(boxes: Tensor, objects: Tensor, positive: float, negative: float, low_quality: float) -> Tensor:
    """The object of each box from 1 on, 0 for the background, -1 for ignored ones."""
    overlaps = box_iou(objects, boxes)
    best, place = overlaps.max(0)
    found = torch.where(best >= positive, place + 1, torch.where(best < negative, 0, -1))
    for number, (row, most) in enumerate(zip(overlaps, overlaps.max(1)[0])):
        if most >= low_quality:
            found[row == most] = number + 1
    return found


def sampled(assigned: Tensor, number: int, share: float) -> tuple[Tensor, Tensor]:
    """Places of random boxes with an object and of random background."""
    positive, negative = (assigned > 0).nonzero()[:, 0], (assigned == 0).nonzero()[:, 0]
    positive = positive[torch.randperm(len(positive))[: int(number * share)]]
    return positive, negative[torch.randperm(len(negative))[: number - len(positive)]]


def rows_of(levels: Sequence[Tensor], last: int) -> list[Tensor]:
    """(1, anchors * last, H, W) each -> (H W anchors, last)."""
    return [item[0].permute(1, 2, 0).reshape(-1, last) for item in levels]


class RetinaHead(nn.Module):
    """Two towers of four convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_convs, self.reg_convs = (
            nn.ModuleList(ConvModule(CHANNELS, CHANNELS, 3, norm=False) for _ in range(4)) for _ in range(2)
        )
        self.retina_cls, self.retina_reg = (nn.Conv2d(CHANNELS, 9 * last, 3, padding=1) for last in (CLASSES, 4))
        nn.init.constant_(self.retina_cls.bias, -math.log(99))

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = [], []
        for x in maps:
            classes = boxes = x
            for one, other in zip(self.cls_convs, self.reg_convs):
                classes, boxes = F.relu(one(classes), inplace=True), F.relu(other(boxes), inplace=True)
            logits.append(self.retina_cls(classes))
            deltas.append(self.retina_reg(boxes))
        return rows_of(logits, CLASSES), rows_of(deltas, 4)


class RetinaNet(nn.Module):
    """One image (1, 3, H, W)."""

    STRIDES, SCALES = (8, 16, 32, 64, 128), [4 * 2 ** (number / 3) for number in range(3)]

    def __init__(self, size: str):
        super().__init__()
        self.image_size: Optional[tuple[int, int]] = None  # without padding; None: there is none
        self.backbone = Backbone(SIZES[size], *GROUPS)
        widths = [SIZES[size].channels * 2**level for level in range(1, 4)]
        self.neck = FPN(widths, CHANNELS)
        self.neck.fpn_convs.append(ConvModule(widths[-1], CHANNELS, 3, norm=False))
        self.neck.fpn_convs.append(ConvModule(CHANNELS, CHANNELS, 3, norm=False))
        for module in self.neck.fpn_convs[3:]:
            module.conv.stride = (2, 2)
        self.bbox_head = RetinaHead()

    def outputs(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Logits, deltas and anchors of each level."""
        features = self.backbone(x)[1:]
        maps = self.neck(features)
        maps.append(self.neck.fpn_convs[3](features[-1]))
        maps.append(self.neck.fpn_convs[4](maps[-1]))
        return *self.bbox_head(maps), anchors_of(maps, self.STRIDES, self.SCALES)

    def loss(self, x: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """Focal and L1 loss of one image's objects."""
        logits, deltas, anchors = (torch.cat(levels) for levels in self.outputs(x))
        assigned = assign(anchors, boxes, 0.5, 0.4, 0.0)
        place = (assigned > 0).nonzero()[:, 0]
        own, counted = assigned[place] - 1, assigned >= 0
        wanted = torch.zeros_like(logits)
        wanted[place, labels[own]] = 1
        wanted, logits = wanted[counted], logits[counted]
        chance = logits.sigmoid()
        miss = (1 - chance) * wanted + chance * (1 - wanted)
        weight = (0.25 * wanted + 0.75 * (1 - wanted)) * miss**2
        focal = (F.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * weight).sum()
        moved = F.l1_loss(deltas[place], encode(anchors[place], boxes[own], (1.0,) * 4), reduction="sum")
        return (focal + moved) / max(len(place), 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Boxes, scores and labels."""
        found: list[list[Tensor]] = [[], [], []]
        for logits, deltas, anchors in zip(*self.outputs(x)):
            score = logits.sigmoid().flatten()
            score, place = score.topk(min(1000, len(score)))
            place = place[score > SCORE]
            row = place // CLASSES
            found[0].append(decode(anchors[row], deltas[row], (1.0,) * 4, self.image_size or x.shape[2:]))
            found[1].append(score[score > SCORE])
            found[2].append(place % CLASSES)
        boxes, scores, labels = map(torch.cat, found)
        kept = batched_nms(boxes, scores, labels, OVERLAP)[:DETECTIONS]
        return boxes[kept], scores[kept], labels[kept]


class RPNHead(nn.Module):
    """Whether there is an object at every anchor."""

    def __init__(self) -> None:
        super().__init__()
        self.rpn_conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.rpn_cls, self.rpn_reg = nn.Conv2d(CHANNELS, 3, 1), nn.Conv2d(CHANNELS, 12, 1)

    def forward(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        seen = [F.relu(self.rpn_conv(x)) for x in maps]
        return rows_of([self.rpn_cls(x) for x in seen], 1), rows_of([self.rpn_reg(x) for x in seen], 4)


class BoxHead(nn.Module):
    """Two fully connected layers."""

    def __init__(self) -> None:
        super().__init__()
        self.shared_fcs = nn.ModuleList([nn.Linear(CHANNELS * 49, 1024), nn.Linear(1024, 1024)])
        self.fc_cls, self.fc_reg = nn.Linear(1024, CLASSES + 1), nn.Linear(1024, 4 * CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.flatten(1)
        for layer in self.shared_fcs:
            x = F.relu(layer(x))
        return self.fc_cls(x), self.fc_reg(x).view(-1, CLASSES, 4)


class MaskHead(nn.Module):
    """Four convolutions and one that doubles the sides."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvModule(CHANNELS, CHANNELS, 3, norm=False) for _ in range(4))
        self.upsample, self.conv_logits = nn.ConvTranspose2d(CHANNELS, CHANNELS, 2, 2), nn.Conv2d(CHANNELS, CLASSES, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.relu(conv(x), inplace=True)
        return self.conv_logits(F.relu(self.upsample(x), inplace=True))[torch.arange(len(x)), labels]


class RoIHead(nn.Module):
    """The second look's heads."""

    def __init__(self) -> None:
        super().__init__()
        self.bbox_head, self.mask_head = BoxHead(), MaskHead()

    @staticmethod
    def maps_of(maps: Sequence[Tensor], boxes: Tensor, side: int) -> Tensor:
        """Boxes' maps, each from its level."""
        scale = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        levels = (scale / 56 + 1e-6).log2().floor().clamp(0, 3)
        found = maps[0].new_zeros(len(boxes), CHANNELS, side, side)
        for level in range(4):
            own = (levels == level).nonzero()[:, 0]
            aligned = roi_align(maps[level], [boxes[own]], side, 1 / (4 << level), 0, aligned=True)
            found = found.index_put((own,), aligned)
        return found


class MaskRCNN(nn.Module):
    """One image (1, 3, H, W). best: of a level's anchors, in training and in tests; of them so many proposals."""

    STRIDES = (4, 8, 16, 32, 64)

    def __init__(self, size: str, best: tuple[int, int] = (2000, 1000), proposals: int = 1000):
        super().__init__()
        self.best, self.proposals = best, proposals
        self.image_size: Optional[tuple[int, int]] = None  # without padding; None: there is none
        self.backbone = Backbone(SIZES[size], *GROUPS)
        self.neck = FPN([SIZES[size].channels * 2**level for level in range(4)], CHANNELS)
        self.rpn_head, self.roi_head = RPNHead(), RoIHead()

    def looks(self, x: Tensor, most: int) -> tuple[list[Tensor], ...]:
        """Maps; logits, deltas and anchors of each level; proposals, from the `most` best of a level."""
        maps = self.neck(self.backbone(x))
        maps.append(F.max_pool2d(maps[-1], 1, 2))
        logits, deltas = self.rpn_head(maps)
        anchors = anchors_of(maps, self.STRIDES, [8])
        boxes, scores, levels = [], [], []
        with torch.no_grad():
            for level, (logit, delta, anchor) in enumerate(zip(logits, deltas, anchors)):
                score, place = logit[:, 0].sigmoid().topk(min(most, len(logit)))
                boxes.append(decode(anchor[place], delta[place], (1.0,) * 4, self.image_size or x.shape[2:]))
                scores.append(score)
                levels.append(torch.full_like(place, level))
            box = torch.cat(boxes)
            proposals = box[batched_nms(box, torch.cat(scores), torch.cat(levels), 0.7)[: self.proposals]]
        return maps, logits, deltas, anchors, [proposals]

    def loss(self, x: Tensor, boxes: Tensor, labels: Tensor, masks: Tensor) -> Tensor:
        """All losses of one image's objects; masks: (G, H, W) float."""
        maps, logits, deltas, anchors, (proposals,) = self.looks(x, self.best[0])
        anchor, logit, delta = torch.cat(anchors), torch.cat(logits)[:, 0], torch.cat(deltas)
        assigned = assign(anchor, boxes, 0.7, 0.3, 0.3)
        positive, negative = sampled(assigned, 256, 0.5)
        both, count = torch.cat([positive, negative]), len(positive) + len(negative)
        wanted = (torch.arange(count) < len(positive)).float()
        total = F.binary_cross_entropy_with_logits(logit[both], wanted)
        target = encode(anchor[positive], boxes[assigned[positive] - 1], (1.0,) * 4)
        total = total + F.l1_loss(delta[positive], target, reduction="sum") / count
        proposals = torch.cat([boxes, proposals])
        assigned = assign(proposals, boxes, 0.5, 0.5, 0.5)
        positive, negative = sampled(assigned, 512, 0.25)
        rois, own = proposals[torch.cat([positive, negative])], assigned[positive] - 1
        target = torch.cat([labels[own], labels.new_full((len(negative),), CLASSES)])
        scores, moves = self.roi_head.bbox_head(self.roi_head.maps_of(maps, rois, 7))
        total = total + F.cross_entropy(scores, target)
        place = torch.arange(len(positive))
        wanted = encode(rois[place], boxes[own], BOX_STDS)
        total = total + F.l1_loss(moves[place, labels[own]], wanted, reduction="sum") / len(rois)
        found = self.roi_head.mask_head(self.roi_head.maps_of(maps, rois[place], 14), labels[own])
        parts = torch.cat([own[:, None].float(), rois[place]], 1)
        with torch.no_grad():
            share = (roi_align(masks[:, None], parts, 28, 1.0, 0, aligned=True)[:, 0] >= 0.5).float()
        return total + F.binary_cross_entropy_with_logits(found, share)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Boxes, scores, labels and masks (n, 28, 28)."""
        maps, _, _, _, (proposals,) = self.looks(x, self.best[1])
        scores, moves = self.roi_head.bbox_head(self.roi_head.maps_of(maps, proposals, 7))
        chances = scores.softmax(1)[:, :CLASSES]
        row, label = (chances > SCORE).nonzero().T
        boxes = decode(proposals, moves, BOX_STDS, self.image_size or x.shape[2:])[row, label]
        score = chances[row, label]
        kept = batched_nms(boxes, score, label, OVERLAP)[:DETECTIONS]
        boxes, label = boxes[kept], label[kept]
        return (
            boxes,
            score[kept],
            label,
            self.roi_head.mask_head(self.roi_head.maps_of(maps, boxes, 14), label).sigmoid(),
        )


def detector(name: str) -> nn.Module:
    """By mindvit's name: mask_rcnn_crossformer_small, ..."""
    method, _, size = name.partition("_crossformer_")
    return {"retinanet": RetinaNet, "mask_rcnn": MaskRCNN}[method](size)
