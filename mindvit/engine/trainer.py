"""Training: the story of a run."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import itertools
import math
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindvit.data.classes import open_ordered
from mindvit.data.loader import Batch, steps_per_epoch, train_batches
from mindvit.data.sources import check_same_classes, open_source, passed_over, remarks
from mindvit.engine import checkpoint, result
from mindvit.engine.compile_cache import compile_step
from mindvit.engine.evaluate import Best, Score, best_of, evaluate
from mindvit.engine.meter import Meter
from mindvit.engine.setup import build, check_teacher, kept_head, prepare, sized, starting_weights, train_step
from mindvit.engine.step import random_draws
from mindvit.errors import Stopped, UserError
from mindvit.layers.precision import set_precision
from mindvit.optim.schedule import learning_rate, schedule_lines
from mindvit.recipe.commandline import describe
from mindvit.recipe.schema import Recipe
from mindvit.runtime import console, device, distributed, files, interrupts
from mindvit.tasks.classification.task import ClassificationTask
from mindvit.version import __version__
from mindvit.weights.sets import EMA, MODEL

# keys that may change from one start of a run to the next without changing what it computes
UNIMPORTANT = (
    "data_dir",
    "classes",
    "num_parallel_workers",
    "pretrained",
    "ckpt_path",
    "new_head",
    "take",
    "teacher_ckpt_path",
    "teacher_take",
    "device_target",
    "mode",
    "jit_level",
    "compile_cache",
    "distribute",
    "ckpt_save_dir",
    "ckpt_save_interval",
    "ckpt_save_steps",
    "keep_checkpoint_max",
    "resume",
    "val_while_train",
    "val_interval",
    "log_interval",
    "chance_epochs",
    "summary",
    "results_csv",
)
DRY_STEPS = 5
FIGURES = ("loss", "lr", "norm", "scale", "img/s", "data wait")  # of a step, as a log shows them
NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", 0: "another rank"}
Scores = tuple[Score, Optional[Score]]  # of the weights and, with ema, of their moving average


class TrainingFailed(UserError):
    """The run can't go on: the loss is no number any more."""

    exit_code = 1


class Interrupted(Stopped):
    """The run was asked to end, by the signal `number` (0: on another rank), and `path` holds where it is, as `moment`
    says.
    """

    def __init__(self, number: int, moment: str, path: Path, resume: str):
        command = "the same command" + (f" with --resume {path}" if resume != "auto" else "")
        super().__init__(f"stopped by {NAMES[number]} {moment}; saved in {path}: {command} resumes")
        self.exit_code = 128 + (number or signal.SIGTERM)  # as shells count it


