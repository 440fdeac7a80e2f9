"""Training: the story of a run."""

from __future__ import annotations

import contextlib
import csv
import itertools
import math
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import mindspore as ms
from mindspore import Parameter, Tensor

from mindvit.data.loader import Batch, steps_per_epoch, train_batches
from mindvit.engine import checkpoint, result
from mindvit.engine.compile_cache import compile_step
from mindvit.engine.evaluate import evaluate
from mindvit.engine.history import RunLog, announce, progress_values
from mindvit.engine.meter import Meter
from mindvit.engine.resume import Resume
from mindvit.engine.setup import build, setup, starting_weights, train_step
from mindvit.engine.state import Best, CheckpointMeta, DataState, TrainState
from mindvit.engine.step import random_draws
from mindvit.engine.stop import Interrupted, StopSignal, TrainingFailed
from mindvit.layers.precision import set_precision
from mindvit.optim.schedule import learning_rate
from mindvit.recipe.schema import Recipe
from mindvit.runtime import console, device, distributed, interrupts
from mindvit.tasks import task_of
from mindvit.tasks.base import Score
from mindvit.weights.sets import EMA, MODEL

__all__ = ["Interrupted", "Trainer", "TrainingFailed", "dry_run", "fit"]

DRY_STEPS = 5
Scores = tuple[Any, Optional[Any]]  # of the weights and, with ema, of their moving average


