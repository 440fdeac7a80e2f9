"""What validation measures of a classifier."""

from __future__ import annotations

from typing import Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindvit.layers.compiled import Compiled
from mindvit.layers.normalize import Normalize


class EvalStep(Compiled):
    """uint8 images (B, H, W, C) and labels (B,) int32 -> (class_rank (B,) int32, loss (B,) float32, logits (B, classes)
    float32).

    class_rank is the place of the true class among all logits, 0 for the largest, ties resolved by class number; a
    logit that is not a number puts it last. Labels of -1 mark padding, whose class_rank is -1 and whose loss is 0.
    """

    def __init__(self, net: nn.Cell, mean: Sequence[float], std: Sequence[float]):
        super().__init__(auto_prefix=False)
        self.normalize = Normalize(mean, std)
        self.net = net

    def construct(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.net(self.normalize(images)).astype(ms.float32)
        real = labels >= 0
        label = ops.maximum(labels, Tensor(0, ms.int32)).expand_dims(1)
        own = ops.gather_elements(logits, 1, label)
        classes = ops.arange(logits.shape[1]).astype(ms.int32)
        ahead = ops.logical_or(logits > own, ops.logical_and(logits == own, classes < label))
        broken = ops.logical_not(ops.isfinite(own))
        class_rank = ops.where(
            broken.squeeze(1),
            ops.full_like(labels, logits.shape[1] - 1),
            ahead.astype(ms.int32).sum(1).astype(ms.int32),
        )
        loss = -ops.gather_elements(ops.log_softmax(logits, -1), 1, label).squeeze(1)
        return (
            ops.where(real, class_rank, ops.full_like(labels, -1)),
            ops.where(real, loss, ops.zeros_like(loss)),
            logits,
        )
