"""The training loss."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindvit.data.mixing import partners


class SoftTargetCrossEntropy(nn.Cell):
    """-sum_k t_k log softmax(logits)_k, averaged over the batch, in float32.

    The target t puts 1 - smoothing on the label, mixed with the partner's label by own_label, and spreads smoothing over all
    classes. logits: (B, classes); labels: (B,) int32; own_label: () float32.
    """

    def __init__(self, smoothing: float, mix: bool):
        super().__init__()
        self.smoothing, self.mix = smoothing, mix

    def construct(self, logits: Tensor, labels: Tensor, own_label: Tensor) -> Tensor:
        log_p = ops.log_softmax(logits.astype(ms.float32), -1)
        target = ops.one_hot(labels, log_p.shape[1], Tensor(1.0, ms.float32), Tensor(0.0, ms.float32))
        if self.mix:
            target = target * own_label + ops.gather(target, partners(target.shape[0]), 0) * (1 - own_label)
        loss = -(log_p * target).sum(-1).mean()
        if self.smoothing:
            loss = (1 - self.smoothing) * loss - self.smoothing * log_p.mean(-1).mean()
        return loss