class Trainer:
    """One training run: the compiled steps, the data, and what is known so far."""

    def __init__(self, recipe: Recipe, config: Optional[str] = None):
        started = time.time()
        self.task, self.config = task_of(recipe), config
        recipe = self.task.resolve(recipe)  # a wrong size is told before a million files are listed
        console.check_viewer(recipe.log.summary)
        weights = starting_weights(recipe)
        said: list[str] = []  # what is remarkable about the data
        self.train_set, self.val_set = self.datasets = self.task.datasets(recipe, weights, said.append)
        self.ctx = setup(recipe, self.train_set)
        self.recipe, self.device = recipe, self.ctx.device
        self.accum_steps = recipe.optim.gradient_accumulation_steps
        self.net = build(self.ctx, self.task, resize=True, weights=weights)
        distributed.same_weights(self.net, self.device.ranks)
        self.params = sum(item.size for item in self.net.trainable_params())
        self.meter = Meter(recipe.data.batch_size * self.device.ranks * self.accum_steps)
        steps = steps_per_epoch(self.train_set, recipe.data, self.device.ranks, self.accum_steps)
        self.state = TrainState(steps, recipe.schedule.epoch_size, self.meter.images)
        self.data_state = DataState(
            self.train_set.class_names, self.train_set.fingerprint(), self.val_set.fingerprint()
        )
        self.log = RunLog(self.task, self.ctx, self.state, started)
        self.said, self.stop_signal = said, StopSignal()
        self.resume = Resume(self.task, self.ctx, self.data_state, len(self.val_set), self.log.say)
        self.checkpoints = checkpoint.CheckpointManager(
            self.log.folder, recipe.model.model, recipe.checkpoint.keep_checkpoint_max
        )
        set_precision(self.net, self.device.amp_level, self.device.half)
        self.net.set_train(True)
        self.step = train_step(self.net, self.ctx, self.task)
        self.eval_step = self.task.predict(self.net, self.ctx)

    def train(self) -> dict[str, Any]:
        """Train, validate, save, epoch by epoch; the result row.

        A run that is finished already is told of, and left as it is.
        """
        announce(self.task, self.ctx, self.state, self.datasets, self.params, self.said)
        folder, say = self.log.folder, self.log.say
        with checkpoint.run_lock(folder, say) if self.device.is_main else contextlib.nullcontext():
            found = self.resume.find(folder)
            if found is not None and self.resume.is_finished(found[2]):
                return result.show_finished(self.resume, found)
            if found is not None:
                self.restore(found)
            if self.device.is_main:
                self.log.prepare_files()
            self.compile()
            # signals last: MindSpore's summary starts processes, which would inherit the handlers and outlive the
            # signal that ends them
            kind = self.recipe.log.summary if self.device.is_main else "none"
            with console.summary(kind, folder, say) as self.log.viewer, self.stop_signal.listening():
                scores = self.run_epochs()
            return self.finish(*scores)

    def restore(self, found: checkpoint.Found) -> None:
        """Continue from a checkpoint. UserError if it doesn't fit."""
        checkpoint.restore(self.parameters(), found)
        self.step.update.trust_statistics()
        self.resume.continue_from(found, self.state)
        unscored = found[2].get("score") is None and not self.state.step_in_epoch
        self.state.validation_due = unscored and self.validates_after(self.state.epoch)
        self.checkpoints.register_existing(self.state.epoch)

    def compile(self) -> None:
        """Build the training graph before the first batch is asked for."""
        if self.recipe.runtime.mode == 0 and self.state.global_step < self.state.total_steps:
            self.log.say("compiling the training step ...")
            inputs = [Tensor(item) for item in self.step.spec(self.task.spec(self.ctx)).inputs()]
            start = time.perf_counter()
            with console.heartbeat("still compiling", self.device.is_main), interrupts.taken_by(interrupts.leave):
                cached = compile_step(self.step, inputs, self.ctx)
            self.meter.compile_seconds = time.perf_counter() - start
            self.log.say(f"compiled in {self.meter.compile_seconds:.1f} s{' (from the cache)' if cached else ''}")
        set_precision(self.net, self.device.val_amp_level, self.device.half)

    def parameters(self) -> list[Parameter]:
        """Everything that the run changes."""
        return [*self.net.get_parameters(), *self.step.state()]

    def validates_after(self, epoch: int) -> bool:
        """Whether the run validates after that many epochs."""
        log = self.recipe.log
        usual = log.val_while_train and epoch > 0 and epoch % log.val_interval == 0
        return usual or epoch >= self.state.epochs

    def run_epochs(self) -> Scores:
        """The epochs that are left; the last scores.

        Each is saved before it is validated: whatever a validation meets, no training is lost.
        """
        state = self.state
        with console.Progress(
            state.total_steps, state.epochs, self.recipe.log.log_interval, self.device.is_main, state.global_step
        ) as progress:
            if state.validation_due:
                scores = self.validate_epoch(state.epoch, progress)
            for epoch in range(state.epoch, state.epochs):
                self.run_epoch(epoch, progress)
                if not distributed.agree(self.net, self.device.ranks):
                    raise TrainingFailed(
                        f"after epoch {epoch + 1} rank {self.device.rank} holds other weights than the others: the "
                        "run stops before it "
                        f"saves them (one network and one seed on all ranks? a fault of a device?)"
                    )
                self.save_epoch(epoch + 1)
                if self.validates_after(epoch + 1):
                    scores = self.validate_epoch(epoch + 1, progress)
        return scores

    def run_epoch(self, epoch: int, progress: console.Progress) -> None:
        """The steps of an epoch that are not yet done."""
        state, scaler = self.state, self.step.scaler
        for values in self.train_steps(epoch):
            skipped = state.stats.skipped if self.step.skips_nonfinite else None
            progress.update(epoch, progress_values(values, scaler.enabled, skipped))
            if state.global_step % self.recipe.log.log_interval == 0:
                self.log.viewer(state.global_step, values)
            self.after_step()
        state.epoch_end = {"loss": state.stats.close(), **{f"last {key}": value for key, value in values.items()}}

    def batches(self, epoch: int) -> Iterator[Batch]:
        """This rank's batches of the epoch's steps that are not yet done; every wait for one is noted."""
        done = self.state.step_in_epoch
        batches = train_batches(
            self.train_set,
            self.task.transform(self.ctx),
            self.task.spec(self.ctx).batch,
            self.recipe.data,
            epoch=epoch,
            seed=self.recipe.runtime.seed,
            shard=self.ctx.shard,
            workers=self.ctx.workers,
            first=done * self.accum_steps,
        )
        return self.meter.waiting(itertools.islice(batches, (self.state.steps - done) * self.accum_steps))

    def train_step(self, batch: Batch, micro_step: int) -> tuple[float, tuple[Tensor, ...]]:
        """The `micro_step`-th batch of the next step through the compiled graph; the learning rate and what the graph
        gives.
        """
        step = self.state.global_step
        lr = learning_rate(
            step, schedule=self.recipe.schedule, steps_per_epoch=self.state.steps, global_batch=self.state.global_batch
        )
        draws = random_draws(self.task, self.ctx, self.step, step * self.accum_steps + micro_step)
        return lr, self.step(*map(Tensor, (*batch, *draws)), Tensor(lr, ms.float32))

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
        """Count a step; stop at a loss or a gradient that is not finite, unless the step was skipped and may be."""
        finite, stats = math.isfinite(loss) and math.isfinite(norm), self.state.stats
        stats.add(loss, finite)
        if finite or (
            self.step.scaler.dynamic and math.isfinite(loss) and scale > 1
        ):  # a gradient that overflows is what the dynamic scale is for
            return
        stats.bad_in_a_row += 1
        allowed = self.recipe.precision.skip_nonfinite
        what = f"step {self.state.global_step + 1}: loss {loss}, gradient norm {norm}"
        if stats.bad_in_a_row > allowed:
            raise TrainingFailed(
                f"{what}: the run has diverged and stops; the last checkpoint in {self.log.folder} is untouched "
                f"(a lower lr, a longer warm-up or clip_grad: True may help)"
            )
        self.log.say(f"WARNING: {what}: step skipped, number {stats.bad_in_a_row} of at most {allowed} in a row")

    def after_step(self) -> None:
        """What may be due between two steps of an epoch: a checkpoint, and the end of a run that was asked to stop."""
        state = self.state
        if self.stop_signal:
            self.step.ask_to_stop()
        if not state.step_in_epoch:  # save_epoch comes next
            return
        stopping = self.step.is_stopping(bool(self.stop_signal))
        due = self.recipe.checkpoint.ckpt_save_steps
        if self.device.is_main and (stopping or (due and state.global_step % due == 0)):
            self.try_to_save(lambda: self.checkpoints.save_mid_epoch(self.parameters(), self.meta()), stopping)
        if stopping:
            raise self.interrupted(f"after step {state.global_step}")

    def save_epoch(self, epoch: int) -> None:
        """What is trained is saved before it is validated; a run that was asked to stop ends here."""
        stopping = self.step.is_stopping(bool(self.stop_signal))
        last = epoch == self.state.epochs
        if self.device.is_main and (last or epoch % self.recipe.checkpoint.ckpt_save_interval == 0):
            self.try_to_save(lambda: self.checkpoints.save(epoch, self.parameters(), self.meta()), last or stopping)
        elif self.device.is_main and (stopping or self.validates_after(epoch)):
            self.try_to_save(lambda: self.checkpoints.save_mid_epoch(self.parameters(), self.meta()), stopping)
        if stopping:
            raise self.interrupted(f"after epoch {epoch}")

    def try_to_save(self, write: Callable[[], Path], needed: bool) -> None:
        """A checkpoint, if it can be written; a run that isn't at its end continues without it, loudly."""
        try:
            self.state.checkpoint = write()
            self.state.saved_step = self.state.global_step
        except checkpoint.NotSaved as error:
            if needed:
                raise
            where = self.state.checkpoint or "the beginning"
            self.log.say(f"WARNING: {error}; the run continues, and would resume from {where}")

    def meta(self, scores: tuple[Optional[Score], Optional[Score]] = (None, None)) -> dict[str, Any]:
        """What a checkpoint says beside its tensors; `scores` once its weights are validated."""
        return CheckpointMeta.of(self.ctx, self.state, self.data_state, scores).as_dict()

    def interrupted(self, moment: str) -> Interrupted:
        """The end of a run that was asked to stop and is saved."""
        path = self.state.checkpoint or self.checkpoints.mid_epoch
        return Interrupted(self.stop_signal.number, moment, path, self.recipe.checkpoint.resume)

    def validate_epoch(self, epoch: int, progress: console.Progress) -> Scores:
        """The scores after `epoch` epochs: shown, logged and, if they are the best or the last, saved with the
        weights.
        """
        progress.hide()
        scores, state = self.validate(), self.state
        self.log.log_epoch(epoch, *scores, self.datasets)
        leader = max((item for item in scores if item), key=lambda item: item.primary)
        better = state.best is None or state.best.is_beaten_by(leader)
        if better:
            state.best = Best(leader.primary, leader.count, epoch, self.data_state.val)
        if self.device.is_main and (better or epoch >= state.epochs):
            save = self.checkpoints.save_best if better else self.checkpoints.save
            self.try_to_save(lambda: save(epoch, self.parameters(), self.meta(scores)), False)
        return scores

    def validate(self) -> Scores:
        """Scores of the weights and, with ema, of their average."""
        between = self.stop_validating if self.device.ranks == 1 else None  # several ranks end a validation together

        def measure(what: str) -> Any:
            evaluator = self.task.evaluator(self.ctx, self.val_set)
            return evaluate(self.net, self.eval_step, evaluator, self.ctx, what, between)

        score = measure("validating")
        if not self.recipe.optim.ema:
            return score, None
        self.step.update.swap_ema()
        average = measure("validating the moving average")
        self.step.update.swap_ema()
        self.state.best_weights = EMA if average.primary > score.primary else MODEL
        return score, average

    def stop_validating(self) -> None:
        """End a validation of a run that was asked to stop, if what it measures is saved."""
        if self.stop_signal and self.state.saved_step == self.state.global_step:
            raise self.interrupted(f"while validating after epoch {self.state.epoch}")

    def finish(self, score: Score, average: Optional[Score]) -> dict[str, Any]:
        """The result's row: shown, as JSON beside the checkpoints, and appended to the results."""
        outcome = result.Outcome(
            score,
            average,
            self.state.best,
            self.state.checkpoint,
            len(self.train_set.bad),
            self.params,
            time.time() - self.log.started,
        )
        row = result.row(self.task, self.ctx, self.meter, outcome, self.config)
        if self.device.is_main:
            console.say(
                f"\n{result.tables(row, self.task.metrics)}\n"
                + (f"\nmoving average: {average}" if average else "")
                + f"\ncheckpoint: {self.state.checkpoint}\n"
            )
            for path, write in (
                (self.log.folder / "result.json", console.write_json),
                (Path(self.recipe.log.results_csv), console.append_csv),
            ):
                try:
                    write(path, row)
                except (OSError, csv.Error) as error:  # the weights are trained and saved
                    console.say(f"WARNING: {path} can't be written: {console.first_line(error)}")
        return row

    def dry_run(self) -> None:
        """Compile, take a few steps on real images, say what they need. Nothing is written."""
        announce(self.task, self.ctx, self.state, self.datasets, self.params, self.said)
        self.compile()
        list(itertools.islice(self.train_steps(0), DRY_STEPS))
        seconds = self.state.total_steps * self.meter.ms_per_step / 1000
        self.log.say(
            f"dry run: {self.meter.ms_per_step:.1f} ms/step, {self.meter.images_per_second:.1f} img/s over "
            "all devices, "
            f"{device.memory(self.device.target)}; the whole run's steps would take {console.duration(seconds)}"
        )


def fit(recipe: Recipe, config: Optional[str] = None) -> dict[str, Any]:
    """Train as a recipe says.

    Args:
        recipe: of mindvit.recipe.
        config: the recipe's file, for the row.

    Returns:
        The result row: what ran, on what, how fast and how well.

    Raises:
        UserError: something in the recipe, the data or the weights that the user can mend.
        TrainingFailed: the loss is not finite any more, or the ranks disagree.
        Interrupted: a signal ended the run; its state is saved.
    """
    return Trainer(recipe, config).train()


def dry_run(recipe: Recipe) -> None:
    """Try `recipe`: build, compile, a few steps; prints time and memory, writes nothing."""
    Trainer(recipe).dry_run()
