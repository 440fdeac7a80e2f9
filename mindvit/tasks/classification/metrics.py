"""What validation measures of a classifier."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Optional, Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindvit.layers.compiled import Compiled
from mindvit.layers.normalize import Normalize

FIRST = 5  # the classes of top-5, which of no more classes is always right and is not measured
TINY = 1e-30  # a probability whose logarithm is still a number


@dataclass(frozen=True)
class Accuracy:
    """Evaluation over `count` images: how many have their class first and among the first five (None: there are no
    more classes), and the mean loss.
    """

    correct1: int
    correct5: Optional[int]
    count: int
    loss: float

    @property
    def top1(self) -> float:
        """Per cent."""
        return 100 * self.correct1 / self.count

    @property
    def top5(self) -> Optional[float]:
        """Per cent; None where there are no more than five classes."""
        return None if self.correct5 is None else 100 * self.correct5 / self.count

    def is_guessing(self, classes: int, commonest: int) -> bool:
        """Whether top-1 is no more than naming the class of the `commonest` images every time, or drawing one of
        `classes` classes, would give.

        Where there is one class, guessing is right every time and nothing can be told.
        """
        chance = 1 / classes
        # images of one class only: naming it would be right every time
        always = commonest if commonest < self.count else 0
        drawn = self.count * chance + math.sqrt(self.count * chance * (1 - chance))
        return classes > 1 and self.correct1 <= max(always, drawn)

    @property
    def primary(self) -> float:
        """Top-1, per cent."""
        return self.top1

    def metrics(self) -> dict[str, float]:
        """By the keys of the task's metrics."""
        top5 = {} if self.top5 is None else {"top5": self.top5}
        return {"top1": self.top1, **top5, "loss": self.loss}

    def per_class(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """None: classes are not measured by themselves."""
        return []

    def __str__(self) -> str:
        top5 = "" if self.top5 is None else f"  top-5 {self.top5:.2f} %"
        return f"top-1 {self.top1:.2f} % ({self.correct1}/{self.count}){top5}  loss {self.loss:.4f}"


class EvalStep(Compiled):
    """uint8 images (B, H, W, C) and labels (B,) int32 -> (class_rank (B,) int32, loss (B,) float32, logits (B, classes)
    float32).

    class_rank is the place of the true class among all logits, 0 for the largest, ties resolved by class number; a
    logit that is not a number puts it last. With `views` > 1 images are (B, views, H, W, C), and the logits those of
    the mean probability over an image's views. Labels of -1 mark padding, whose class_rank is -1 and whose loss is 0.
    """

    def __init__(self, net: nn.Cell, mean: Sequence[float], std: Sequence[float], views: int = 1):
        super().__init__(auto_prefix=False)
        self.normalize = Normalize(mean, std)
        self.net, self.views = net, views

    def construct(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.views > 1:
            images = images.reshape(-1, *images.shape[2:])
        logits = self.net(self.normalize(images)).astype(ms.float32)
        if self.views > 1:
            each = ops.softmax(logits, -1).reshape(-1, self.views, logits.shape[1])
            logits = ops.log(ops.maximum(each.mean(1), TINY))
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
