"""The training loss, and what a teacher adds to it."""

from __future__ import annotations

from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindvit.layers.augment import flipped
from mindvit.tasks.class_weights import weights_parameter


class SoftTargets(nn.Cell):
    """What the losses share: 1 - smoothing on the label, mixed with the flipped batch's by lam, and smoothing spread
    over all classes; and how much each class counts, (classes,) float32, or None for all alike.
    """

    def __init__(self, smoothing: float, mix: bool, class_weights: Optional[np.ndarray] = None):
        super().__init__()
        self.smoothing, self.mix = smoothing, mix
        self.class_weights = weights_parameter(class_weights)

    def labels(self, labels: Tensor, lam: Tensor, classes: int) -> Tensor:
        """(B,) int32 and () float32 -> (B, classes), without the smoothing."""
        target = ops.one_hot(labels, classes, Tensor(1.0, ms.float32), Tensor(0.0, ms.float32))
        if self.mix:
            target = target * lam + ops.gather(target, flipped(target.shape[0]), 0) * (1 - lam)
        return target


class SoftTargetCrossEntropy(SoftTargets):
    """-sum_k t_k log softmax(logits)_k, averaged over the batch, in float32. logits: (B, classes); labels: (B,)
    int32; lam: () float32. With class weights -sum_k w_k t_k log softmax(logits)_k, as PyTorch weighs probabilities.
    """

    def construct(self, logits: Tensor, labels: Tensor, lam: Tensor) -> Tensor:
        log_p = ops.log_softmax(logits.astype(ms.float32), -1)
        if self.class_weights is not None:
            log_p = log_p * self.class_weights
        loss = -(log_p * self.labels(labels, lam, log_p.shape[1])).sum(-1).mean()
        if self.smoothing:
            loss = (1 - self.smoothing) * loss - self.smoothing * log_p.mean(-1).mean()
        return loss


class BinaryCrossEntropy(SoftTargets):
    """Every class a yes-or-no question (Wightman et al. 2021): -t log s(x) - (1 - t) log(1 - s(x)), averaged over batch
    and classes, in float32.

    The same inputs as the cross entropy's. With class weights every class's question counts w_k times.
    """

    def construct(self, logits: Tensor, labels: Tensor, lam: Tensor) -> Tensor:
        logits = logits.astype(ms.float32)
        classes = logits.shape[1]
        target = self.labels(labels, lam, classes) * (1 - self.smoothing) + self.smoothing / classes
        loss = ops.relu(logits) - logits * target + ops.log1p(ops.exp(-ops.abs(logits)))
        if self.class_weights is not None:
            loss = loss * self.class_weights
        return loss.mean(-1).mean()


class Distillation(nn.Cell):
    """(1 - alpha) * loss + alpha * what the teacher says, in float32 (Touvron et al. 2021, section 4, with one head as
    in XCiT's release).

    hard: cross entropy with the teacher's class. soft: Kullback-Leibler divergence from the teacher's distribution at
    temperature tau, times tau^2, averaged over batch and classes (the release divides by both). loss: (); student,
    teacher: (B, classes) logits.
    """

    def __init__(self, kind: str, alpha: float, tau: float):
        super().__init__()
        self.hard, self.alpha, self.tau = kind == "hard", alpha, tau

    def construct(self, loss: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = student.astype(ms.float32), teacher.astype(ms.float32)
        if self.hard:
            term = -ops.gather_elements(
                ops.log_softmax(student, -1), 1, teacher.argmax(1).astype(ms.int32).expand_dims(1)
            ).mean()
        else:
            log_p, log_q = ops.log_softmax(teacher / self.tau, -1), ops.log_softmax(student / self.tau, -1)
            term = (ops.exp(log_p) * (log_p - log_q)).sum(-1).mean() * (self.tau**2 / student.shape[1])
        return (1 - self.alpha) * loss + self.alpha * term
