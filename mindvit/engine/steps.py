"""A run's steps: batches through the compiled graph, and what each of them says."""

from __future__ import annotations

import itertools
import math
import time
from typing import Iterator

import mindspore as ms
from mindspore import Tensor, nn

from mindvit.data.datasets.base import Dataset
from mindvit.data.loader import Batch, train_batches
from mindvit.engine.compile_cache import compile_step
from mindvit.engine.meter import Meter
from mindvit.engine.setup import train_step
from mindvit.engine.state import TrainState
from mindvit.engine.step import random_draws
from mindvit.engine.stop import TrainingFailed
from mindvit.layers.precision import set_precision
from mindvit.optim.schedule import learning_rate
from mindvit.runtime import ascend, console, interrupts
from mindvit.tasks.base import RunContext, Say, Task


class StepRunner:
    """Takes the steps of a run whose `state` it moves on."""

    def __init__(self, task: Task, ctx: RunContext, net: nn.Cell, dataset: Dataset, state: TrainState, say: Say):
        self.task, self.ctx, self.net, self.dataset, self.state, self.say = task, ctx, net, dataset, state, say
        self.accum_steps = ctx.recipe.optim.gradient_accumulation_steps
        self.meter = Meter(state.global_batch)
        set_precision(net, ctx.device.amp_level, ctx.device.half)
        net.set_train(True)
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

    def batches(self, epoch: int) -> Iterator[Batch]:
        """This rank's batches of the epoch's steps that are not yet done; every wait for one is noted."""
        done = self.state.step_in_epoch
        batches = train_batches(
            self.dataset,
            self.task.transform(self.ctx),
            self.task.spec(self.ctx).batch,
            self.ctx.recipe.data,
            epoch=epoch,
            seed=self.ctx.recipe.runtime.seed,
            shard=self.ctx.shard,
            workers=self.ctx.workers,
            first=done * self.accum_steps,
        )
        return self.meter.waiting(itertools.islice(batches, (self.state.steps - done) * self.accum_steps))

    def train_step(self, batch: Batch, micro_step: int) -> tuple[float, tuple[Tensor, ...]]:
        """The `micro_step`-th batch of the next step through the compiled graph; the learning rate and what the graph
        gives.
        """
        state = self.state
        lr = learning_rate(
            state.global_step,
            schedule=self.ctx.recipe.schedule,
            steps_per_epoch=state.steps,
            global_batch=state.global_batch,
        )
        draws = random_draws(self.task, self.ctx, self.step, state.global_step * self.accum_steps + micro_step)
        # arrays that nothing writes to any more: a Tensor of its own would copy them
        return lr, self.step(*map(Tensor.from_numpy, (*batch, *draws)), Tensor(lr, ms.float32))

    def train_steps(self, epoch: int) -> Iterator[dict[str, float]]:
        """Take an epoch's steps that are not yet done; after each, the figures that a log shows."""
        self.net.set_train(True)
        began = time.perf_counter()
        for number, batch in enumerate(self.batches(epoch)):
            lr, outputs = self.train_step(batch, number % self.accum_steps)
            if (number + 1) % self.accum_steps:
                continue
            loss, norm, scale = (float(output.asnumpy()) for output in outputs)
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
