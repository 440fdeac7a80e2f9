"""The optimizers, as cells of the compiled step: they change weights and their own state in place."""

from __future__ import annotations

from typing import Any, Sequence, Union

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindvit.kernels import ops as kernels
from mindvit.runtime import device, platform
from mindvit.weights.readers import STATE

Gradients = tuple[Tensor, ...]


adamw_update = ops.MultitypeFuncGraph("adamw_update")
lamb_update = ops.MultitypeFuncGraph("lamb_update")
sgd_update = ops.MultitypeFuncGraph("sgd_update")
square_sum = ops.MultitypeFuncGraph("square_sum")
half_square_sum = ops.MultitypeFuncGraph("half_square_sum")
select = ops.MultitypeFuncGraph("select")
select_or_zero = ops.MultitypeFuncGraph("select_or_zero")

ONE_SUM = (
    2**16
    # values that L2Loss may add up: on a CPU it does so one by one in float32, and 4 million squares came out 0.4 %
    # short
)


@half_square_sum.register("Tensor")
def _half_square_sum(gradient):  # type: ignore[no-untyped-def]
    gradient = gradient.astype(ms.float32)
    if gradient.size < ONE_SUM:
        return ops.L2Loss()(gradient)  # half the sum of squares, in one operator
    return ops.square(gradient.reshape(gradient.shape[0], -1)).sum(1).sum() / 2


@square_sum.register("Tensor")
def _square_sum(gradient):  # type: ignore[no-untyped-def]
    return ops.square(gradient.astype(ms.float32)).sum()


@select.register("Bool", "Tensor", "Tensor")
def _take(_, value, __):  # type: ignore[no-untyped-def]
    return value


@select.register("Tensor", "Tensor", "Tensor")
def _select(finite, value, other):  # type: ignore[no-untyped-def]
    return ops.where(finite, value, other)


@select_or_zero.register("Bool", "Tensor")
def _take_gradient(_, gradient):  # type: ignore[no-untyped-def]
    return gradient


@select_or_zero.register("Tensor", "Tensor")
def _select_or_zero(finite, gradient):  # type: ignore[no-untyped-def]
    return ops.where(finite, gradient, 0.0)


