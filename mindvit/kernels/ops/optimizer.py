"""Of all weights of a network at once."""

from __future__ import annotations

from typing import Sequence

import mindspore as ms
from mindspore import Tensor, nn

from mindvit.kernels.ops.custom import Tensors, changing, kernel


class SquareSum(nn.Cell):
    """The sum of all squares of any number of float32 tensors, (1,)."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("SquareSum", lambda *_: [1])

    def construct(self, *tensors: Tensor) -> Tensor:
        return self.forward(*tensors)


class AdamW(nn.Cell):
    """A step of AdamW (mindvit.optim.optimizers) for all weights.

    weight_decay, lr_scales: a number for each weight. numbers: (5,), learning rate, unit of decay, beta1, beta2,
    eps. Output: (1,), there once weights and moments have changed in place.
    """

    def __init__(self, weight_decay: Sequence[float], lr_scales: Sequence[float]) -> None:
        super().__init__()
        self.weight_decay, self.lr_scales = Tensor(weight_decay, ms.float32), Tensor(lr_scales, ms.float32)
        count = len(weight_decay)
        self.forward = changing(kernel("AdamW", lambda *_: [1]), "1" * 3 * count + "0" * (count + 3))

    def construct(
        self, weights: Tensors, exp_avg: Tensors, exp_avg_sq: Tensors, gradients: Tensors, numbers: Tensor
    ) -> Tensor:
        return self.forward(*weights, *exp_avg, *exp_avg_sq, *gradients, self.weight_decay, self.lr_scales, numbers)
