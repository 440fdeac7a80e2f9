"""Cross entropy of pixels."""

from __future__ import annotations

from mindspore import Tensor, nn, ops

from mindvit.kernels.ops.custom import Tensors, kernel


class PixelCrossEntropy(nn.Cell):
    """Of maps that are resized to labels: the sum over pixels with a class, divided by the number of all.

    logits: (B, h, w, K) float32; labels: (B, H, W) int32, of which those that are no class count nothing; weights of
    the classes: (K,); rows (H, h) and columns (W, w): matrices of few values that are not zero. Logits alone get a
    gradient. Outputs: the loss (1,), and its gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("PixelCrossEntropy", lambda logits, *_: ([1], logits), 2)

    def construct(self, logits: Tensor, labels: Tensor, weights: Tensor, rows: Tensor, columns: Tensor) -> Tensors:
        return self.forward(logits, labels, weights, rows, columns)

    def bprop(
        self,
        logits: Tensor,
        labels: Tensor,
        weights: Tensor,
        rows: Tensor,
        columns: Tensor,
        out: Tensors,
        gradients: Tensors,
    ) -> Tensors:
        """Gradient of the logits."""
        none = ops.zeros_like(labels), ops.zeros_like(weights), ops.zeros_like(rows), ops.zeros_like(columns)
        return (out[1] * gradients[0], *none)
