"""Training: the story of a run."""

from __future__ import annotations

import contextlib
import itertools
import time
from typing import Any, Optional

from mindspore import Parameter, nn

from mindvit.data.loader import steps_per_epoch
from mindvit.engine import checkpoint, result
from mindvit.engine.history import RunLog, progress_values
from mindvit.engine.resume import Resume
from mindvit.engine.saver import Saver
from mindvit.engine.setup import build, frozen_lines, setup, starting_weights
from mindvit.engine.state import Best, DataState, TrainState, leading
from mindvit.engine.steps import StepRunner
from mindvit.engine.stop import Interrupted, StopSignal, TrainingFailed
from mindvit.engine.validator import Scores, Validator
from mindvit.recipe.schema import Recipe
from mindvit.runtime import console, device, distributed, viewers
from mindvit.tasks import task_of
from mindvit.tasks.base import Say

__all__ = ["Interrupted", "Trainer", "TrainingFailed", "dry_run", "fit"]

DRY_STEPS = 5


class Trainer:
    """One training run: set up when it is made, `train()` does it."""

    def __init__(self, recipe: Recipe, config: Optional[str] = None):
        started = time.time()
        self.task, self.config = task_of(recipe), config
        self.recipe = recipe = self.task.resolve(recipe)  # a wrong size is told before a million files are listed
        viewers.check_viewer(recipe.log.summary)
        weights = starting_weights(recipe)
        self.remarks: list[str] = []  # on the data, and on what is frozen
        self.datasets = self.task.datasets(recipe, weights, self.remarks.append)
        train, self.val_set = self.datasets
        self.ctx = setup(recipe, train)
        ranks, accum_steps = self.ctx.device.ranks, recipe.optim.gradient_accumulation_steps
        self.net = build(self.ctx, self.task, resize=True, weights=weights)
        distributed.same_weights(self.net, ranks)
        steps_per_pass = steps_per_epoch(train, recipe.data, ranks, accum_steps)
        self.state = TrainState(
            steps=recipe.schedule.epoch_steps or steps_per_pass,
            epochs=recipe.schedule.epoch_size,
            global_batch=recipe.data.batch_size * ranks * accum_steps,
        )
        data = DataState(train.class_names, train.fingerprint(), self.val_set.fingerprint())
        self.params = sum(item.size for item in self.net.trainable_params())
        self.log = RunLog(self.task, self.ctx, self.state, started)
        self.runner = StepRunner(self.task, self.ctx, self.net, train, self.state, self.log.say)
        self.remarks += frozen_lines(recipe, self.net, self.params)
        self.validator = Validator(self.task, self.ctx, self.net, self.val_set, self.runner.step.update, self.state)
        self.saver = Saver(self.ctx, self.state, data, self.parameters, self.log.say)
        self.resume = Resume(self.task, self.ctx, data, len(self.val_set), self.log.say)
        self.stop_signal = StopSignal()

    def train(self) -> dict[str, Any]:
        """Train, validate, save, epoch by epoch; the result row.

        A run that is finished already is told of, and left as it is.
        """
        self.announce()
        folder, is_main = self.log.folder, self.ctx.device.is_main
        with checkpoint.run_lock(folder, self.log.say) if is_main else contextlib.nullcontext():
            found = self.resume.find(folder)
            if found is not None and self.resume.is_finished(found[2]):
                return result.show_finished(self.resume, found)
            if found is not None:
                self.restore(found)
            if is_main:
                self.log.prepare_files()
            self.compile()
            # signals last: MindSpore's summary starts processes, which would inherit the handlers and outlive the
            # signal that ends them
            kind = self.recipe.log.summary if is_main else "none"
            config, say = self.recipe.changed(), self.log.say
            with viewers.summary(kind, folder, config, say) as self.log.viewer, self.stop_signal.listening():
                scores = self.run_epochs()
            return self.finish(*scores)

    def announce(self) -> None:
        """The run in a few lines."""
        self.log.announce(self.datasets, self.params, self.remarks)

    def compile(self) -> None:
        """Build the training graph before the first batch is asked for."""
        self.runner.compile()

    def parameters(self) -> list[Parameter]:
        """Everything that the run changes."""
        return [*self.net.get_parameters(), *self.runner.step.state()]

    def restore(self, found: checkpoint.Found) -> None:
        """Continue from a checkpoint. UserError if it doesn't fit."""
        checkpoint.restore(self.parameters(), found)
        self.runner.step.update.trust_statistics()
        self.resume.continue_from(found, self.state)
        unscored = found[2].get("score") is None and not self.state.step_in_epoch
        self.state.validation_due = unscored and self.validator.is_due(self.state.epoch)
        self.saver.checkpoints.register_existing(self.state.epoch)

    def run_epochs(self) -> Scores:
        """The epochs that are left; the last scores.

        Each is saved before it is validated: whatever a validation meets, no training is lost.
        """
        state, chosen = self.state, self.ctx.device
        with console.Progress(
            state.total_steps, state.epochs, self.recipe.log.log_interval, chosen.is_main, state.global_step
        ) as progress:
            if state.validation_due:
                scores = self.validate_epoch(state.epoch, progress)
                if ends_early(self.recipe, self.state, self.log.say):
                    return scores
            for epoch in range(state.epoch, state.epochs):
                self.run_epoch(epoch, progress)
                check_agreement(self.net, self.ctx.device, epoch + 1)
                stopping = self.runner.is_stopping(self.stop_signal)
                self.saver.after_epoch(epoch + 1, self.validator.is_due(epoch + 1), stopping)
                if stopping:
                    raise self.saver.interrupted(self.stop_signal.number, f"after epoch {epoch + 1}")
                if self.validator.is_due(epoch + 1):
                    scores = self.validate_epoch(epoch + 1, progress)
                    if ends_early(self.recipe, state, self.log.say):
                        break
        return scores

    def run_epoch(self, epoch: int, progress: console.Progress) -> None:
        """The steps of an epoch that are not yet done."""
        state, step = self.state, self.runner.step
        for values in self.runner.train_steps(self.stop_signal, self.saver.is_due):
            skipped = state.stats.skipped if step.skips_nonfinite else None
            progress.update(epoch, progress_values(values, step.scaler.enabled, skipped))
            if state.global_step % self.recipe.log.log_interval == 0:
                self.log.viewer(state.global_step, values)
            # the epoch's own checkpoint comes after its last step
            if state.step_in_epoch and not self.runner.in_flight:
                stopping = self.runner.is_stopping(self.stop_signal)
                self.saver.after_step(stopping)
                if stopping:
                    raise self.saver.interrupted(self.stop_signal.number, f"after step {state.global_step}")
        state.epoch_end = {"loss": state.stats.close(), **{f"last {key}": value for key, value in values.items()}}

    def validate_epoch(self, epoch: int, progress: console.Progress) -> Scores:
        """The scores after `epoch` epochs: shown, logged and, if they are the best or the last, saved with the
        weights.
        """
        progress.hide()
        # several ranks end a validation together
        after_batch = self.stop_validating if self.ctx.device.ranks == 1 else None
        scores, state = self.validator.measure(after_batch), self.state
        self.log.log_epoch(epoch, *scores, self.datasets)
        leader = leading(*scores)
        better = state.best is None or state.best.is_beaten_by(leader)
        if better:
            state.best = Best.of(leader, epoch, self.saver.data.val)
        self.saver.after_validation(epoch, scores, better)
        return scores

    def stop_validating(self) -> None:
        """End a validation of a run that was asked to stop, if what it measures is saved."""
        if self.stop_signal and self.state.saved_step == self.state.global_step:
            moment = f"while validating after epoch {self.state.epoch}"
            raise self.saver.interrupted(self.stop_signal.number, moment)

    def finish(self, score: Any, average: Optional[Any]) -> dict[str, Any]:
        """The result's row: shown, as JSON beside the checkpoints, and appended to the results."""
        seconds, bad = time.time() - self.log.started, len(self.datasets[0].bad)
        outcome = result.Outcome(score, average, self.state.best, self.state.checkpoint, bad, self.params, seconds)
        row = result.row(self.task, self.ctx, self.runner.meter, outcome, self.config)
        if self.ctx.device.is_main:
            result.keep(row, self.task.metrics, outcome, self.recipe)
        return row