class Run:
    """One training run: the compiled steps, the data, and what is known so far."""

    def __init__(self, recipe: Recipe, config: Optional[str]):
        self.started = time.time()
        recipe = sized(recipe)  # a misspelt name or a wrong size is told before a million files are listed
        console.check_viewer(recipe.log.summary)
        check_teacher(recipe.distill)
        weights = starting_weights(recipe)
        self.remarks: list[str] = []  # on the order of the classes
        self.train = open_ordered(
            recipe.data, "train", kept_head(recipe, weights), self.remarks.append, recipe.model.num_classes
        )
        self.val = open_source(recipe.data, "val", self.train.class_names)
        check_same_classes(self.train, self.val)
        self.setting = prepare(recipe, self.train)
        self.recipe, self.device, self.config = recipe, self.setting.device, config
        self.parts = recipe.optim.gradient_accumulation_steps
        self.steps = steps_per_epoch(self.train, recipe.data, self.device.ranks, self.parts)
        self.net = build(self.setting, resize=True, weights=weights)
        distributed.same_weights(self.net, self.device.ranks)
        self.folder = Path(recipe.checkpoint.ckpt_save_dir)
        self.keeper = checkpoint.Keeper(self.folder, recipe.model.model, recipe.checkpoint.keep_checkpoint_max)
        self.meter = Meter(recipe.data.batch_size * self.device.ranks * self.parts)
        self.params = sum(item.size for item in self.net.trainable_params())
        self.commonest = int(np.bincount(self.val.labels).max())
        self.fingerprint, self.val_fingerprint = self.train.fingerprint(), self.val.fingerprint()
        self.path: Optional[Path] = None  # the last checkpoint
        self.best: Optional[Best] = None
        self.best_weights = MODEL  # which scored better in the last validation
        self.at, self.saved_at, self.asked = 0, -1, 0  # steps done, those in the last checkpoint, signal
        self.tally = Tally()
        self.ended: dict[str, float] = {}  # mean loss of the last epoch, and the figures of its last step
        self.owed = False  # a validation that was due before the run was cut off
        self.task = ClassificationTask()
        set_precision(self.net, self.device.amp_level, self.device.half)
        self.net.set_train(True)
        self.step = train_step(self.net, self.setting)
        self.eval_step = self.task.predict(self.net, self.setting)

    def say(self, text: str) -> None:
        """Print on the main rank."""
        if self.device.is_main:
            console.say(text)

    def compile(self) -> None:
        """Build the training graph before the first batch is asked for."""
        if self.recipe.runtime.mode == 0 and self.at < self.steps * self.recipe.schedule.epoch_size:
            self.say("compiling the training step ...")
            values = {key: value for key, value in self.recipe.flat().items() if key not in UNIMPORTANT}
            inputs = [Tensor(item) for item in self.step.spec(self.task.spec(self.setting)).inputs()]
            start = time.perf_counter()
            with console.heartbeat("still compiling", self.device.is_main), interrupts.taken_by(interrupts.leave):
                kept = compile_step(self.step, inputs, self.setting, values)
            self.meter.compile_seconds = time.perf_counter() - start
            self.say(f"compiled in {self.meter.compile_seconds:.1f} s{' (from the cache)' if kept else ''}")
        set_precision(self.net, self.device.val_amp_level, self.device.half)

    def find(self) -> Optional[checkpoint.Found]:
        """The checkpoint that the recipe says to resume: the newest in the run's folder, a file, or none.

        UserError if it is another run's.
        """
        wanted = self.recipe.checkpoint.resume
        if wanted == "none":
            return None
        found = (
            checkpoint.newest(self.folder, self.recipe.model.model, self.say)
            if wanted == "auto"
            else checkpoint.of_file(wanted)
        )
        if found is None:
            return None
        path, _, meta = found
        if meta["model"] != self.setting.info.name:
            raise UserError(
                f"{path} is a checkpoint of {meta['model']}, but the recipe's model is {self.setting.info.name} "
                "(--resume none starts anew)"
            )
        if meta["data"] != self.fingerprint:
            raise UserError(
                f"the training images are not those that {path} was trained with: another number, other names or "
                "other classes "
                f"(--resume none starts anew; --ckpt_path {path} takes its weights alone)"
            )
        return found

    def resume(self, found: checkpoint.Found) -> None:
        """Continue from a checkpoint. UserError if it doesn't fit."""
        path, _, meta = found
        checkpoint.restore(self.state(), found)
        self.step.update.trust_statistics()
        self.at, self.tally, self.path = meta["step"], Tally(**meta["tally"]), path
        self.best_weights = meta.get("best_weights", MODEL)
        if (
            meta["images"] != self.meter.images
        ):  # another batch over all cards: its steps can't be counted in the old ones
            if meta["step"] % meta["steps"]:
                raise UserError(
                    f"{path} was saved within an epoch with {meta['images']} images a step, and there are "
                    f"{self.meter.images} now: go on "
                    f"with as many, or from an epoch's checkpoint, --resume FILE"
                )
            self.at = meta["step"] // meta["steps"] * self.steps
        self.saved_at, self.best = self.at, self.known_best(meta)
        epoch, inside = divmod(self.at, self.steps)
        self.ended = meta.get("epoch_end") or {}
        if inside and epoch >= self.recipe.schedule.epoch_size:
            raise UserError(
                f"{path} was saved within epoch {epoch + 1}, but epoch_size is "
                f"{self.recipe.schedule.epoch_size}: "
                f"give a larger one, or resume from an epoch's checkpoint, --resume FILE"
            )
        self.owed = meta.get("score") is None and not inside and self.is_due(epoch)
        self.keeper.adopt(epoch)
        changed = ", ".join(self.changed(meta))
        self.say(
            f"going on from {path}: epoch {epoch}, step {inside} of {self.steps}"
            + (f"; other values than there: {changed}" if changed else "")
        )

    def changed(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """The keys that matter and have another value than a checkpoint's recipe, with the value there."""
        there = meta["recipe"]
        # an earlier mindvit left sizes open; that the tensors fit says that they are the same
        sizes = ("image_resize", "img_size") if there.get("image_resize") in (None, self.setting.size) else ()
        unimportant = (*UNIMPORTANT, *sizes)
        return {
            key: there.get(key)
            for key, value in self.recipe.flat().items()
            if key not in unimportant and list_or_value(value) != there.get(key)
        }

    def known_best(self, meta: Mapping[str, Any]) -> Optional[Best]:
        """The best score of a checkpoint; none, with a line, if it was measured on other images than today's."""
        best = best_of(meta, len(self.val))
        if best is None or (best.count == len(self.val) and best.data in ("", self.val_fingerprint)):
            return best
        self.say(
            f"the best score so far, {best.top1:.2f} % of {best.count} validation images, was measured on others "
            f"than the {len(self.val)} of now: the best starts anew"
        )
        return None

    def is_due(self, epoch: int) -> bool:
        """Whether the run validates after that many epochs."""
        shown = self.recipe.log
        usual = shown.val_while_train and epoch > 0 and epoch % shown.val_interval == 0
        return usual or epoch >= self.recipe.schedule.epoch_size

    def state(self) -> list[ms.Parameter]:
        """Everything that the run changes."""
        return [*self.net.get_parameters(), *self.step.state()]

    def fit(self) -> dict[str, Any]:
        """Train, validate, save, epoch by epoch; the result row.

        A run that is finished already is told of, and left as it is.
        """
        self.describe()
        with checkpoint.own_folder(self.folder, self.say) if self.device.is_main else contextlib.nullcontext():
            found = self.find()
            if found is not None and self.is_finished(found[2]):
                return self.show_finished(found)
            if found is not None:
                self.resume(found)
            if self.device.is_main:
                self.prepare_files()
            self.compile()
            # signals last: MindSpore's summary starts processes, which would inherit the handlers and outlive the
            # signal that ends them
            kind = self.recipe.log.summary if self.device.is_main else "none"
            with console.summary(kind, self.folder, self.say) as self.viewer, signals(self.ask_to_stop):
                score, average = self.epochs()
            return self.finish(score, average)

    def prepare_files(self) -> None:
        """Write what a run leaves before its first step, and see that the rest can be written.

        The recipe of weights that are trained already stays as it is. UserError, while nothing is lost yet, if it
        can't.
        """
        console.check_csv(Path(self.recipe.log.results_csv), "results_csv")
        recipe = self.folder / "recipe.yaml"
        try:
            if self.at < self.steps * self.recipe.schedule.epoch_size or not recipe.exists():
                files.write_text(recipe, f"# {result.versions()}\n{describe(self.recipe)}\n")
            console.cut_csv(self.folder / "log.csv", self.at // self.steps - self.owed)
        except OSError as error:
            raise checkpoint.cannot_write(self.folder, error) from None

    def is_finished(self, meta: Mapping[str, Any]) -> bool:
        """Whether a checkpoint is the end of a run as long as this one, and is validated."""
        whole, inside = divmod(meta["step"], meta["steps"])
        return not inside and whole >= self.recipe.schedule.epoch_size and meta.get("score") is not None

    def show_finished(self, found: checkpoint.Found) -> dict[str, Any]:
        """Say that a run is finished and what it reached.

        Returned is the row of result.json or, without that, what the checkpoint knows.
        """
        path, _, meta = found
        score, file = Score(**meta["score"]), path.with_name("result.json")
        self.say(
            f"the run is finished: {path} has {meta['step'] // meta['steps']} epochs of "
            f"{self.recipe.schedule.epoch_size}; nothing is trained or written "
            f"(a larger epoch_size continues it, --resume none or another ckpt_save_dir starts anew)"
        )
        changed = [f"{key} ({there} there)" for key, there in self.changed(meta).items()]
        if changed:
            self.say(f"WARNING: other values than the finished run's, without effect on it: {', '.join(changed)}")
        if meta.get("val_data", self.val_fingerprint) != self.val_fingerprint:
            self.say(
                f"WARNING: the validation images are others than the finished run's: validate.py --ckpt_path "
                f"{path} measures on them"
            )
        row = result.read(file)
        if row is None or row["top1"] != round(score.top1, 2):  # of another run in this folder
            self.say(f"{path}  {score}")
            return {
                "model": meta["model"],
                "top1": round(score.top1, 2),
                "top5": round(score.top5, 2),
                "checkpoint": str(path),
            }
        self.say(f"\n{result.tables(row)}\n\ncheckpoint: {row['checkpoint']}")
        return row

    def dry_run(self) -> None:
        """Compile, take a few steps on real images, say what they need. Nothing is written."""
        self.describe()
        self.compile()
        list(itertools.islice(self.stepped(0), DRY_STEPS))
        whole = self.steps * self.recipe.schedule.epoch_size * self.meter.ms_per_step / 1000
        self.say(
            f"dry run: {self.meter.ms_per_step:.1f} ms/step, {self.meter.images_per_second:.1f} img/s over "
            "all cards, "
            f"{device.memory(self.device.target)}; the whole run's steps would take {console.duration(whole)}"
        )

    def epochs(self) -> Scores:
        """The epochs that are left; the last scores.

        Each is saved before it is validated: whatever a validation meets, no training is lost.
        """
        whole = self.recipe.schedule.epoch_size
        with console.Progress(
            self.steps * whole, whole, self.recipe.log.log_interval, self.device.is_main, self.at
        ) as progress:
            if self.owed:
                scores = self.validated(self.at // self.steps, progress)
            for epoch in range(self.at // self.steps, whole):
                self.ended = {
                    "loss": self.train_epoch(epoch, progress),
                    **{f"last {key}": value for key, value in self.last.items()},
                }
                if not distributed.agree(self.net, self.device.ranks):
                    raise TrainingFailed(
                        f"after epoch {epoch + 1} rank {self.device.rank} holds other weights than the others: the "
                        "run stops before it "
                        f"saves them (one network and one seed on all ranks? a fault of a card?)"
                    )
                self.save_epoch(epoch + 1)
                if self.is_due(epoch + 1):
                    scores = self.validated(epoch + 1, progress)
        return scores

    def save_epoch(self, epoch: int) -> None:
        """What is trained is saved before it is validated; a run that was asked to stop ends here."""
        stopping = self.step.is_stopping(self.asked > 0)
        last = epoch == self.recipe.schedule.epoch_size
        if self.device.is_main and (last or epoch % self.recipe.checkpoint.ckpt_save_interval == 0):
            self.try_to_save(lambda: self.keeper.save(epoch, self.state(), self.meta()), last or stopping)
        elif self.device.is_main and (stopping or self.is_due(epoch)):
            self.try_to_save(lambda: self.keeper.save_within(self.state(), self.meta()), stopping)
        if stopping:
            raise self.interrupted(f"after epoch {epoch}")

    def validated(self, epoch: int, progress: console.Progress) -> Scores:
        """The scores after `epoch` epochs: shown, logged and, if they are the best or the last, saved with the
        weights.
        """
        progress.hide()
        scores = self.validate()
        self.note(epoch, *scores)
        leader = max((item for item in scores if item), key=lambda item: item.correct1)
        better = self.best is None or self.best.is_beaten_by(leader)
        if better:
            self.best = Best(leader.correct1, leader.count, epoch, self.val_fingerprint)
        if self.device.is_main and (better or epoch >= self.recipe.schedule.epoch_size):
            save = self.keeper.save_best if better else self.keeper.save
            self.try_to_save(lambda: save(epoch, self.state(), self.meta(scores)), False)
        return scores

    def ask_to_stop(self, number: int) -> None:
        """What a signal asks for: end after the step that is running."""
        self.asked = number

    def interrupted(self, moment: str) -> Interrupted:
        """The end of a run that was asked to stop and is saved."""
        return Interrupted(self.asked, moment, self.path or self.keeper.within, self.recipe.checkpoint.resume)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """This rank's batches of the epoch's steps that are not yet done; every wait for one is noted."""
        recipe, setting, done = self.recipe, self.setting, self.at % self.steps
        batches = train_batches(
            self.train,
            recipe.data,
            recipe.augment,
            size=setting.size,
            interpolation=setting.interpolation,
            mean=setting.statistics[0],
            epoch=epoch,
            seed=recipe.runtime.seed,
            ranks=self.device.ranks,
            rank=self.device.rank,
            workers=setting.workers,
            first=done * self.parts,
        )
        return self.meter.waiting(itertools.islice(batches, (self.steps - done) * self.parts))

    def take(self, batch: Batch, part: int) -> tuple[float, tuple[Tensor, ...]]:
        """The `part`-th batch of the next step through the compiled graph; the learning rate and what the graph
        gives.
        """
        recipe = self.recipe
        lr = learning_rate(
            self.at, schedule=recipe.schedule, steps_per_epoch=self.steps, global_batch=self.meter.images
        )
        draws = random_draws(self.task, self.setting, self.step, self.at * self.parts + part)
        return lr, self.step(*map(Tensor, (*batch, *draws)), Tensor(lr, ms.float32))

    def stepped(self, epoch: int) -> Iterator[dict[str, float]]:
        """Take an epoch's steps that are not yet done; after each, the figures that a log shows."""
        self.net.set_train(True)
        began = time.perf_counter()
        for number, batch in enumerate(self.batches(epoch)):
            lr, outputs = self.take(batch, number % self.parts)
            if (number + 1) % self.parts:
                continue
            loss, norm, scale = (float(output.asnumpy()) for output in outputs)
            self.judge(loss, norm, scale)
            self.at += 1
            now = time.perf_counter()
            self.meter.step(now - began)
            began = now
            yield {
                "loss": self.tally.recent,
                "lr": lr,
                "norm": norm,
                "scale": scale,
                "img/s": self.meter.recent_images_per_second,
                "data wait": self.meter.wait_share,
            }

    def train_epoch(self, epoch: int, progress: console.Progress) -> float:
        """The steps of an epoch that are not yet done; the mean loss of all."""
        for values in self.stepped(epoch):
            self.last = values
            progress.update(epoch, self.line(values))
            if self.at % self.recipe.log.log_interval == 0:
                self.viewer(self.at, values)
            self.pause()
        return self.tally.close()

    def pause(self) -> None:
        """What may be due between two steps of an epoch: a checkpoint, and the end of a run that was asked to stop."""
        if self.asked:
            self.step.ask_to_stop()
        inside = self.at % self.steps > 0
        if not inside:  # save_epoch comes next
            return
        stopping = self.step.is_stopping(self.asked > 0)
        due = self.recipe.checkpoint.ckpt_save_steps
        if self.device.is_main and (stopping or (due and self.at % due == 0)):
            self.try_to_save(lambda: self.keeper.save_within(self.state(), self.meta()), stopping)
        if stopping:
            raise self.interrupted(f"after step {self.at}")

    def stop_validating(self) -> None:
        """End a validation of a run that was asked to stop, if what it measures is saved."""
        if self.asked and self.saved_at == self.at:
            raise self.interrupted(f"while validating after epoch {self.at // self.steps}")

    def try_to_save(self, write: Callable[[], Path], needed: bool) -> None:
        """A checkpoint, if it can be written; a run that isn't at its end goes on without it, loudly."""
        try:
            self.path = write()
            self.saved_at = self.at
        except checkpoint.NotSaved as error:
            if needed:
                raise
            self.say(f"WARNING: {error}; the run goes on, and would go on again from {self.path or 'the beginning'}")

    def line(self, values: dict[str, float]) -> dict[str, str]:
        """What a progress line shows."""
        shown = {
            "loss": f"{values['loss']:.4f}",
            "lr": f"{values['lr']:.2e}",
            "norm": f"{values['norm']:.2f}",
            "img/s": f"{values['img/s']:.0f}",
            "data wait": f"{100 * values['data wait']:.0f} %",
        }
        if self.step.scaler.enabled:
            shown["scale"] = f"{values['scale']:.0f}"
        if self.step.skips_nonfinite:
            shown["skipped"] = str(self.tally.skipped)
        return shown

    def judge(self, loss: float, norm: float, scale: float) -> None:
        """Count a step; stop at a loss or a gradient that is no number, unless the step was left out and may be."""
        finite = math.isfinite(loss) and math.isfinite(norm)
        self.tally.add(loss, finite)
        if finite or (
            self.step.scaler.dynamic and math.isfinite(loss) and scale > 1
        ):  # a gradient that overflows is what the dynamic scale is for
            return
        self.tally.bad_in_a_row += 1
        allowed, what = self.recipe.precision.skip_nonfinite, f"step {self.at + 1}: loss {loss}, gradient norm {norm}"
        if self.tally.bad_in_a_row > allowed:
            raise TrainingFailed(
                f"{what}: the run has diverged and stops; the last checkpoint in {self.folder} is untouched "
                f"(a lower lr, a longer warm-up or clip_grad: True may help)"
            )
        self.say(f"WARNING: {what}: step left out, number {self.tally.bad_in_a_row} of at most {allowed} in a row")

    def validate(self) -> Scores:
        """Scores of the weights and, with ema, of their average."""
        between = self.stop_validating if self.device.ranks == 1 else None  # several ranks end a validation together
        score = evaluate(self.net, self.eval_step, self.val, self.setting, between=between)
        if not self.recipe.optim.ema:
            return score, None
        self.step.update.swap_ema()
        average = evaluate(
            self.net, self.eval_step, self.val, self.setting, what="validating the moving average", between=between
        )
        self.step.update.swap_ema()
        self.best_weights = EMA if average.correct1 > score.correct1 else MODEL
        return score, average

    def note(self, epoch: int, score: Score, average: Optional[Score]) -> None:
        """One line on the screen and one in the run's CSV."""
        loss, last = self.ended.get("loss", math.nan), {key: self.ended.get(f"last {key}", math.nan) for key in FIGURES}
        whole = self.recipe.schedule.epoch_size
        self.say(
            f"epoch {epoch}/{whole}  train loss {loss:.4f}  {score}"
            + (f"  ema {average}" if average else "")
            + (f"  {len(self.train.bad)} bad images" if self.train.bad else "")
        )
        if epoch >= self.recipe.log.chance_epochs and score.is_guessing(self.setting.num_classes, self.commonest):
            self.say(
                f"WARNING: after {epoch} epochs top-1 is {score.top1:.2f} %, no better than guessing one of "
                f"{self.setting.num_classes} classes: "
                f"the network doesn't learn (labels, lr, normalisation, or pretrained weights may be wrong)"
            )
        if not self.device.is_main:
            return
        empty = dict.fromkeys(("loss", "top1", "top5"), "")
        row: dict[str, Any] = {
            "epoch": epoch,
            "step": self.at,
            "lr": f"{last['lr']:.6g}",
            "train_loss": f"{loss:.6f}",
            "val_loss": f"{score.loss:.6f}",
            "top1": f"{score.top1:.4f}",
            "top5": f"{score.top5:.4f}",
            **{f"ema_{key}": f"{getattr(average, key):.6f}" if average else value for key, value in empty.items()},
            "norm": f"{last['norm']:.4f}",
            "loss_scale": f"{last['scale']:.0f}",
            "skipped": self.tally.skipped,
            "img_s": f"{last['img/s']:.1f}",
            "data_wait": f"{last['data wait']:.4f}",
            "elapsed_s": f"{time.time() - self.started:.1f}",
            "time": result.now(),
        }
        try:
            console.append_csv(self.folder / "log.csv", row)
        except OSError as error:
            self.say(f"WARNING: {self.folder / 'log.csv'} can't be written: {error.strerror}")
        self.viewer(
            self.at,
            {
                key: float(value)
                for key, value in row.items()
                if key in ("val_loss", "top1", "top5", "ema_top1") and value != ""
            },
        )

    def meta(self, scores: Optional[Scores] = None) -> dict[str, Any]:
        """What a checkpoint says beside its tensors: the network, and where the run is; `scores` once its weights are
        validated.
        """
        score, average = scores or (None, None)
        return {
            "model": self.setting.info.name,
            "num_classes": self.setting.num_classes,
            "class_names": list(self.train.class_names),
            "epoch": self.at // self.steps,
            "step": self.at,
            "steps": self.steps,
            "images": self.meter.images,
            "best": dataclasses.asdict(self.best) if self.best else None,
            "tally": dataclasses.asdict(self.tally),
            "data": self.fingerprint,
            "val_data": self.val_fingerprint,
            "score": dataclasses.asdict(score) if score else None,
            "ema_score": dataclasses.asdict(average) if average else None,
            "best_weights": self.best_weights,
            "epoch_end": None if self.at % self.steps else self.ended,
            "recipe": self.recipe.flat(),
            "mindvit": __version__,
            "mindspore": ms.__version__,
        }

    def describe(self) -> None:
        """The run in a few lines, before it starts."""
        data = self.recipe.data
        self.say(
            f"model: {self.setting.info.name}, {self.params / 1e6:.2f} M parameters, {self.setting.size} px, "
            f"{self.setting.num_classes} classes"
        )
        parts = f" x {self.parts} batches" if self.parts > 1 else ""
        for line in self.remarks:
            self.say(line)
        self.say(
            f"data: {data.dataset}{' in ' + data.data_dir if data.data_dir else ''}, {len(self.train)} training and "
            f"{len(self.val)} validation images; "
            f"{self.steps} steps of {data.batch_size} x {self.device.ranks}{parts} an epoch, "
            f"{self.recipe.schedule.epoch_size} epochs"
            + passed_over((data.train_split, self.train), (data.val_split, self.val))
        )
        for line in remarks(self.train):
            self.say(f"WARNING: {line}")
        for line in schedule_lines(self.recipe.schedule, self.meter.images):
            self.say(line)

    def finish(self, score: Score, average: Optional[Score]) -> dict[str, Any]:
        """The result's row: shown, as JSON beside the checkpoints, and appended to the results."""
        outcome = result.Outcome(
            score, average, self.best, self.path, len(self.train.bad), self.params, time.time() - self.started
        )
        row = result.row(self.setting, self.meter, outcome, self.config)
        if self.device.is_main:
            console.say(
                f"\n{result.tables(row)}\n"
                + (f"\nmoving average: {average}" if average else "")
                + f"\ncheckpoint: {self.path}\n"
            )
            for path, write in (
                (self.folder / "result.json", console.write_json),
                (Path(self.recipe.log.results_csv), console.append_csv),
            ):
                try:
                    write(path, row)
                except (OSError, csv.Error) as error:  # the weights are trained and saved
                    console.say(f"WARNING: {path} can't be written: {console.first_line(error)}")
        return row


@dataclasses.dataclass
class Tally:
    """The losses of an epoch so far, and the steps that were left out because something was no number."""

    loss: float = 0.0
    counted: int = 0
    skipped: int = 0
    bad_in_a_row: int = 0
    newest: list[float] = dataclasses.field(default_factory=list)

    def add(self, loss: float, finite: bool) -> None:
        """One more step."""
        if not finite:
            self.skipped += 1
            return
        self.loss, self.counted, self.bad_in_a_row = self.loss + loss, self.counted + 1, 0
        self.newest = [*self.newest[-19:], loss]

    @property
    def recent(self) -> float:
        """Mean of the last twenty losses of the epoch."""
        return float(np.mean(self.newest)) if self.newest else math.nan

    def close(self) -> float:
        """The epoch's mean loss; the next one begins."""
        mean = self.loss / self.counted if self.counted else math.nan
        self.loss, self.counted, self.newest = 0.0, 0, []
        return mean


def list_or_value(value: Any) -> Any:
    """A recipe's value as JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


@contextlib.contextmanager
def signals(handler: Callable[[int], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call `handler` the first time and do what they did before from then on."""
    if threading.current_thread() is not threading.main_thread():  # Python lets only that one handle signals
        yield
        return
    # SIGINT: in a command, a thread waits for it; in somebody else's program Python's own handler stands beside
    # MindSpore's
    numbers = (signal.SIGTERM,) if interrupts.listening() else (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def once(number: int, _: Any) -> None:
        signal.signal(number, before[signal.Signals(number)])
        handler(number)

    for number in before:
        signal.signal(number, once)
    try:
        with interrupts.taken_by(lambda: handler(signal.SIGINT)):
            yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def fit(recipe: Recipe, config: Optional[str] = None) -> dict[str, Any]:
    """Train as `recipe` says; the result row. `config` is the recipe's file, for the row."""
    return Run(recipe, config).fit()


def dry_run(recipe: Recipe) -> None:
    """Try `recipe`: build, compile, a few steps; prints time and memory, writes nothing."""
    Run(recipe, None).dry_run()
