"""The training step: one compiled graph from a batch to the moved weights. What is minimized is handed over: see
tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Collection, NamedTuple, Optional, Sequence, Union

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindvit.data.arrays import ArraySpec
from mindvit.engine.overflow import OverflowFlag
from mindvit.layers.compiled import Compiled
from mindvit.optim.adaptive import Adam, NAdam, RootOfSquares
from mindvit.optim.optimizers import SGD, AdamW, Lamb, Moments, SquareSum
from mindvit.runtime import platform
from mindvit.tasks.base import BatchSpec, RunContext, draw_generator, drop_path_spec
from mindvit.weights.readers import STATE

OF_MOMENTS: dict[str, type[Moments]] = {"adamw": AdamW, "adam": Adam, "nadam": NAdam, "lamb": Lamb}
GROWTH_STEPS = 2000  # finite steps after which a dynamic loss scale doubles, as in PyTorch's GradScaler


@dataclass(frozen=True)
class StepOptions:
    """What the compiled step depends on, whatever it minimizes; the numbers that change from step to step are its
    inputs.
    """

    opt: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.9
    alpha: float = 0.99
    nesterov: bool = False
    weight_decay: float = 0.05
    clip_norm: float = 0.0
    ema_decay: float = 0.0
    loss_scale: float = 0.0
    dynamic_scale: bool = False
    accum_steps: int = 1  # batches whose mean gradient makes one step
    skip_nonfinite: bool = (
        False  # a step whose loss or gradient is not finite changes nothing (always so with a loss scale)
    )
    ranks: int = 1
    fp16_saturates: bool = False  # the device's half precision overflows to its largest number: only the device knows


class StepResult(NamedTuple):
    """What a step says of itself: loss, the gradient's global norm before clipping, the loss scale after the step, and
    whether any rank was asked to stop (above 0).
    """

    loss: float
    norm: float
    scale: float
    stopping: float


ema_update = ops.MultitypeFuncGraph("ema_update")
times = ops.MultitypeFuncGraph("times")
accumulate = ops.MultitypeFuncGraph("accumulate")
clear = ops.MultitypeFuncGraph("clear")
assign = ops.MultitypeFuncGraph("assign")
assign_after = ops.MultitypeFuncGraph("assign_after")
settle = ops.MultitypeFuncGraph("settle")


@ema_update.register("Number", "Number", "Tensor", "Tensor", "Tensor")
@ema_update.register("Tensor", "Tensor", "Tensor", "Tensor", "Tensor")
def _ema_update(decay, share, done, average, weight):  # type: ignore[no-untyped-def]
    return ops.depend(True, ops.assign(average, average * decay + ops.depend(weight, done) * share))


@times.register("Tensor", "Tensor")
def _times(factor, gradient):  # type: ignore[no-untyped-def]
    return gradient * factor


@accumulate.register("Number", "Tensor", "Tensor")
def _accumulate(share, total, gradient):  # type: ignore[no-untyped-def]
    return ops.assign_add(total, gradient.astype(ms.float32) * share)


@clear.register("Tensor", "Tensor")
def _clear(done, total):  # type: ignore[no-untyped-def]
    return ops.assign(total, ops.depend(ops.zeros_like(total), done))


@assign.register("Tensor", "Tensor")
def _assign(target, value):  # type: ignore[no-untyped-def]
    return ops.assign(target, value)


@assign_after.register("Tensor", "Tensor", "Tensor")
def _assign_after(done, target, source):  # type: ignore[no-untyped-def]
    return ops.assign(target, ops.depend(source, done) * 1)


@settle.register("Tensor", "Tensor", "Tensor", "Tensor")
def _settle(finite, done, running, last):  # type: ignore[no-untyped-def]
    value = ops.where(finite, ops.depend(running, done), last)
    return ops.depend(True, (ops.assign(running, value), ops.assign(last, value)))


def state_number(name: str, value: float = 0.0) -> Parameter:
    """A number that the step remembers, float32 ()."""
    return Parameter(Tensor(value, ms.float32), name=f"{STATE}{name}", requires_grad=False)


def create_optimizer(
    weights: ParameterTuple, decay: Sequence[float], lr_scales: Sequence[float], options: StepOptions
) -> Union[Moments, SGD, RootOfSquares]:
    """The cell that `options.opt` names. `momentum` and `nesterov`, MindCV's words, are SGD's."""
    common = weights, decay, lr_scales
    if options.opt in OF_MOMENTS:
        return OF_MOMENTS[options.opt](*common, options.betas, options.eps)
    if options.opt == "rmsprop":
        squares = options.alpha, 1 - options.alpha
        return RootOfSquares(*common, squares, options.momentum, options.eps)
    if options.opt == "adagrad":
        return RootOfSquares(*common, (1.0, 1.0), 0.0, options.eps)
    return SGD(*common, options.momentum, options.nesterov or options.opt == "nesterov")


class AssignParameters(nn.Cell):
    """Gives parameters other values where they lie.

    set_data would give a parameter other memory, and what a compiled step changes under a condition alone it goes on
    changing in the old.
    """

    def __init__(self, parameters: Sequence[Parameter]):
        super().__init__(auto_prefix=False)
        self.targets = parameters
        self.map = ops.HyperMap()

    def construct(self, *values: Tensor) -> Tensor:
        return ops.depend(Tensor(0, ms.float32), self.map(assign, self.targets, values))


class ScaledObjective(nn.Cell):
    """An objective's loss times the loss scale, which is the last input."""

    def __init__(self, objective: nn.Cell):
        super().__init__(auto_prefix=False)
        self.objective = objective

    def construct(self, *inputs: Tensor) -> Tensor:
        return self.objective(*inputs[:-1]) * inputs[-1]


