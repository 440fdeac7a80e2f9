"""A run's steps: batches through the compiled graph, and what each of them says."""

from __future__ import annotations

import functools
import itertools
import math
import time
from typing import Any, Callable, Iterator, Optional, TypeVar

import mindspore as ms
from mindspore import Tensor, nn

from mindvit.data.datasets.base import Dataset
from mindvit.data.loader import Batch, steps_per_epoch, train_batches
from mindvit.engine.compile_cache import compile_step
from mindvit.engine.meter import Meter
from mindvit.engine.setup import train_step
from mindvit.engine.state import TrainState
from mindvit.engine.step import random_draws
from mindvit.engine.stop import TrainingFailed
from mindvit.layers.precision import set_precision
from mindvit.optim.freeze import set_train
from mindvit.optim.schedule import learning_rate
from mindvit.runtime import ascend, console, interrupts
from mindvit.tasks.base import RunContext, Say, Task

T = TypeVar("T")


class Ahead(Iterator[T]):
    """Items whose next one can be made before it is asked for. An error in making it is raised when it is asked for."""

    def __init__(self, items: Iterator[T]):
        self.items = items
        self.ready: Optional[Callable[[], T]] = None

    def prepare(self) -> None:
        """Make the next item, unless it is there."""
        if self.ready is None:
            self.ready = _outcome(self.items)

    def __next__(self) -> T:
        self.prepare()
        ready, self.ready = self.ready, None
        assert ready is not None
        return ready()


def _outcome(items: Iterator[T]) -> Callable[[], T]:
    """A function that gives the next item, or raises what ended the iteration."""
    try:
        item = next(items)
    except Exception as error:
        return functools.partial(_raised, error)
    return lambda: item


def _raised(error: BaseException) -> Any:
    raise error


class StepRunner:
    """Takes the steps of a run whose `state` it moves on."""

    def __init__(self, task: Task, ctx: RunContext, net: nn.Cell, dataset: Dataset, state: TrainState, say: Say):
        self.task, self.ctx, self.net, self.dataset, self.state, self.say = task, ctx, net, dataset, state, say
        self.accum_steps = ctx.recipe.optim.gradient_accumulation_steps
        self.meter = Meter(state.global_batch)
        set_precision(net, ctx.device.amp_level, ctx.device.half)
        self.step = train_step(net, ctx, task)

    def compile(self) -> None:
        """Build the training graph before the first batch is asked for."""
        chosen = self.ctx.device
        if self.ctx.recipe.runtime.mode == 0 and self.state.global_step < self.state.total_steps:
            self.say("compiling the training step ...")
            inputs = [Tensor(item) for item in self.step.spec(self.task.spec(self.ctx)).inputs()]
            start = time.perf_counter()
            with console.heartbeat("still compiling", chosen.is_main), interrupts.taken_by(interrupts.leave):
                cached = compile_step(self.step, inputs, self.ctx)
            self.meter.compile_seconds = time.perf_counter() - start
            self.say(f"compiled in {self.meter.compile_seconds:.1f} s{' (from the cache)' if cached else ''}")
        set_precision(self.net, chosen.val_amp_level, chosen.half)

    def batches(self) -> Iterator[Batch]:
        """This rank's batches of the epoch's steps that are not yet done; every wait for one is noted."""
        steps = self.state.steps - self.state.step_in_epoch
        return self.meter.waiting(itertools.islice(self.passes(), steps * self.accum_steps))

    def passes(self) -> Iterator[Batch]:
        """This rank's batches from the next step on, through the training images again and again."""
        data, shard = self.ctx.recipe.data, self.ctx.shard
        steps = steps_per_epoch(self.dataset, data, shard.ranks, self.accum_steps)
        done = self.state.global_step % steps
        for number in itertools.count(self.state.global_step // steps):
            batches = train_batches(
                self.dataset,
                self.task.transform(self.ctx),
                self.task.spec(self.ctx).batch,
                data,
                epoch=number,
                seed=self.ctx.recipe.runtime.seed,
                shard=shard,
                workers=self.ctx.workers,
                first=done * self.accum_steps,
            )
            yield from itertools.islice(batches, (steps - done) * self.accum_steps)
            done = 0

    def inputs(self) -> Iterator[tuple[float, list[Tensor]]]:
        """The learning rate and the compiled graph's inputs for every batch of the epoch's steps that are not yet
        done.
        """
        state = self.state
        first = state.global_step * self.accum_steps
        for number, batch in enumerate(self.batches(), first):
            lr = learning_rate(
                number // self.accum_steps,
                schedule=self.ctx.recipe.schedule,
                steps_per_epoch=state.steps,
                global_batch=state.global_batch,
            )
            draws = random_draws(self.task, self.ctx, self.step, number)
            # arrays that nothing writes to any more: a Tensor of its own would copy them
            yield lr, [*map(Tensor.from_numpy, (*batch, *draws)), Tensor(lr, ms.float32)]

    def train_steps(self) -> Iterator[dict[str, float]]:
        """Take the epoch's steps that are not yet done; after each, the figures that a log shows.

        A device computes a step while the next one's inputs are prepared: what it gives is read after that.
        """
        set_train(self.net, self.step.frozen)
        began = time.perf_counter()
        upcoming = Ahead(self.inputs())
        for number, (lr, inputs) in enumerate(upcoming):
            outputs = self.step(*inputs)
            upcoming.prepare()
            if (number + 1) % self.accum_steps:
                continue
            loss, norm, scale = self.read(outputs)
            self.check_finite(loss, norm, scale)
            self.state.global_step += 1
            now = time.perf_counter()
            self.meter.step(now - began)
            began = now
            yield {
                "loss": self.state.stats.recent,
                "lr": lr,
                "norm": norm,
                "scale": scale,
                "img/s": self.meter.recent_images_per_second,
                "data wait": self.meter.wait_share,
            }

    def read(self, outputs: tuple[Tensor, ...]) -> list[float]:
        """Loss, gradient norm and loss scale of a step, once the device has computed them."""
        return [float(output.asnumpy()) for output in outputs]

    def check_finite(self, loss: float, norm: float, scale: float) -> None:
        """Count a step; TrainingFailed at a loss or a gradient that is not finite, unless the step was skipped and may
        be.
        """
        recipe, stats = self.ctx.recipe, self.state.stats
        finite = (math.isfinite(loss) and math.isfinite(norm)) or ascend.is_simulated()  # where no value means anything
        stats.add(loss, finite)
        # a gradient that overflows is what the dynamic scale is for
        if finite or (self.step.scaler.dynamic and math.isfinite(loss) and scale > 1):
            return
        stats.bad_in_a_row += 1
        allowed = recipe.precision.skip_nonfinite
        what = f"step {self.state.global_step + 1}: loss {loss}, gradient norm {norm}"
        if stats.bad_in_a_row > allowed:
            raise TrainingFailed(
                f"{what}: the run has diverged and stops; the last checkpoint in {recipe.checkpoint.ckpt_save_dir} is "
                "untouched (a lower lr, a longer warm-up or clip_grad: True may help)"
            )
        self.say(f"WARNING: {what}: step skipped, number {stats.bad_in_a_row} of at most {allowed} in a row")
