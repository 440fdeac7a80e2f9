"""Boxes (..., 4): x1, y1, x2, y2 in px, of width x2 - x1 (the framework's operators for boxes add 1)."""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import Tensor, ops

LARGEST_LOG = math.log(1000 / 16)  # of a box's side over its anchor's: deltas beyond it are cut
EPS = 1e-6  # px2: the least area that an overlap is divided by


def area(boxes: Tensor) -> Tensor:
    """(..., 4) -> (...): areas in px2."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def intersection(boxes: Tensor, others: Tensor) -> Tensor:
    """Of boxes and their partners, (..., 4) each -> (...): px2."""
    low, high = ops.maximum(boxes[..., :2], others[..., :2]), ops.minimum(boxes[..., 2:], others[..., 2:])
    sides = ops.relu(high - low)
    return sides[..., 0] * sides[..., 1]


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of every two boxes: (..., N, 4), (..., M, 4) -> (..., N, M)."""
    one, other = ops.expand_dims(boxes, -2), ops.expand_dims(others, -3)
    overlap = intersection(one, other)
    return overlap / ops.maximum(area(one) + area(other) - overlap, Tensor(EPS, ms.float32))


def generalized_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Generalized IoU (Rezatofighi et al. 2019) of boxes and their partners: (..., 4), (..., 4) -> (...)."""
    overlap = intersection(boxes, others)
    union = ops.maximum(area(boxes) + area(others) - overlap, Tensor(EPS, ms.float32))
    around = ops.maximum(boxes[..., 2:], others[..., 2:]) - ops.minimum(boxes[..., :2], others[..., :2])
    enclosing = ops.maximum(around[..., 0] * around[..., 1], Tensor(EPS, ms.float32))
    return overlap / union - (enclosing - union) / enclosing


def encode(boxes: Tensor, targets: Tensor, stds: tuple[float, ...]) -> Tensor:
    """Deltas (..., 4) that lead from boxes to targets (Girshick et al. 2014, R-CNN, appendix C), over stds."""
    sides, wanted = boxes[..., 2:] - boxes[..., :2], targets[..., 2:] - targets[..., :2]
    shift = ((targets[..., :2] + targets[..., 2:]) - (boxes[..., :2] + boxes[..., 2:])) * 0.5 / sides
    return ops.cat((shift, ops.log(wanted / sides)), -1) / Tensor(stds, ms.float32)


def decode(boxes: Tensor, deltas: Tensor, stds: tuple[float, ...]) -> Tensor:
    """The boxes (..., 4) that deltas lead to: what `encode` turns round. Sides grow at most 1000/16-fold."""
    deltas = deltas * Tensor(stds, ms.float32)
    sides = boxes[..., 2:] - boxes[..., :2]
    centre = (boxes[..., :2] + boxes[..., 2:]) * 0.5 + sides * deltas[..., :2]
    half = sides * ops.exp(ops.clamp(deltas[..., 2:], -LARGEST_LOG, LARGEST_LOG)) * 0.5
    return ops.cat((centre - half, centre + half), -1)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes cut to their images. boxes: (B, ..., 4); sizes: (B, 2) float32, each image's height and width, px."""
    limits = ops.cat((sizes[:, 1:], sizes[:, :1], sizes[:, 1:], sizes[:, :1]), 1)
    limits = limits.reshape((boxes.shape[0],) + (1,) * (boxes.ndim - 2) + (4,))
    return ops.minimum(ops.relu(boxes), limits)