class LossScaler(nn.Cell):
    """The loss scale: fixed, or halved by a gradient that is not finite and doubled after GROWTH_STEPS finite ones."""

    def __init__(self, loss_scale: float, dynamic: bool):
        super().__init__(auto_prefix=False)
        self.enabled, self.dynamic = loss_scale > 0, dynamic
        self.scale, self.finite_steps = state_number("loss_scale", loss_scale or 1.0), state_number("finite_steps")

    def construct(self, scale: Tensor, finite: Tensor) -> Tensor:
        """scale: of this step, (); finite: whether its gradient was. Gives what the next scale depends on."""
        steps = ops.where(finite, self.finite_steps + 1, ops.zeros_like(self.finite_steps))
        grown = ops.where(steps >= GROWTH_STEPS, scale * 2, scale)
        done = ops.assign(self.scale, ops.where(finite, grown, ops.maximum(scale / 2, Tensor(1.0, ms.float32))))
        return ops.depend(
            done, ops.assign(self.finite_steps, ops.where(steps >= GROWTH_STEPS, ops.zeros_like(steps), steps))
        )


class WeightUpdate(nn.Cell):
    """The optimizer, the moving average, and the running statistics' way back when a step is skipped.

    Where a branch on a value of the device is costly, AdamW skips a step without one: it is taken with factors that
    leave everything as it is, bit for bit.
    """

    def __init__(
        self,
        net: nn.Cell,
        decay: Sequence[float],
        lr_scales: Sequence[float],
        options: StepOptions,
        skips_nonfinite: bool,
        frozen: Collection[str],
    ):
        super().__init__(auto_prefix=False)
        self.weights = ParameterTuple(net.trainable_params())
        self.running = ParameterTuple(
            [item for item in net.get_parameters() if not item.requires_grad and item.name not in frozen]
        )  # of batch normalization
        self.optimizer = create_optimizer(self.weights, decay, lr_scales, options)
        self.ema_decay = options.ema_decay
        self.averaged = ParameterTuple([*self.weights, *self.running])
        self.ema: Sequence[Parameter] = self.averaged.clone(f"{STATE}ema", "same") if options.ema_decay else ()
        self.assign_averaged, self.assign_ema = AssignParameters(self.averaged), AssignParameters(self.ema)
        keeps = skips_nonfinite and self.running
        self.last_finite_stats = (
            self.running.clone(f"{STATE}settled", "same") if keeps else ()
        )  # `running` after the last finite step
        self.map = ops.HyperMap()
        self.skips = skips_nonfinite
        self.branches = not (platform.current().costly_branches and self.optimizer.selects)

    def construct(self, gradients: tuple[Tensor, ...], lr: Tensor, finite: Tensor) -> Tensor:
        """finite: whether the step is to be taken, bool ()."""
        if not self.skips:
            done = self.take(gradients, lr)
        elif not self.branches:
            done = self.select(gradients, lr, finite)
        elif finite:
            done = self.take(gradients, lr)
        else:
            done = self.skip(lr)
        return done

    def take(self, gradients: tuple[Tensor, ...], lr: Tensor) -> Tensor:
        """A step."""
        done = self.copy(self.optimizer(gradients, lr), self.running, self.last_finite_stats)
        if self.ema_decay:
            update = ops.partial(ema_update, self.ema_decay, 1 - self.ema_decay, done)
            done = ops.depend(done, self.map(update, self.ema, self.averaged))
        return done

    def select(self, gradients: tuple[Tensor, ...], lr: Tensor, finite: Tensor) -> Tensor:
        """A step that changes nothing unless `finite`."""
        done = self.optimizer(gradients, lr, finite)
        if self.last_finite_stats:
            settled = self.map(ops.partial(settle, finite, done), self.running, self.last_finite_stats)
            done = ops.depend(done, settled)
        if self.ema_decay:
            decay = ops.where(finite, self.ema_decay, Tensor(1.0, ms.float32))
            share = ops.where(finite, 1 - self.ema_decay, Tensor(0.0, ms.float32))
            done = ops.depend(done, self.map(ops.partial(ema_update, decay, share, done), self.ema, self.averaged))
        return done

    def skip(self, lr: Tensor) -> Tensor:
        """Instead of a step: the running statistics, which the forward pass has moved, are what they were."""
        return self.copy(lr, self.last_finite_stats, self.running)

    def copy(self, done: Tensor, source: ParameterTuple, target: ParameterTuple) -> Tensor:
        """Running statistics from one place to the other, after `done`, where both are kept."""
        if self.last_finite_stats:
            done = ops.depend(done, self.map(ops.partial(assign_after, done), target, source))
        return done

    def trust_statistics(self) -> None:
        """Take the running statistics as good: they were loaded."""
        for item, value in zip(self.last_finite_stats, self.running):
            item.set_data(Tensor(value.asnumpy()))

    def swap_ema(self) -> None:
        """Exchange the weights and running statistics with their moving average."""
        weights, averages = ([Tensor(item.asnumpy().copy()) for item in items] for items in (self.averaged, self.ema))
        self.assign_averaged(*averages)
        self.assign_ema(*weights)


