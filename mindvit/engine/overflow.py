"""Overflow in half precision that leaves no infinity: some NPUs keep the largest number, and raise a flag."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops.operations.math_ops import NPUClearFloatStatusV2

from mindvit.runtime import platform

FLAG_SIZE = 8  # numbers in the device's status


class OverflowFlag(nn.Cell):
    """The device's flag, taken down before a step and read after its gradients.

    saturates: whether the device may overflow without an infinity; without it, nothing is asked.
    """

    def __init__(self, saturates: bool):
        super().__init__(auto_prefix=False)
        self.saturates = saturates
        flag = saturates and platform.current().overflow_flag
        self.clear = NPUClearFloatStatusV2() if flag else None
        self.status = Tensor(np.zeros(FLAG_SIZE, np.int32))

    def lower(self, x: Tensor) -> Tensor:
        """x, unchanged, once what earlier work left in the flag is gone."""
        return x if self.clear is None else ops.depend(x, self.clear(self.status))

    def construct(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """1 if anything overflowed on the way to the gradients, else 0; float32 ()."""
        if not self.saturates:
            return Tensor(0, ms.float32)
        return 1 - ms.amp.all_finite(gradients).astype(ms.float32)
