"""The training step: one compiled graph from a batch to the moved weights. What is minimized is handed over: see
tasks.
"""

from __future__ import annotations

from typing import Any, Collection, NamedTuple, Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindvit.data.arrays import ArraySpec
from mindvit.engine.overflow import OverflowFlag
from mindvit.engine.update import StepOptions, WeightUpdate, kind_of_update, state_number
from mindvit.layers.compiled import Compiled
from mindvit.optim.optimizers import Gradients, SquareSum
from mindvit.runtime import platform
from mindvit.tasks.base import BatchSpec, RunContext, draw_generator, drop_path_spec
from mindvit.weights.readers import STATE

GROWTH_STEPS = 2000  # finite steps after which a dynamic loss scale doubles, as in PyTorch's GradScaler


class StepResult(NamedTuple):
    """What a step says of itself: loss, the gradient's global norm before clipping, the loss scale after the step, and
    whether any rank was asked to stop (above 0).
    """

    loss: float
    norm: float
    scale: float
    stopping: float


times = ops.MultitypeFuncGraph("times")
accumulate = ops.MultitypeFuncGraph("accumulate")
clear = ops.MultitypeFuncGraph("clear")


@times.register("Tensor", "Tensor")
def _times(factor, gradient):  # type: ignore[no-untyped-def]
    return gradient * factor


@accumulate.register("Number", "Tensor", "Tensor")
def _accumulate(share, total, gradient):  # type: ignore[no-untyped-def]
    return ops.assign_add(total, gradient.astype(ms.float32) * share)


@clear.register("Tensor", "Tensor")
def _clear(done, total):  # type: ignore[no-untyped-def]
    return ops.assign(total, ops.depend(ops.zeros_like(total), done))


class ScaledObjective(nn.Cell):
    """An objective's loss times the loss scale, which is the last input."""

    def __init__(self, objective: nn.Cell):
        super().__init__(auto_prefix=False)
        self.objective = objective

    def construct(self, *inputs: Tensor) -> Tensor:
        return self.objective(*inputs[:-1]) * inputs[-1]


class Accumulation(Compiled):
    """Adds a batch's part to the mean gradient and the mean loss of the batches that make one step.

    gradient: the step's, of `weights`. Inputs: the step's. Output: a tensor, once that is done.
    """

    def __init__(self, gradient: Any, weights: ParameterTuple, scale: Parameter, batches: int):
        super().__init__(auto_prefix=False)
        self.gradient, self.scale, self.batches, self.map = gradient, scale, batches, ops.HyperMap()
        self.sums = weights.clone(f"{STATE}sum", "zeros")
        self.loss_sum, self.count = state_number("loss_sum"), state_number("part")

    def construct(self, *inputs: Tensor) -> Tensor:
        loss, gradients = self.add(*inputs)
        return ops.depend(loss + 0, gradients)

    def add(self, *inputs: Tensor) -> tuple[Tensor, Gradients]:
        """The loss and the gradient after this batch."""
        loss, gradients = self.gradient(*inputs[:-1], self.scale.value())
        sums = self.map(ops.partial(accumulate, 1 / self.batches), self.sums, gradients)
        return ops.assign_add(self.loss_sum, loss / self.batches), sums

    def is_complete(self) -> Tensor:
        """Counts a batch; whether it was the last of a step."""
        return ops.assign_add(self.count, Tensor(1, ms.float32)) > self.batches - 0.5

    def cleared(self, result: Tensor) -> Tensor:
        """The result of a step, after which the next one's first batch is waited for."""
        return ops.depend(result, self.map(ops.partial(clear, result), (*self.sums, self.loss_sum, self.count)))


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


