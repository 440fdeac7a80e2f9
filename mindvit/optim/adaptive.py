"""Optimizers that divide by the root of the gradients' squares, as in PyTorch: weight decay is part of the gradient."""

from __future__ import annotations

from typing import Any, Sequence

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, ops

from mindvit.optim.optimizers import Gradients, Moments, Optimizer
from mindvit.weights.readers import STATE

NADAM_DECAY = 4e-3  # psi of Dozat 2016, PyTorch's momentum_decay and MindCV's schedule_decay

adam_update = ops.MultitypeFuncGraph("adam_update")
root_update = ops.MultitypeFuncGraph("root_update")


# fmt: off
@adam_update.register("Tensor", "Tensor", "Tensor", "Number", "Number", "Number", "Number", "Number", "Tensor",
                      "Tensor", "Tensor", "Tensor")
# fmt: on
def _adam_update(  # type: ignore[no-untyped-def]
    of_gradient, of_mean, bias_correction2, beta1, beta2, eps, decay, lr_scale, weight, exp_avg, exp_avg_sq, gradient
):
    if decay:
        gradient = gradient + weight * decay
    first = exp_avg * beta1 + gradient * (1 - beta1)
    second = exp_avg_sq * beta2 + ops.square(gradient) * (1 - beta2)
    change = (gradient * of_gradient + first * of_mean) / (ops.sqrt(second / bias_correction2) + eps)
    moved = weight - change * lr_scale
    return ops.depend(True, (ops.assign(exp_avg, first), ops.assign(exp_avg_sq, second), ops.assign(weight, moved)))


# fmt: off
@root_update.register("Tensor", "Number", "Number", "Number", "Number", "Number", "Number", "Tensor", "Tensor",
                      "Tensor", "Tensor")
# fmt: on
def _root_update(  # type: ignore[no-untyped-def]
    lr, keep, gain, momentum, eps, decay, lr_scale, weight, squares, velocity, gradient
):
    if decay:
        gradient = gradient + weight * decay
    total = squares * keep + ops.square(gradient) * gain
    change = velocity * momentum + gradient / (ops.sqrt(total) + eps)
    moved = weight - change * (lr * lr_scale)
    return ops.depend(True, (ops.assign(squares, total), ops.assign(velocity, change), ops.assign(weight, moved)))


class Adam(Moments):
    """Adam (Kingma & Ba 2015), as torch.optim.Adam."""

    def shares(self, count: Tensor, lr: Tensor) -> tuple[Tensor, Tensor]:
        """By how much the gradient and by how much its mean is multiplied."""
        return ops.zeros_like(lr), lr / (1 - ops.pow(self.beta1, count))

    def construct(self, gradients: Gradients, lr: Tensor) -> Tensor:
        count = self.count + 1
        of_gradient, of_mean = self.shares(count, lr)
        bias_correction2 = 1 - ops.pow(self.beta2, count)
        step = ops.partial(
            adam_update, of_gradient, of_mean, bias_correction2, self.betas[0], self.betas[1], self.eps
        )
        done = self.map(step, self.decay, self.lr_scales, self.weights, self.exp_avg, self.exp_avg_sq, gradients)
        return ops.depend(ops.depend(lr, done), ops.assign(self.count, count))


class NAdam(Adam):
    """Adam with Nesterov's momentum (Dozat 2016), as torch.optim.NAdam: its momentum grows to beta1."""

    def __init__(self, *arguments: Any):  # of Moments
        super().__init__(*arguments)
        self.product = Parameter(Tensor(1, ms.float32), name=f"{STATE}momentum_product", requires_grad=False)
        self.base = Tensor(0.96, ms.float32)

    def state(self) -> list[Parameter]:
        """What it remembers from step to step."""
        return [*super().state(), self.product]

    def momentum(self, count: Tensor) -> Tensor:
        """Of step `count`."""
        return self.beta1 * (1 - 0.5 * ops.pow(self.base, count * NADAM_DECAY))

    def shares(self, count: Tensor, lr: Tensor) -> tuple[Tensor, Tensor]:
        now, later = self.momentum(count), self.momentum(count + 1)
        product = self.product * now
        of_gradient, of_mean = lr * (1 - now) / (1 - product), lr * later / (1 - product * later)
        return ops.depend(of_gradient, ops.assign(self.product, product)), of_mean


class RootOfSquares(Optimizer):
    """w -= lr v with v = momentum v + g / (sqrt(s) + eps) and s = keep s + gain g^2.

    RMSprop (Hinton 2012), as torch.optim.RMSprop: keep = alpha, gain = 1 - alpha. Adagrad (Duchi et al. 2011), as
    torch.optim.Adagrad: both 1, without momentum.
    """

    def __init__(
        self,
        weights: ParameterTuple,
        decay: Sequence[float],
        lr_scales: Sequence[float],
        squares: tuple[float, float],
        momentum: float,
        eps: float,
    ):
        super().__init__(weights, decay, lr_scales)
        self.keep, self.gain = squares
        self.momentum, self.eps = momentum, eps
        self.squares = weights.clone(f"{STATE}squares", "zeros")
        self.velocity = weights.clone(f"{STATE}velocity", "zeros")

    def state(self) -> list[Parameter]:
        """What it remembers from step to step."""
        return [*self.squares, *self.velocity]

    def construct(self, gradients: Gradients, lr: Tensor) -> Tensor:
        step = ops.partial(root_update, lr, self.keep, self.gain, self.momentum, self.eps)
        done = self.map(step, self.decay, self.lr_scales, self.weights, self.squares, self.velocity, gradients)
        return ops.depend(lr, done)
