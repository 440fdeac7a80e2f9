"""A run's steps: batches through the compiled graph, and what each of them says."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Callable, Deque, Iterator, Optional, TypeVar

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindvit.data.datasets.base import Dataset
from mindvit.data.loader import Batch, steps_per_epoch, train_batches
from mindvit.engine.compile_cache import compile_step
from mindvit.engine.meter import Meter
from mindvit.engine.setup import train_step
from mindvit.engine.state import TrainState
from mindvit.engine.step import StepResult, random_draws
from mindvit.engine.stop import StopSignal, TrainingFailed
from mindvit.layers.precision import set_precision
from mindvit.optim.freeze import set_train
from mindvit.optim.schedule import learning_rate
from mindvit.runtime import ascend, console, interrupts
from mindvit.tasks.base import RunContext, Say, Task

T = TypeVar("T")
Launched = Deque[tuple[float, Tensor]]  # learning rates and results of steps that a device may be computing


class Ahead(Iterator[T]):
    """Items whose next one can be made before it is asked for. An error in making it is raised when it is asked for."""

    def __init__(self, items: Iterator[T]):
        self.items = items
        self.ready: Optional[Callable[[], T]] = None

    def prepare(self) -> bool:
        """Make the next item, unless it is there. Whether there is one."""
        if self.ready is None:
            self.ready = _outcome(self.items)
        return not isinstance(self.ready, _Raises)

    def __next__(self) -> T:
        self.prepare()
        ready, self.ready = self.ready, None
        assert ready is not None
        return ready()


@dataclass(frozen=True)
class _Raises:
    """A function that raises."""

    error: Exception

    def __call__(self) -> Any:
        raise self.error


def _outcome(items: Iterator[T]) -> Callable[[], T]:
    """A function that gives the next item, or raises what ended the iteration."""
    try:
        item = next(items)
    except Exception as error:
        return _Raises(error)
    return lambda: item


class StepRunner:
    """Takes the steps of a run whose `state` it moves on."""

    def __init__(self, task: Task, ctx: RunContext, net: nn.Cell, dataset: Dataset, state: TrainState, say: Say):
        self.task, self.ctx, self.net, self.dataset, self.state, self.say = task, ctx, net, dataset, state, say
        self.accum_steps = ctx.recipe.optim.gradient_accumulation_steps
        self.meter = Meter(state.global_batch)
        set_precision(net, ctx.device.amp_level, ctx.device.half)
        self.step = train_step(net, ctx, task)
        self.newest = state.global_step  # the last step that was launched
        self.told_to_stop = False  # by a step

    def compile(self) -> None:
        """Build the training graph before the first batch is asked for."""
        chosen = self.ctx.device
        if self.ctx.recipe.runtime.mode == 0 and self.state.global_step < self.state.total_steps:
            groups = [0] if self.dataset.groups is None else np.unique(self.dataset.groups).tolist()
            shapes = f" for {len(groups)} shapes of batches" if len(groups) > 1 else ""
            self.say(f"compiling the training step{shapes} ...")
            spec = self.step.spec(self.task.spec(self.ctx))
            start, cached = time.perf_counter(), True
            with console.heartbeat("still compiling", chosen.is_main), interrupts.taken_by(interrupts.leave):
                for group, cell in itertools.product(groups, self.step.graphs):
                    cached &= compile_step(cell, [Tensor(item) for item in spec.inputs(group)], self.ctx)
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

    def train_steps(self, stop_signal: StopSignal, pauses: Callable[[int], bool]) -> Iterator[dict[str, float]]:
        """Take the epoch's steps that are not yet done; after each, the figures that a log shows.

        What a step gives is read when the next one has been launched, so that a device never waits for the host; but
        at once after an epoch's last step, after those that `pauses` names, and when the run is to end: then nothing
        is `in_flight`, and the parameters are those of the step whose figures are given.
        """
        set_train(self.net, self.step.frozen)
        self.newest = self.state.global_step
        began = time.perf_counter()
        upcoming = Ahead(self.inputs())
        launched: Launched = deque()
        for number, (lr, inputs) in enumerate(upcoming, 1):
            if stop_signal:
                self.step.ask_to_stop()
            result = self.step(*inputs)
            more = upcoming.prepare()
            if number % self.accum_steps:
                continue
            launched.append((lr, result))
            self.newest += 1
            waits = not more or pauses(self.newest) or self.is_stopping(stop_signal)
            found = self.read_all(launched, 0 if waits else 1)
            now = time.perf_counter()
            self.meter.step(now - began)
            began = now
            for figures in found:
                yield self.count(*figures)
            if self.is_stopping(stop_signal):
                for figures in self.read_all(launched):
                    yield self.count(*figures)

    @property
    def in_flight(self) -> bool:
        """Whether a step was launched beyond those that `state` counts."""
        return self.newest > self.state.global_step

    def is_stopping(self, stop_signal: StopSignal) -> bool:
        """Whether the run is to end: one rank by its own signal, several once a step has told them all."""
        return bool(stop_signal) if self.ctx.device.ranks == 1 else self.told_to_stop

    def read_all(self, launched: Launched, keep: int = 0) -> list[tuple[float, StepResult]]:
        """Learning rate and result of all steps but the last `keep`, which stay in `launched`."""
        return [(lr, self.read(result)) for lr, result in (launched.popleft() for _ in range(len(launched) - keep))]

    def count(self, lr: float, found: StepResult) -> dict[str, float]:
        """Count a step; its figures."""
        self.check_finite(found)
        self.told_to_stop = found.stopping > 0
        self.state.global_step += 1
        return {
            "loss": self.state.stats.recent,
            "lr": lr,
            "norm": found.norm,
            "scale": found.scale,
            "img/s": self.meter.recent_images_per_second,
            "data wait": self.meter.wait_share,
        }

    def read(self, result: Tensor) -> StepResult:
        """What a step says of itself."""
        return self.step.read(result)

    def check_finite(self, found: StepResult) -> None:
        """TrainingFailed at a loss or a gradient that is not finite, unless the step was skipped and may be."""
        recipe, stats, (loss, norm, scale, _) = self.ctx.recipe, self.state.stats, found
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