class RankSync(nn.Cell):
    """What ranks tell each other in a step: gradients; and, in one message, loss, overflow, a wish to stop, running
    statistics. The gradients are the mean over ranks, or where `update` joins them their sum.
    """

    def __init__(self, update: WeightUpdate, ranks: int):
        super().__init__(auto_prefix=False)
        self.ranks, self.running, self.joins = ranks, update.running, update.joins
        self.reduce = nn.DistributedGradReducer(update.weights, mean=not update.joins, degree=ranks)
        self.sum = ops.AllReduce()
        self.cut = ops.auto_generate.SplitWithSize()
        self.sizes = (1, 1, 1, sum(item.size for item in self.running))

    def construct(self, gradients: Gradients) -> Gradients:
        return self.reduce(gradients)

    def share(
        self, loss: Tensor, overflow: Tensor, asked: Tensor, statistics: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """All ranks' mean loss, wishes to stop and overflows; the mean over ranks of the running statistics, given as
        rows: joined, or in `running` from now on.
        """
        shared = self.sum(ops.cat((loss.reshape(1), asked.reshape(1), overflow.reshape(1), *statistics))) / self.ranks
        if self.joins and self.running:
            numbers = self.cut(shared, self.sizes, 0)
            return numbers[0].reshape(()), numbers[1].reshape(()), numbers[2].reshape(()), (numbers[3],)
        done, start = shared[0], 3
        for item in self.running:
            done = ops.depend(ops.assign(item, shared[start : start + item.size].reshape(item.shape)), done)
            start += item.size
        return ops.depend(shared[0], done), shared[1], shared[2], ()


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
        kind, scales = kind_of_update(options), lr_scales or [1.0] * len(decay)
        self.update = kind(net, decay, scales, options, self.skips_nonfinite, frozen)
        self.scaler = LossScaler(options.loss_scale, options.dynamic_scale)
        self.weights, self.drop_paths = self.update.weights, objective.drop_paths
        self.scaled_objective = ScaledObjective(objective)
        self.gradient = ops.value_and_grad(self.scaled_objective, None, self.weights)
        self.ranks, self.accum_steps = options.ranks, options.accum_steps
        self.overflow = OverflowFlag(options.fp16_saturates)
        self.sync = RankSync(self.update, self.ranks) if self.ranks > 1 else None
        self.summed = self.ranks if self.update.joins else 1  # ranks whose gradients are not yet divided
        self.asked_to_stop = state_number("asked")
        self.map, self.square_sum, self.clip_norm = ops.HyperMap(), SquareSum(), options.clip_norm
        if self.accum_steps > 1:
            self.accumulation = Accumulation(self.gradient, self.weights, self.scaler.scale, self.accum_steps)
        # where a branch is costly the host counts a step's batches, and those before the last have a graph of their own
        self.host_counts = self.accum_steps > 1 and platform.current().costly_launches
        self.counted = 0  # batches of the next step, if the host counts

    def __call__(self, *inputs: Tensor) -> Tensor:
        if self.host_counts:
            self.counted = (self.counted + 1) % self.accum_steps
            if self.counted:
                return self.accumulation(*inputs)
        return super().__call__(*inputs)

    def construct(self, *inputs: Tensor) -> Tensor:
        lr = inputs[-1]
        asked = self.asked_to_stop.value()  # set from outside: under a condition its old memory would be read
        if self.accum_steps == 1:
            images = self.overflow.lower(inputs[0])
            loss, gradients = self.gradient(images, *inputs[1:-1], self.scaler.scale.value())
            return self.finish(loss, gradients, lr, asked)
        # what earlier batches have left in the overflow's flag counts
        loss, gradients = self.accumulation.add(*inputs)
        result = Tensor([0.0] * len(StepResult._fields), ms.float32)
        if self.host_counts or self.accumulation.is_complete():
            result = self.accumulation.cleared(self.finish(loss + 0, gradients, lr, asked))
        return result

    def finish(self, loss: Tensor, gradients: Gradients, lr: Tensor, asked: Tensor) -> Tensor:
        """From the gradient, still scaled, to the moved weights; the StepResult."""
        scale = self.scaler.scale.value()
        overflow = self.overflow(gradients)
        if self.sync is not None:
            gradients = self.sync(gradients)
        loss = ops.depend(loss, gradients)
        statistics = self.update.statistics(loss)
        if self.sync is not None:
            # what one rank finds not finite stops all of them
            loss, asked, overflow, statistics = self.sync.share(loss, overflow, asked, statistics)
        gradients = self.update.joined(gradients)
        unit = scale * self.summed if self.summed > 1 else scale
        norm = ops.sqrt(self.square_sum(gradients)) / unit
        factor = 1 / unit
        if self.clip_norm:
            factor = factor * ops.minimum(self.clip_norm / (norm + 1e-6), Tensor(1.0, ms.float32))
        if self.clip_norm or self.scaler.enabled or self.summed > 1:
            gradients = self.map(ops.partial(times, factor), gradients)
        finite = ops.isfinite(norm + loss)
        if self.overflow.saturates:
            finite = ops.logical_and(finite, overflow == 0)
        loss = ops.depend(loss / scale, self.update(gradients, lr, finite, statistics))
        if self.scaler.dynamic:
            loss = ops.depend(loss, self.scaler(scale, finite))
        scale = ops.depend(self.scaler.scale.value(), loss)
        return ops.cat([loss.reshape(1), norm.reshape(1), scale.reshape(1), asked.reshape(1)])

    @property
    def graphs(self) -> tuple[Compiled, ...]:
        """The cells that are called as graphs, with the step's inputs."""
        return (self.accumulation, self) if self.host_counts else (self,)

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
