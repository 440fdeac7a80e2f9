"""Layer and batch normalization, with PyTorch's parameter names and constants."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, mint, nn, ops
from mindspore.common.initializer import Zero, initializer

from mindvit.kernels import ops as kernels
from mindvit.layers.linear import AddRow, weight_of
from mindvit.runtime import platform


class LayerNorm(nn.Cell):
    """Normalizes the channels, the last axis, in float32. x: (..., C). `eps` has no default: the papers' differ."""

    def __init__(self, channels: int, eps: float):
        super().__init__()
        machine = platform.current()
        self.weight = weight_of((channels,), "ones")
        self.bias = weight_of((channels,), Zero())
        self.eps = eps
        self.fused_op: Any = kernels.LayerNorm(eps) if machine.kernels else None
        self.mean_by_product = machine.slow_broadcasting
        self.average = Tensor(np.full((channels, 1), 1 / channels), ms.float32)
        self.normalize = ops.LayerNorm(begin_norm_axis=-1, begin_params_axis=-1, epsilon=eps)
        self.add_row = AddRow()
        self.direct = machine.direct_operators

    def kernel_args(self) -> tuple[Tensor, Tensor, Tensor]:
        """What a kernel that normalizes takes: weight and bias (C,), eps (1,)."""
        return self.weight.value(), self.bias.value(), self.fused_op.eps

    def with_residual(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where a residual branch begins: x, to be added to the branch, and the normalized x.

        Our kernel adds the gradients of both up on the way.
        """
        if self.fused_op is not None and x.dtype == ms.float32:
            both = self.fused_op(x, self.weight.value(), self.bias)
            return both[0], both[1]
        return x, self.construct(x)

    def construct(self, x: Tensor) -> Tensor:
        x = x.astype(ms.float32)
        if self.fused_op is not None:
            return self.fused_op(x, self.weight.value(), self.bias)[1]
        if self.direct:
            return mint.nn.functional.layer_norm(x, (x.shape[-1],), self.weight, self.bias, self.eps)
        if not (self.mean_by_product and self.training):  # it is the operator's gradient that is slow
            return self.normalize(x, self.weight, self.bias)[0]
        shape = x.shape
        x = x.reshape(-1, shape[-1])
        centred = x - ops.matmul(x, self.average)
        variance = ops.matmul(centred * centred, self.average)
        return self.add_row(centred * ops.rsqrt(variance + self.eps) * self.weight, self.bias).reshape(shape)


class BatchNorm(nn.Cell):
    """Batch normalization of maps (layers.conv) in float32, with PyTorch's constants.

    eps is 1e-5, the running values are moved by a tenth of the batch's, and the running variance is unbiased.
    """

    EPS, MOMENTUM = 1e-5, 0.1

    def __init__(self, channels: int):
        super().__init__()
        machine = platform.current()
        self.weight = weight_of((channels,), "ones")
        self.bias = weight_of((channels,), Zero())
        self.running_mean = Parameter(initializer(Zero(), (channels,), ms.float32), requires_grad=False)
        self.running_var = Parameter(initializer("ones", (channels,), ms.float32), requires_grad=False)
        self.fused_op: Any = kernels.BatchNorm(self.EPS, self.MOMENTUM) if machine.kernels else None
        self.fused_predict: Any = kernels.BatchNormPredict(self.EPS) if machine.kernels else None
        self.all_count = Tensor([1.0], ms.float32)
        self.sync_op: Any = None  # layers.sync_batch_norm: normalizes by the statistics of all ranks
        self.channels_first = machine.slow_convolution
        self.train_op = ops.BatchNorm(is_training=True, epsilon=self.EPS, momentum=self.MOMENTUM)
        self.eval_op = ops.BatchNorm(is_training=False, epsilon=self.EPS)
        self.direct = machine.direct_operators

    def fused(self, x: Tensor, counts: Tensor) -> Tensor:
        """Normalized by the statistics of the maps that count; the running ones move. By a kernel."""
        return self.fused_op(x, self.weight, self.bias, self.running_mean, self.running_var, counts)[0]

    def construct(self, x: Tensor) -> Tensor:
        kind, shape = x.dtype, x.shape
        x = x.astype(ms.float32)
        if self.sync_op is not None and self.training:
            return self.sync_op(x, self.weight, self.bias, self.running_mean, self.running_var).astype(kind)
        if self.fused_op is not None:
            if self.training:
                return self.fused(x, self.all_count).astype(kind)
            return self.fused_predict(x, self.weight, self.bias, self.running_mean, self.running_var).astype(kind)
        if self.direct:
            mean, variance = self.running_mean, self.running_var
            x = mint.nn.functional.batch_norm(
                x, mean, variance, self.weight, self.bias, self.training, self.MOMENTUM, self.EPS
            )
            return x.astype(kind)
        if self.channels_first:  # the operator's layout, with all images as one high one
            x = x.reshape(1, shape[0], -1, shape[3])
        if self.training:
            x = self.train_op(x, self.weight, self.bias, self.running_mean, self.running_var)[0]
        else:
            x = self.eval_op(x, self.weight, self.bias, self.running_mean, self.running_var)[0]
        return x.reshape(shape).astype(kind)