class RankSync(nn.Cell):
    """What ranks tell each other in a step: mean gradients; and, in one message, loss, overflow, a wish to stop,
    running statistics.
    """

    def __init__(self, weights: ParameterTuple, running: ParameterTuple, ranks: int):
        super().__init__(auto_prefix=False)
        self.ranks, self.running = ranks, running
        self.reduce = nn.DistributedGradReducer(weights, mean=True, degree=ranks)
        self.sum = ops.AllReduce()

    def construct(self, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self.reduce(gradients)

    def share(self, loss: Tensor, overflow: Tensor, asked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All ranks' mean loss, wishes to stop and overflows; `running` becomes the mean over ranks."""
        values = [loss.reshape(1), asked.reshape(1), overflow.reshape(1)]
        for item in self.running:
            values.append(ops.depend(item.value(), loss).reshape(-1))
        shared = self.sum(ops.cat(values)) / self.ranks
        done, start = shared[0], 3
        for item in self.running:
            done = ops.depend(ops.assign(item, shared[start : start + item.size].reshape(item.shape)), done)
            start += item.size
        return ops.depend(shared[0], done), shared[1], shared[2]


def random_draws(task: Any, ctx: RunContext, step: TrainStep, number: int) -> tuple[np.ndarray, ...]:
    """What is sampled for the batch of this number: the task's draws, then stochastic depth's."""
    rng = draw_generator(ctx, number)
    draws = task.draw(ctx, rng)
    shape = drop_path_spec(step.drop_paths, ctx.recipe.data.batch_size).shape
    return (*draws, rng.random(shape, np.float32))


class TrainStep(Compiled):
    """One optimizer step: objective, gradient, accumulate, all-reduce, finite check, clip, optimizer, EMA.

    objective: a cell (*batch, *draws) -> loss () over `net`, which says how many `drop_paths` there are.
    weight_decay_mask: whether each weight is decayed; lr_scales: factors of the learning rate, one a weight (none: 1);
    frozen: names of the network's parameters that no step changes (optim.freeze).
    Inputs: the objective's, then lr float32 (). Output: the numbers of a StepResult in one tensor, float32 (4,), which
    the host gets by one read. With a loss scale or `skip_nonfinite`, a step whose loss or gradient is not finite
    changes no weight, moment, average or running statistic. With `accum_steps` batches a step, every accum_steps-th
    call makes the step, from the mean gradient, and gives the mean loss; what the calls between give is of no use.
    """

    def __init__(
        self,
        objective: nn.Cell,
        net: nn.Cell,
        weight_decay_mask: Sequence[bool],
        options: StepOptions,
        lr_scales: Optional[Sequence[float]] = None,
        frozen: Collection[str] = (),
    ):
        super().__init__(auto_prefix=False)
        self.frozen = frozenset(frozen)
        self.skips_nonfinite = options.loss_scale > 0 or options.skip_nonfinite
        decay = [options.weight_decay * flag for flag in weight_decay_mask]
        self.update = WeightUpdate(net, decay, lr_scales or [1.0] * len(decay), options, self.skips_nonfinite, frozen)
        self.scaler = LossScaler(options.loss_scale, options.dynamic_scale)
        self.weights, self.drop_paths = self.update.weights, objective.drop_paths
        self.scaled_objective = ScaledObjective(objective)
        self.gradient = ops.value_and_grad(self.scaled_objective, None, self.weights)
        self.ranks, self.accum_steps = options.ranks, options.accum_steps
        self.overflow = OverflowFlag(options.fp16_saturates)
        self.sync = RankSync(self.weights, self.update.running, self.ranks) if self.ranks > 1 else None
        self.asked_to_stop = state_number("asked")
        self.map, self.square_sum, self.clip_norm = ops.HyperMap(), SquareSum(), options.clip_norm
        if self.accum_steps > 1:
            self.gradient_sums = self.weights.clone(f"{STATE}sum", "zeros")
            self.loss_sum, self.micro_step = state_number("loss_sum"), state_number("part")

    def construct(self, *inputs: Tensor) -> Tensor:
        lr = inputs[-1]
        # with micro-batches, what the earlier ones have left in the flag counts
        images = self.overflow.lower(inputs[0]) if self.accum_steps == 1 else inputs[0]
        loss, gradients = self.gradient(images, *inputs[1:-1], self.scaler.scale.value())
        asked = self.asked_to_stop.value()  # set from outside: under a condition its old memory would be read
        if self.accum_steps == 1:
            return self.finish(loss, gradients, lr, asked)
        sums = self.map(ops.partial(accumulate, 1 / self.accum_steps), self.gradient_sums, gradients)
        loss = ops.assign_add(self.loss_sum, loss / self.accum_steps)
        micro_step = ops.assign_add(self.micro_step, Tensor(1, ms.float32))
        result = Tensor([0.0] * len(StepResult._fields), ms.float32)
        if micro_step > self.accum_steps - 0.5:
            result = self.finish(loss + 0, sums, lr, asked)
            done = self.map(ops.partial(clear, result), (*self.gradient_sums, self.loss_sum, self.micro_step))
            result = ops.depend(result, done)
        return result

    def finish(self, loss: Tensor, gradients: tuple[Tensor, ...], lr: Tensor, asked: Tensor) -> Tensor:
        """From the gradient, still scaled, to the moved weights; the StepResult."""
        scale = self.scaler.scale.value()
        overflow = self.overflow(gradients)
        if self.sync is not None:
            gradients = self.sync(gradients)
            # what one rank finds not finite stops all of them
            loss, asked, overflow = self.sync.share(ops.depend(loss, gradients), overflow, asked)
        norm = ops.sqrt(self.square_sum(gradients)) / scale
        factor = 1 / scale
        if self.clip_norm:
            factor = factor * ops.minimum(self.clip_norm / (norm + 1e-6), Tensor(1.0, ms.float32))
        if self.clip_norm or self.scaler.enabled:
            gradients = self.map(ops.partial(times, factor), gradients)
        finite = ops.isfinite(norm + loss)
        if self.overflow.saturates:
            finite = ops.logical_and(finite, overflow == 0)
        loss = ops.depend(loss / scale, self.update(gradients, lr, finite))
        if self.scaler.dynamic:
            loss = ops.depend(loss, self.scaler(scale, finite))
        scale = ops.depend(self.scaler.scale.value(), loss)
        return ops.cat([loss.reshape(1), norm.reshape(1), scale.reshape(1), asked.reshape(1)])

    def spec(self, task_spec: BatchSpec) -> BatchSpec:
        """The step's inputs: a task's, the numbers of stochastic depth and the learning rate."""
        return BatchSpec(
            task_spec.batch,
            (*task_spec.draws, drop_path_spec(self.drop_paths, task_spec.batch_size), ArraySpec("lr", (), "float32")),
        )

    def state(self) -> list[Parameter]:
        """What a checkpoint holds beside the network's own parameters."""
        return [*self.update.optimizer.state(), *self.update.ema, self.scaler.scale, self.scaler.finite_steps]

    def ask_to_stop(self) -> None:
        """Let every rank know, with the next step, that this one is to end."""
        if self.ranks > 1:
            self.asked_to_stop.set_data(Tensor(1, ms.float32))

    @staticmethod
    def read(result: Tensor) -> StepResult:
        """The numbers of a step, once the device has computed them."""
        return StepResult(*result.asnumpy().tolist())
