"""The training step and the evaluation step, each one compiled graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence, Union

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindvit.data.mixing import Normalise, Prepare
from mindvit.layers.basic import Compiled, Kept, number_drop_paths
from mindvit.loss import BinaryCrossEntropy, Distillation, SoftTargetCrossEntropy
from mindvit.optimiser import SGD, AdamW, Lamb, SquareSum
from mindvit.weights.readers import STATE

GROWTH_STEPS = 2000  # finite steps after which a dynamic loss scale doubles, as in PyTorch's GradScaler


@dataclass(frozen=True)
class StepOptions:
    """What the compiled step depends on; the numbers that change from step to step are its inputs."""

    mean: Sequence[float]
    std: Sequence[float]
    erase: bool = False
    mix: bool = False
    loss: str = "CE"
    smoothing: float = 0.0
    opt: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.05
    clip_norm: float = 0.0
    ema_decay: float = 0.0
    loss_scale: float = 0.0
    dynamic_scale: bool = False
    parts: int = 1  # batches whose gradients make one step
    leave_out: bool = False  # a step whose loss or gradient is not finite changes nothing (always so with a loss scale)
    ranks: int = 1
    saturates: bool = False  # the device's half precision overflows to its largest number: only the device knows
    distill_type: str = "none"  # soft, hard: with a teacher
    distill_alpha: float = 0.5
    distill_tau: float = 1.0


average_update = ops.MultitypeFuncGraph("average_update")
times = ops.MultitypeFuncGraph("times")
add_part = ops.MultitypeFuncGraph("add_part")
clear = ops.MultitypeFuncGraph("clear")
assign_after = ops.MultitypeFuncGraph("assign_after")
put = ops.MultitypeFuncGraph("put")


@average_update.register("Number", "Tensor", "Tensor", "Tensor")
def _average_update(decay, done, average, weight):  # type: ignore[no-untyped-def]
    return ops.depend(True, ops.assign(average, average * decay + ops.depend(weight, done) * (1 - decay)))


@times.register("Tensor", "Tensor")
def _times(factor, gradient):  # type: ignore[no-untyped-def]
    return gradient * factor


@add_part.register("Number", "Tensor", "Tensor")
def _add_part(share, total, part):  # type: ignore[no-untyped-def]
    return ops.assign_add(total, part.astype(ms.float32) * share)


@clear.register("Tensor", "Tensor")
def _clear(done, total):  # type: ignore[no-untyped-def]
    return ops.assign(total, ops.depend(ops.zeros_like(total), done))


@put.register("Tensor", "Tensor")
def _put(target, value):  # type: ignore[no-untyped-def]
    return ops.assign(target, value)


@assign_after.register("Tensor", "Tensor", "Tensor")
def _assign_after(done, target, source):  # type: ignore[no-untyped-def]
    return ops.assign(target, ops.depend(source, done) * 1)


def freeze(net: nn.Cell) -> nn.Cell:
    """Make a network a teacher: evaluation mode, nothing to train, and parameter names that no student has (ranks and files know a parameter by its name)."""
    for parameter in net.get_parameters():
        parameter.requires_grad = False
        parameter.name = f"{STATE}teacher.{parameter.name}"
    return net.set_train(False)


class Loss(nn.Cell):
    """uint8 pictures and labels -> loss times `scale`. A (frozen) teacher sees what the network sees."""

    def __init__(self, net: nn.Cell, options: StepOptions, teacher: Optional[nn.Cell] = None):
        super().__init__(auto_prefix=False)
        if (teacher is None) != (options.distill_type == "none"):
            raise ValueError(f"distill_type is {options.distill_type}, but there is {'no' if teacher is None else 'a'} teacher")
        self.prepare = Prepare(options.mean, options.std, options.erase, options.mix)
        self.net = net
        self.kept = Kept(number_drop_paths(net))
        self.criterion = {"CE": SoftTargetCrossEntropy, "BCE": BinaryCrossEntropy}[options.loss](options.smoothing, options.mix)
        self.teacher = teacher
        self.distillation = Distillation(options.distill_type, options.distill_alpha, options.distill_tau)

    def construct(self, images: Tensor, labels: Tensor, own_label: Tensor, own_pixel: Tensor, boxes: Tensor, noise: Tensor, paths: Tensor,
                  scale: Tensor) -> Tensor:
        x = self.prepare(images, own_pixel, boxes, noise)
        logits = self.net(x, self.kept(paths))
        loss = self.criterion(logits, labels, own_label)
        if self.teacher is not None:
            loss = self.distillation(loss, logits, ops.stop_gradient(self.teacher(x)))
        return loss * scale


def optimiser(weights: ParameterTuple, decay: Sequence[float], rates: Sequence[float], options: StepOptions) -> Union[AdamW, Lamb, SGD]:
    """The cell that `options.opt` names."""
    if options.opt == "sgd":
        return SGD(weights, decay, rates, options.momentum, options.nesterov)
    return {"adamw": AdamW, "lamb": Lamb}[options.opt](weights, decay, rates, options.betas, options.eps)


class Put(nn.Cell):
    """Gives parameters other values where they lie.

    set_data would give a parameter other memory, and what a compiled step changes under a condition alone it goes on changing in the old.
    """

    def __init__(self, parameters: Sequence[Parameter]):
        super().__init__(auto_prefix=False)
        self.targets = parameters
        self.map = ops.HyperMap()

    def construct(self, *values: Tensor) -> Tensor:
        return ops.depend(Tensor(0, ms.float32), self.map(put, self.targets, values))


class TrainStep(Compiled):
    """One optimiser step: normalise, mix, forward, loss, gradient, accumulate, all-reduce, finite check, clip, optimiser, EMA.

    decayed: whether each weight is decayed; rates: factors of the learning rate, one a weight (none: 1). Inputs: images uint8
    (B, H, W, C), labels int32 (B,), a `Draw`'s five arrays, lr float32 (). Outputs, float32 (): loss, the gradient's global norm
    before clipping, and the loss scale after the step. With a loss scale or `leave_out`, a step whose loss or gradient is not
    finite changes no weight, moment, average or running statistic. With `parts` batches a step, every parts-th call makes the
    step, from the mean gradient, and gives the mean loss; what the calls between give is of no use.
    """

    def __init__(self, net: nn.Cell, decayed: Sequence[bool], options: StepOptions, teacher: Optional[nn.Cell] = None,
                 rates: Optional[Sequence[float]] = None):
        super().__init__(auto_prefix=False)
        self.paths = len(number_drop_paths(net))
        self.loss = Loss(net, options, teacher)
        self.weights = ParameterTuple(net.trainable_params())
        self.gradient = ops.value_and_grad(self.loss, None, self.weights)
        self.ranks, self.parts, self.saturates = options.ranks, options.parts, options.saturates
        if self.ranks > 1:
            self.reduce = nn.DistributedGradReducer(self.weights, mean=True, degree=self.ranks)
            self.sum = ops.AllReduce()
        self.asked_to_stop, self.stopping = _number("asked"), _number("stopping")
        self.optimiser = optimiser(self.weights, [options.weight_decay * flag for flag in decayed], rates or [1.0] * len(decayed), options)
        self.map = ops.HyperMap()
        self.square_sum = SquareSum()
        self.clip_norm, self.ema_decay = options.clip_norm, options.ema_decay
        self.running = ParameterTuple([item for item in net.get_parameters() if not item.requires_grad])  # batch normalisation's mean and variance
        self.averaged = ParameterTuple([*self.weights, *self.running])
        self.ema: Sequence[Parameter] = self.averaged.clone(f"{STATE}ema", "same") if options.ema_decay else ()
        self.put_averaged, self.put_ema = Put(self.averaged), Put(self.ema)
        self.scaled, self.dynamic = options.loss_scale > 0, options.dynamic_scale
        self.guarded = self.scaled or options.leave_out
        self.settled = self.running.clone(f"{STATE}settled", "same") if self.guarded and self.running else ()  # `running` after the last good step
        self.scale, self.finite_steps = _number("loss_scale", options.loss_scale or 1.0), _number("finite_steps")
        if self.parts > 1:
            self.sums = self.weights.clone(f"{STATE}sum", "zeros")
            self.loss_sum, self.part = _number("loss_sum"), _number("part")

    def share(self, loss: Tensor, overflow: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
        """All ranks' mean loss and overflows; in the same message, whether any was asked to stop, and the mean of their running statistics."""
        values = [loss.reshape(1), asked.reshape(1), overflow.reshape(1)]
        for item in self.running:
            values.append(ops.depend(item.value(), loss).reshape(-1))
        shared = self.sum(ops.cat(values)) / self.ranks
        done = ops.assign(self.stopping, shared[1])
        place = 3
        for item in self.running:
            done = ops.depend(ops.assign(item, shared[place:place + item.size].reshape(item.shape)), done)
            place += item.size
        return ops.depend(shared[0], done), shared[2]

    def construct(self, images: Tensor, labels: Tensor, own_label: Tensor, own_pixel: Tensor, boxes: Tensor, noise: Tensor, paths: Tensor,
                  lr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        loss, gradients = self.gradient(images, labels, own_label, own_pixel, boxes, noise, paths, self.scale.value())
        asked = self.asked_to_stop.value()  # set from outside: under a condition its old memory would be read
        if self.parts == 1:
            return self.finish(loss, gradients, lr, asked)
        sums = self.map(ops.partial(add_part, 1 / self.parts), self.sums, gradients)
        loss = ops.assign_add(self.loss_sum, loss / self.parts)
        part = ops.assign_add(self.part, Tensor(1, ms.float32))
        norm, scale = ops.zeros_like(loss), ops.ones_like(loss)
        if part > self.parts - 0.5:
            loss, norm, scale = self.finish(loss + 0, sums, lr, asked)
            done = self.map(ops.partial(clear, ops.depend(scale, norm)), (*self.sums, self.loss_sum, self.part))
            scale = ops.depend(scale, done)
        return loss, norm, scale

    def finish(self, loss: Tensor, gradients: tuple[Tensor, ...], lr: Tensor, asked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From the gradient, still scaled, to the moved weights."""
        scale = self.scale.value()
        overflow = self.overflow(gradients)
        if self.ranks > 1:
            gradients = self.reduce(gradients)
            loss, overflow = self.share(ops.depend(loss, gradients), overflow, asked)  # what one rank finds not finite stops all of them
        norm = ops.sqrt(self.square_sum(gradients)) / scale
        factor = 1 / scale
        if self.clip_norm:
            factor = factor * ops.minimum(self.clip_norm / (norm + 1e-6), Tensor(1.0, ms.float32))
        if self.clip_norm or self.scaled:
            gradients = self.map(ops.partial(times, factor), gradients)
        finite = ops.isfinite(norm + loss) if not self.saturates else ops.logical_and(ops.isfinite(norm + loss), overflow == 0)
        if not self.guarded:  # noqa: SIM114  (known when the graph is built; `finite` only when it runs)
            done = self.update(gradients, lr)
        elif finite:
            done = self.update(gradients, lr)
        else:
            done = self.copy(lr, self.settled, self.running)
        loss = ops.depend(loss / scale, done)
        if self.dynamic:
            loss = ops.depend(loss, self.rescale(scale, finite))
        return loss, norm, ops.depend(self.scale.value(), loss)

    def overflow(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """1 if this device's half precision has overflowed without leaving an infinity, else 0."""
        if not self.saturates:
            return Tensor(0, ms.float32)
        return 1 - ms.amp.all_finite(gradients).astype(ms.float32)

    def state(self) -> list[Parameter]:
        """What a checkpoint holds beside the network's own parameters."""
        return [*self.optimiser.state(), *self.ema, self.scale, self.finite_steps]

    def settle(self) -> None:
        """Take the running statistics as good: they were loaded."""
        for item, value in zip(self.settled, self.running):
            item.set_data(Tensor(value.asnumpy()))

    def ask_to_stop(self) -> None:
        """Let every rank know, with the next step, that this one is to end."""
        if self.ranks > 1:
            self.asked_to_stop.set_data(Tensor(1, ms.float32))

    def is_stopping(self, asked: bool) -> bool:
        """Whether the last step found that a rank was asked to stop: the same answer on all of them, unlike `asked`."""
        return asked if self.ranks == 1 else float(self.stopping.asnumpy()) > 0

    def swap_average(self) -> None:
        """Exchange the weights and running statistics with their moving average."""
        weights, averages = ([Tensor(item.asnumpy().copy()) for item in items] for items in (self.averaged, self.ema))
        self.put_averaged(*averages)
        self.put_ema(*weights)

    def update(self, gradients: tuple[Tensor, ...], lr: Tensor) -> Tensor:
        """Weights, moments, average and settled statistics move by one step."""
        done = self.copy(self.optimiser(gradients, lr), self.running, self.settled)
        if self.ema_decay:
            done = ops.depend(done, self.map(ops.partial(average_update, self.ema_decay, done), self.ema, self.averaged))
        return done

    def copy(self, done: Tensor, source: ParameterTuple, target: ParameterTuple) -> Tensor:
        """Running statistics from one place to the other, after `done`, where both are kept."""
        if self.settled:
            done = ops.depend(done, self.map(ops.partial(assign_after, done), target, source))
        return done

    def rescale(self, scale: Tensor, finite: Tensor) -> Tensor:
        """The dynamic loss scale: halved by a gradient that is not finite, doubled after GROWTH_STEPS finite ones."""
        steps = ops.where(finite, self.finite_steps + 1, ops.zeros_like(self.finite_steps))
        grown = ops.where(steps >= GROWTH_STEPS, scale * 2, scale)
        done = ops.assign(self.scale, ops.where(finite, grown, ops.maximum(scale / 2, Tensor(1.0, ms.float32))))
        return ops.depend(done, ops.assign(self.finite_steps, ops.where(steps >= GROWTH_STEPS, ops.zeros_like(steps), steps)))


def _number(name: str, value: float = 0.0) -> Parameter:
    return Parameter(Tensor(value, ms.float32), name=f"{STATE}{name}", requires_grad=False)


class EvalStep(Compiled):
    """uint8 pictures (B, H, W, C) and labels (B,) int32 -> (rank (B,) int32, loss (B,) float32, logits (B, classes) float32).

    rank is the place of the true class among all logits, 0 for the largest, ties resolved by class number; a logit that is
    not a number puts it last. Labels of -1 mark padding, whose rank is -1 and whose loss is 0.
    """

    def __init__(self, net: nn.Cell, mean: Sequence[float], std: Sequence[float]):
        super().__init__(auto_prefix=False)
        self.normalise = Normalise(mean, std)
        self.net = net

    def construct(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.net(self.normalise(images)).astype(ms.float32)
        real = labels >= 0
        label = ops.maximum(labels, Tensor(0, ms.int32)).expand_dims(1)
        own = ops.gather_elements(logits, 1, label)
        classes = ops.arange(logits.shape[1]).astype(ms.int32)
        ahead = ops.logical_or(logits > own, ops.logical_and(logits == own, classes < label))
        broken = ops.logical_not(ops.isfinite(own))
        rank = ops.where(broken.squeeze(1), ops.full_like(labels, logits.shape[1] - 1), ahead.astype(ms.int32).sum(1).astype(ms.int32))
        loss = -ops.gather_elements(ops.log_softmax(logits, -1), 1, label).squeeze(1)
        return ops.where(real, rank, ops.full_like(labels, -1)), ops.where(real, loss, ops.zeros_like(loss)), logits


def first_inputs(batch: int, size: int, channels: int, paths: int = 0) -> tuple[Tensor, ...]:
    """Inputs of a training step with the right shapes and types and no content, to compile with."""
    arrays = (np.zeros((batch, size, size, channels), np.uint8), np.zeros(batch, np.int32), np.float32(1), np.ones((size, size, 1), np.float32),
              np.zeros((batch, 4), np.int32), np.zeros((size, size, channels), np.float32), np.zeros((max(paths, 1), batch), np.float32), np.float32(0))
    return tuple(Tensor(array) for array in arrays)