class SquareSum(nn.Cell):
    """The sum of all squares of the given tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.fused: Any = kernels.SquareSum() if device.has_kernels() else None
        self.direct = platform.current().direct_operators
        self.map = ops.HyperMap()

    def construct(self, tensors: Gradients) -> Tensor:
        if self.fused is not None:
            return self.fused(*tensors).reshape(())
        if self.direct:
            return ops.stack(self.map(square_sum, tensors)).sum()
        return 2 * ops.addn(self.map(half_square_sum, tensors))


@adamw_update.register(
    "Function",
    "Tensor",
    "Tensor",
    "Tensor",
    "Tensor",
    "Tensor",
    "Number",
    "Number",
    "Tensor",
    "Tensor",
    "Tensor",
    "Tensor",
)
def _adamw_update(adam, lr, unit, beta1, beta2, eps, decay, lr_scale, weight, exp_avg, exp_avg_sq, gradient):  # type: ignore[no-untyped-def]
    if lr_scale != 1:
        lr = lr * lr_scale
    return adam(weight, exp_avg, exp_avg_sq, lr, beta1, beta2, eps, unit * decay, gradient)[0]


@lamb_update.register(
    "Tensor",
    "Tensor",
    "Tensor",
    "Number",
    "Number",
    "Number",
    "Number",
    "Number",
    "Tensor",
    "Tensor",
    "Tensor",
    "Tensor",
)
def _lamb_update(  # type: ignore[no-untyped-def]
    lr, bias_correction1, bias_correction2, beta1, beta2, eps, decay, lr_scale, weight, exp_avg, exp_avg_sq, gradient
):
    first = exp_avg * beta1 + gradient * (1 - beta1)
    second = exp_avg_sq * beta2 + ops.square(gradient) * (1 - beta2)
    change = (first / bias_correction1) / (ops.sqrt(second / bias_correction2) + eps)
    lr = lr * lr_scale
    if decay:  # only decayed tensors are scaled by their norms, as in timm
        change = change + weight * decay
        ours, theirs = ops.sqrt(2 * half_square_sum(weight)), ops.sqrt(2 * half_square_sum(change))
        lr = lr * ops.where(ops.logical_and(ours > 0, theirs > 0), ours / theirs, ops.ones_like(ours))
    moved = weight - change * lr
    return ops.depend(True, (ops.assign(exp_avg, first), ops.assign(exp_avg_sq, second), ops.assign(weight, moved)))


@sgd_update.register("Tensor", "Number", "Bool", "Number", "Number", "Tensor", "Tensor", "Tensor")
def _sgd_update(lr, momentum, nesterov, decay, lr_scale, weight, velocity, gradient):  # type: ignore[no-untyped-def]
    if decay:
        gradient = gradient + weight * decay
    moving = velocity * momentum + gradient
    change = gradient + moving * momentum if nesterov else moving
    moved = weight - change * (lr * lr_scale)
    return ops.depend(True, (ops.assign(velocity, moving), ops.assign(weight, moved)))


class Optimizer(nn.Cell):
    """What optimizers share. decay: each weight's decay; lr_scales: each weight's factor of the learning rate.

    Inputs: gradients, lr (). Output: a tensor that whoever needs the moved weights depends on.
    """

    def __init__(self, weights: ParameterTuple, decay: Sequence[float], lr_scales: Sequence[float]):
        super().__init__(auto_prefix=False)
        self.weights, self.decay, self.lr_scales = weights, tuple(map(float, decay)), tuple(map(float, lr_scales))
        self.map = ops.HyperMap()


class Moments(Optimizer):
    """Two moments of the gradient a weight, and the number of steps."""

    def __init__(
        self,
        weights: ParameterTuple,
        decay: Sequence[float],
        lr_scales: Sequence[float],
        betas: tuple[float, float],
        eps: float,
    ):
        super().__init__(weights, decay, lr_scales)
        self.exp_avg = weights.clone(f"{STATE}moment1", "zeros")
        self.exp_avg_sq = weights.clone(f"{STATE}moment2", "zeros")
        self.count = Parameter(Tensor(0, ms.float32), name=f"{STATE}count", requires_grad=False)
        self.betas, self.eps = betas, eps
        self.beta1, self.beta2 = (Tensor(beta, ms.float32) for beta in betas)

    def state(self) -> list[Parameter]:
        """What it remembers from step to step."""
        return [*self.exp_avg, *self.exp_avg_sq, self.count]


class AdamW(Moments):
    """AdamW (Loshchilov & Hutter 2019) in PyTorch's form, with the framework's fused operator AdamWeightDecay.

    That operator is w -= lr (m / (sqrt(v) + eps) + decay w), without bias corrections. With c1 = 1 - beta1^t and c2 = 1
    - beta2^t PyTorch's w -= lr ((m / c1) / (sqrt(v / c2) + eps) + decay w) is the same with lr sqrt(c2) / c1, eps
    sqrt(c2), decay c1 / sqrt(c2). A gradient of 0, betas of 1 and an lr of 0 leave finite weights and moments as they
    are.
    """

    def __init__(self, *arguments: Any):  # of Moments
        super().__init__(*arguments)
        self.adam = ops.AdamWeightDecay()
        self.fused: Any = kernels.AdamW(self.decay, self.lr_scales) if device.has_kernels() else None
        # a CPU's operator moves the weights and leaves its outputs as they were
        self.gives_weights = ms.get_context("device_target") == "Ascend"
        self.zero, self.one = Tensor(0.0, ms.float32), Tensor(1.0, ms.float32)

    def construct(self, gradients: Gradients, lr: Tensor) -> Tensor:
        return self.move(gradients, lr, True)[0]

    def move(self, gradients: Gradients, lr: Tensor, taken: Union[bool, Tensor]) -> tuple[Tensor, Gradients]:
        """What `construct` gives, and the moved weights, to be read after it.

        On Ascend they are the operator's outputs: MindSpore copies a parameter that is read before and after a change.

        taken: bool (); where it is false and the gradients are 0, nothing changes: there is no branch.
        """
        count = self.count + 1
        root = ops.sqrt(1 - ops.pow(self.beta2, count))
        unit = (1 - ops.pow(self.beta1, count)) / root
        rate = select(taken, lr / unit, self.zero)
        beta1, beta2 = select(taken, self.beta1, self.one), select(taken, self.beta2, self.one)
        count = select(taken, count, self.count)
        if self.fused is not None:
            numbers = ops.stack((rate, unit, beta1, beta2, self.eps * root))
            done = self.fused(self.weights, self.exp_avg, self.exp_avg_sq, gradients, numbers)
        else:
            step = ops.partial(adamw_update, self.adam, rate, unit, beta1, beta2, self.eps * root)
            done = self.map(step, self.decay, self.lr_scales, self.weights, self.exp_avg, self.exp_avg_sq, gradients)
        moved = done if self.gives_weights else self.weights
        return ops.depend(ops.depend(lr, done), ops.assign(self.count, count)), moved


class Lamb(Moments):
    """LAMB (You et al. 2020) as in timm: bias-corrected moments, trust ratio of the decayed tensors, no bound on it."""

    def construct(self, gradients: Gradients, lr: Tensor) -> Tensor:
        count = self.count + 1
        bias_correction1, bias_correction2 = 1 - ops.pow(self.beta1, count), 1 - ops.pow(self.beta2, count)
        step = ops.partial(lamb_update, lr, bias_correction1, bias_correction2, self.betas[0], self.betas[1], self.eps)
        done = self.map(step, self.decay, self.lr_scales, self.weights, self.exp_avg, self.exp_avg_sq, gradients)
        return ops.depend(ops.depend(lr, done), ops.assign(self.count, count))


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, Nesterov's if asked for; weight decay is part of the gradient, as in
    PyTorch.
    """

    def __init__(
        self,
        weights: ParameterTuple,
        decay: Sequence[float],
        lr_scales: Sequence[float],
        momentum: float,
        nesterov: bool,
    ):
        super().__init__(weights, decay, lr_scales)
        self.velocity = weights.clone(f"{STATE}velocity", "zeros")
        self.momentum, self.nesterov = momentum, nesterov

    def state(self) -> list[Parameter]:
        """What it remembers from step to step."""
        return [*self.velocity]

    def construct(self, gradients: Gradients, lr: Tensor) -> Tensor:
        step = ops.partial(sgd_update, lr, self.momentum, self.nesterov)
        return ops.depend(lr, self.map(step, self.decay, self.lr_scales, self.weights, self.velocity, gradients))
