"""Cross entropy of maps of logits that are resized to label maps."""

from __future__ import annotations

from typing import Any, Optional

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from mindvit.kernels import ops as kernels
from mindvit.layers.conv import FeatureLayout
from mindvit.layers.resample import Resample, resizing_matrix
from mindvit.runtime import platform


class PixelCrossEntropy(nn.Cell):
    """Cross entropy of every pixel, float32 (), as mmsegmentation 0.x takes it: the sum over the pixels with a label,
    divided by the number of all pixels, ignored ones included.

    logits: maps in the layout of layers.conv, which are resized (bilinear) to the labels; labels: (B, H, W) int32, of
    which `ignored`, beyond all classes, counts nothing. The others must lie below the number of classes: a data set
    checks its own. class_weights: how much each class's pixels count, (classes,) float32; None: all alike.
    """

    def __init__(self, ignored: int, class_weights: Optional[Parameter] = None) -> None:
        super().__init__()
        self.ignored, self.class_weights = ignored, class_weights
        self.layout = FeatureLayout()
        self.resample = Resample("bilinear")
        self.fused_op: Any = kernels.PixelCrossEntropy() if platform.current().kernels else None

    def construct(self, logits: Tensor, labels: Tensor) -> Tensor:
        height, width = labels.shape[1:]
        logits = logits.astype(ms.float32)
        if self.fused_op is not None:
            grid = self.layout.grid(logits)
            rows = resizing_matrix("bilinear", grid[0], height)
            columns = resizing_matrix("bilinear", grid[1], width)
            weights = ops.ones((logits.shape[3],), ms.float32) if self.class_weights is None else self.class_weights
            return self.fused_op(logits, labels, weights, rows, columns)[0].reshape(())
        rows = self.layout.to_tokens(self.resample(logits, height, width))  # B*H*W classes
        labels = labels.reshape(-1, 1)
        counted = labels != self.ignored
        target = ops.where(counted, labels, ops.zeros_like(labels))
        own = ops.gather_elements(ops.log_softmax(rows, -1), 1, target)
        if self.class_weights is not None:
            own = own * ops.gather(self.class_weights, target, 0)
        own = (own * counted.astype(ms.float32)).reshape(-1, width)
        return -own.sum(1).sum() / labels.shape[0]  # row by row: one sum over all pixels would lose digits
