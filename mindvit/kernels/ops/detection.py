"""What detectors need: suppression of boxes that overlap, and boxes' maps."""

from __future__ import annotations

from typing import Any, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindvit.kernels.ops.custom import Shape, Tensors, kernel


class NMS(nn.Cell):
    """Boxes of which none overlaps a better one of its group: see layers.nms. -> (B, limit) float32 places, -1 after
    the last. No gradient.
    """

    def __init__(self, threshold: float, limit: int):
        super().__init__()
        self.threshold = Tensor([threshold], ms.float32)
        self.forward = kernel("NMS", lambda boxes, *_: [boxes[0], limit], variant=limit)

    def construct(self, boxes: Tensor, groups: Tensor) -> Tensor:
        return self.forward(boxes, groups, self.threshold)

    def bprop(self, boxes: Tensor, groups: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """None."""
        return ops.zeros_like(boxes), ops.zeros_like(groups)


class RoIAlign(nn.Cell):
    """Boxes' maps, each from its level of a pyramid: see layers.roi_align.

    boxes: (B, R, 4); levels: (B, R); maps: (B, H, W, C) each -> (B R, size, size, C). Boxes get no gradients.
    """

    def __init__(self, size: int, strides: Sequence[float], ratio: int):
        super().__init__()
        count = len(strides)
        self.strides, self.ratio = Tensor(np.array(strides, np.float32)), Tensor([ratio], ms.float32)

        def shapes(boxes: Shape, *others: Shape) -> Shape:
            return [boxes[0] * boxes[1], size, size, others[-1][3]]

        def map_shapes(*inputs: Shape) -> Any:
            return tuple(inputs[4 : 4 + count]) if count > 1 else inputs[4]

        self.forward = kernel("RoIAlign", shapes, variant=size)
        self.backward = kernel("RoIAlignGrad", map_shapes, count, variant=count)

    def construct(self, boxes: Tensor, levels: Tensor, maps: tuple[Tensor, ...]) -> Tensor:
        return self.forward(boxes, levels, self.strides, self.ratio, *maps)

    def bprop(
        self, boxes: Tensor, levels: Tensor, maps: tuple[Tensor, ...], out: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Gradients of the maps."""
        found = self.backward(boxes, levels, self.strides, self.ratio, *maps, gradient)
        return ops.zeros_like(boxes), ops.zeros_like(levels), found if isinstance(found, tuple) else (found,)


class AssignBoxes(nn.Cell):
    """The object that each box is to find, by IoU: see tasks.detection.targets. -> (B, N) float32. No gradient."""

    def __init__(self, positive: float, negative: float, low_quality: float):
        super().__init__()
        self.limits = Tensor([positive, negative, low_quality], ms.float32)
        self.forward = kernel("AssignBoxes", lambda boxes, *_: boxes[:2])

    def construct(self, boxes: Tensor, valid: Tensor, objects: Tensor, real: Tensor) -> Tensor:
        return self.forward(boxes, valid, objects, real, self.limits)

    def bprop(
        self, boxes: Tensor, valid: Tensor, objects: Tensor, real: Tensor, out: Tensor, gradient: Tensor
    ) -> Tensors:
        """None."""
        return ops.zeros_like(boxes), ops.zeros_like(valid), ops.zeros_like(objects), ops.zeros_like(real)


class CutMasks(nn.Cell):
    """The share of each cell of a box's grid that is an object's: see tasks.detection.targets. No gradient."""

    def __init__(self, size: int):
        super().__init__()
        self.forward = kernel("CutMasks", lambda boxes, *_: [boxes[0] * boxes[1], size, size], variant=size)

    def construct(self, boxes: Tensor, objects: Tensor, masks: Tensor) -> Tensor:
        return self.forward(boxes, objects, masks)

    def bprop(self, boxes: Tensor, objects: Tensor, masks: Tensor, out: Tensor, gradient: Tensor) -> Tensors:
        """None."""
        return ops.zeros_like(boxes), ops.zeros_like(objects), ops.zeros_like(masks)


class FocalLoss(nn.Cell):
    """Sigmoid focal loss of every box, summed over classes: see tasks.detection.losses.

    logits: (B, N, C); labels: (B, N), below 0 for boxes without an object; counted: (B, N), 0 for boxes without a loss.
    -> (B, N).
    """

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("FocalLoss", lambda logits, *_: logits[:2])
        self.backward = kernel("FocalLossGrad", lambda logits, *_: logits)

    def construct(self, logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
        return self.forward(logits, labels, counted)

    def bprop(self, logits: Tensor, labels: Tensor, counted: Tensor, out: Tensor, gradient: Tensor) -> Tensors:
        """Gradient of the logits."""
        found = self.backward(logits, labels, counted, gradient)
        return found, ops.zeros_like(labels), ops.zeros_like(counted)