def check_agreement(net: nn.Cell, chosen: device.Device, epoch: int) -> None:
    """TrainingFailed unless all ranks hold the same weights after so many epochs."""
    if not distributed.agree(net, chosen.ranks):
        raise TrainingFailed(
            f"after epoch {epoch} rank {chosen.rank} holds other weights than the others: the run stops before it "
            "saves them (one network and one seed on all ranks? a fault of a device?)"
        )


def ends_early(recipe: Recipe, state: TrainState, say: Say) -> bool:
    """Whether the recipe's patience is at an end after a validation; a line says so."""
    patience = recipe.schedule.patience
    if state.epoch >= state.epochs or state.best is None or not state.is_stale(patience):
        return False
    say(
        f"the run ends early, after {state.epoch} of {state.epochs} epochs: no validation was better than that after "
        f"epoch {state.best.epoch} (patience {patience})"
    )
    return True


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
    """Try `recipe`: build, compile, take a few steps on real images, say what they need. Nothing is written."""
    trainer = Trainer(recipe)
    trainer.announce()
    trainer.compile()
    list(itertools.islice(trainer.runner.train_steps(trainer.stop_signal, trainer.saver.is_due), DRY_STEPS))
    meter = trainer.runner.meter
    seconds = trainer.state.total_steps * meter.ms_per_step / 1000
    trainer.log.say(
        f"dry run: {meter.ms_per_step:.1f} ms/step, {meter.images_per_second:.1f} img/s over all devices, "
        f"{device.memory(trainer.ctx.device.target)}; the whole run's steps would take {console.duration(seconds)}"
    )
