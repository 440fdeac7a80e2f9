"""What a training step does with a gradient: optimizer, moving average, running statistics; and how it skips that."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Collection, Sequence, Union

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindvit.optim.adaptive import Adam, NAdam, RootOfSquares
from mindvit.optim.optimizers import SGD, AdamW, Gradients, Lamb, Moments, select, select_or_zero
from mindvit.runtime import platform
from mindvit.weights.readers import STATE


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


OF_MOMENTS: dict[str, type[Moments]] = {"adamw": AdamW, "adam": Adam, "nadam": NAdam, "lamb": Lamb}
AT_ONCE = 64  # pieces that a row is cut into at once: MindSpore looks at their sizes one call deeper each

ema_update = ops.MultitypeFuncGraph("ema_update")
assign = ops.MultitypeFuncGraph("assign")
copy_into = ops.MultitypeFuncGraph("copy_into")
assign_after = ops.MultitypeFuncGraph("assign_after")
flat = ops.MultitypeFuncGraph("flat")
flat_after = ops.MultitypeFuncGraph("flat_after")
shaped = ops.MultitypeFuncGraph("shaped")


@ema_update.register("Number", "Number", "Tensor", "Tensor", "Tensor")
@ema_update.register("Tensor", "Tensor", "Tensor", "Tensor", "Tensor")
def _ema_update(decay, share, done, average, weight):  # type: ignore[no-untyped-def]
    return ops.depend(True, ops.assign(average, average * decay + ops.depend(weight, done) * share))


@assign.register("Tensor", "Tensor")
def _assign(target, value):  # type: ignore[no-untyped-def]
    return ops.assign(target, value)


@copy_into.register("Tensor", "Tensor")
def _copy_into(target, value):  # type: ignore[no-untyped-def]
    return ops.auto_generate.InplaceCopy()(target, value)


@assign_after.register("Tensor", "Tensor", "Tensor")
def _assign_after(done, target, source):  # type: ignore[no-untyped-def]
    return ops.assign(target, ops.depend(source, done) * 1)


@flat.register("Tensor")
def _flat(x):  # type: ignore[no-untyped-def]
    return x.astype(ms.float32).reshape(-1)


@flat_after.register("Tensor", "Tensor")
def _flat_after(done, x):  # type: ignore[no-untyped-def]
    return ops.depend(x, done).reshape(-1)


@shaped.register("Tuple", "Tensor")
def _shaped(shape, x):  # type: ignore[no-untyped-def]
    return x.reshape(shape)


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


class WeightUpdate(nn.Cell):
    """The optimizer, the moving average, and the running statistics' way back when a step is skipped.

    Inputs: gradients as `joined` gives them, lr (), whether the step is to be taken, bool (); what `statistics` or the
    ranks' mean of it gave. Output: a tensor that whoever needs the moved weights depends on.
    """

    joins = False  # whether gradients, and running statistics, are one tensor each

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
        self.last_finite_stats: Sequence[Parameter] = self.clone_statistics() if skips_nonfinite else ()
        self.map = ops.HyperMap()
        self.skips = skips_nonfinite

    def clone_statistics(self) -> Sequence[Parameter]:
        """Where the running statistics after the last finite step are kept."""
        return self.running.clone(f"{STATE}settled", "same") if self.running else ()

    def joined(self, gradients: Gradients) -> Gradients:
        """The gradients, as they are to be summed up and scaled."""
        return gradients

    def statistics(self, done: Tensor) -> tuple[Tensor, ...]:
        """The running statistics after `done`, each as a row."""
        return self.map(ops.partial(flat_after, done), self.running) if self.running else ()

    def construct(self, gradients: Gradients, lr: Tensor, finite: Tensor, _: tuple[Tensor, ...] = ()) -> Tensor:
        if not self.skips:  # noqa: SIM114  (this one is decided when the graph is made)
            done = self.take(gradients, lr)
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


class Joined(nn.Cell):
    """Tensors as one row and back."""

    def __init__(self, tensors: Sequence[Parameter]):
        super().__init__(auto_prefix=False)
        self.shapes = tuple(item.shape for item in tensors)
        sizes = [math.prod(shape) for shape in self.shapes]
        self.sizes = tuple(tuple(sizes[at : at + AT_ONCE]) for at in range(0, len(sizes), AT_ONCE))
        self.totals = tuple(map(sum, self.sizes))
        # ops.cat is a loop, too deep for hundreds of tensors; slices, as ops.split has them, are legacy operators
        self.join = ops.Concat(0)
        self.cut = ops.auto_generate.SplitWithSize()
        self.map = ops.HyperMap()

    def construct(self, tensors: Gradients) -> Tensor:
        return self.join(self.map(flat, tensors))

    def split(self, row: Tensor) -> Gradients:
        """The tensors of a row."""
        rows = self.cut(row, self.totals, 0) if len(self.totals) > 1 else (row,)
        parts: Gradients = ()
        for i in range(len(self.sizes)):
            parts = parts + self.cut(rows[i], self.sizes[i], 0)
        return self.map(shaped, self.shapes, parts)


class SelectedUpdate(WeightUpdate):
    """The same for a device whose operators the host launches one by one: few of them, and no branch.

    Gradients are one tensor while they are summed up, scaled and looked at, and so are running statistics. A step to be
    skipped is taken, with factors that leave everything as it is, bit for bit.
    """

    joins = True
    optimizer: AdamW

    def __init__(self, *arguments: Any):  # of WeightUpdate
        super().__init__(*arguments)
        self.of_weights, self.of_running = Joined(self.weights), Joined(self.running)
        self.zero, self.one = Tensor(0.0, ms.float32), Tensor(1.0, ms.float32)
        self.write = copy_into if platform.current().direct_operators else assign

    def clone_statistics(self) -> Sequence[Parameter]:
        return (Parameter(Tensor(self.row()), f"{STATE}settled", requires_grad=False),) if self.running else ()

    def row(self) -> np.ndarray:
        """The running statistics as they are now."""
        return np.concatenate([item.asnumpy().ravel() for item in self.running])

    def trust_statistics(self) -> None:
        for item in self.last_finite_stats:
            item.set_data(Tensor(self.row()))

    def joined(self, gradients: Gradients) -> Gradients:
        return (self.of_weights(gradients),)

    def statistics(self, done: Tensor) -> tuple[Tensor, ...]:
        return (ops.cat(super().statistics(done)),) if self.running else ()

    def construct(
        self, gradients: Gradients, lr: Tensor, finite: Tensor, statistics: tuple[Tensor, ...] = ()
    ) -> Tensor:
        taken: Union[bool, Tensor] = finite if self.skips else True
        row = select_or_zero(taken, gradients[0])
        done, averaged = self.optimizer.move(self.of_weights.split(row), lr, taken)
        if self.running:
            row = statistics[0]
            if self.last_finite_stats:
                last = self.last_finite_stats[0]
                row = ops.where(finite, row, last)
                done = ops.depend(done, ops.assign(last, row))
            running = self.of_running.split(row)
            averaged = averaged + running
            done = ops.depend(done, self.map(self.write, self.running, running))
        if self.ema_decay:
            decay = select(taken, Tensor(self.ema_decay, ms.float32), self.one)
            share = select(taken, Tensor(1 - self.ema_decay, ms.float32), self.zero)
            done = ops.depend(done, self.map(ops.partial(ema_update, decay, share, done), self.ema, averaged))
        return done


def kind_of_update(options: StepOptions) -> type[WeightUpdate]:
    """The update that suits this machine; only AdamW can do without a branch."""
    return SelectedUpdate if platform.current().costly_launches and options.opt == "adamw" else WeightUpdate
