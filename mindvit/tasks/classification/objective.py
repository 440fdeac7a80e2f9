"""What a classifier's training minimizes: from uint8 images, labels and a batch's augmentation to the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np
from mindspore import Tensor, nn, ops

from mindvit.layers.augment import AugmentImages
from mindvit.layers.drop_path import DropPathScale, number_drop_paths
from mindvit.tasks.classification.losses import BinaryCrossEntropy, Distillation, SoftTargetCrossEntropy


@dataclass(frozen=True)
class ObjectiveOptions:
    """What the objective depends on; what changes from step to step is its inputs."""

    mean: Sequence[float]
    std: Sequence[float]
    erase: bool = False
    mix: bool = False
    loss: str = "CE"
    smoothing: float = 0.0
    distill_type: str = "none"  # soft, hard: with a teacher
    distill_alpha: float = 0.5
    distill_tau: float = 1.0
    class_weights: Optional[np.ndarray] = None  # (classes,) float32


class ClassificationObjective(nn.Cell):
    """The loss of a batch, float32 (). A (frozen) teacher sees what the network sees.

    Inputs: images (B, H, W, C) uint8, labels (B,) int32, the arrays of a BatchAug, drop_path_rand (drop paths, B)
    float32.
    """

    def __init__(self, net: nn.Cell, options: ObjectiveOptions, teacher: Optional[nn.Cell] = None):
        super().__init__(auto_prefix=False)
        if (teacher is None) != (options.distill_type == "none"):
            raise ValueError(
                f"distill_type is {options.distill_type}, but there is {'no' if teacher is None else 'a'} teacher"
            )
        self.prepare = AugmentImages(options.mean, options.std, options.erase, options.mix)
        self.net = net
        rates = number_drop_paths(net)
        self.drop_paths = len(rates)
        self.drop_path_scale = DropPathScale(rates)
        losses = {"CE": SoftTargetCrossEntropy, "BCE": BinaryCrossEntropy}
        self.criterion = losses[options.loss](options.smoothing, options.mix, options.class_weights)
        self.teacher = teacher
        self.distillation = Distillation(options.distill_type, options.distill_alpha, options.distill_tau)

    def construct(
        self,
        images: Tensor,
        labels: Tensor,
        lam: Tensor,
        mix_mask: Tensor,
        erase_boxes: Tensor,
        erase_noise: Tensor,
        drop_path_rand: Tensor,
    ) -> Tensor:
        x = self.prepare(images, mix_mask, erase_boxes, erase_noise)
        logits = self.net(x, self.drop_path_scale(drop_path_rand))
        loss = self.criterion(logits, labels, lam)
        if self.teacher is not None:
            loss = self.distillation(loss, logits, ops.stop_gradient(self.teacher(x)))
        return loss
