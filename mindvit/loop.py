"""Training: the story of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindvit import checkpoint, device, graphs, log, parallel, result
from mindvit.commandline import describe
from mindvit.data.mixing import draw
from mindvit.data.pipeline import Batch, steps_per_epoch, train_batches
from mindvit.data.sources import check_same_classes, open_source
from mindvit.errors import UserError
from mindvit.evaluation import Score, evaluate
from mindvit.layers.basic import set_precision
from mindvit.meter import Meter
from mindvit.optim import learning_rate, schedule_lines
from mindvit.recipe import Recipe
from mindvit.setting import build, check_teacher, prepare, sized, train_step
from mindvit.step import EvalStep, first_inputs
from mindvit.version import __version__

# keys that may change from one start of a run to the next without changing what it computes
UNIMPORTANT = ("data_dir", "num_parallel_workers", "pretrained", "ckpt_path", "new_head", "take", "teacher_ckpt_path", "device_target", "mode", "jit_level",
               "compile_cache", "distribute", "ckpt_save_dir", "ckpt_save_interval", "ckpt_save_steps", "keep_checkpoint_max", "resume", "val_while_train",
               "val_interval", "log_interval", "chance_epochs", "summary", "results_csv")
DRY_STEPS = 5


class TrainingFailed(UserError):
    """The run can't go on: the loss is no number any more."""

    exit_code = 1


class Interrupted(UserError):
    """The run was asked to end, by Ctrl-C or SIGTERM, and has saved where it is."""

    def __init__(self, text: str, number: int):
        super().__init__(text)
        self.exit_code = 128 + number  # as shells count it


class Run:
    """One training run: the compiled steps, the data, and what is known so far."""

    def __init__(self, recipe: Recipe, config: Optional[str]):
        self.started = time.time()
        recipe = sized(recipe)  # a misspelt name or a wrong size is told before a million files are listed
        check_teacher(recipe.distill)
        self.train = open_source(recipe.data, "train")
        self.val = open_source(recipe.data, "val", self.train.class_names)
        check_same_classes(self.train, self.val)
        self.setting = prepare(recipe, self.train)
        self.recipe, self.device, self.config = recipe, self.setting.device, config
        self.parts = recipe.optim.gradient_accumulation_steps
        self.steps = steps_per_epoch(self.train, recipe.data, self.device.ranks, self.parts)
        self.net = build(self.setting, resize=True)
        parallel.same_weights(self.net, self.device.ranks)
        self.folder = Path(recipe.checkpoint.ckpt_save_dir)
        self.keeper = checkpoint.Keeper(self.folder, recipe.model.model, recipe.checkpoint.keep_checkpoint_max)
        self.meter = Meter(recipe.data.batch_size * self.device.ranks * self.parts)
        self.params = sum(item.size for item in self.net.trainable_params())
        self.commonest = int(np.bincount(self.val.labels).max())
        self.fingerprint = self.train.fingerprint()
        self.path: Optional[Path] = None  # the last checkpoint
        self.best, self.at, self.asked = -1, 0, 0  # best count of right answers, steps done, signal
        self.tally = Tally()
        mean, std = self.setting.statistics
        set_precision(self.net, self.device.amp_level, self.device.half)
        self.net.set_train(True)
        self.step = train_step(self.net, self.setting)
        self.eval_step = EvalStep(self.net, mean, std)

    def say(self, text: str) -> None:
        """Print on the main rank."""
        if self.device.is_main:
            log.say(text)

    def compile(self) -> None:
        """Build the training graph before the first batch is asked for."""
        if self.recipe.runtime.mode == 0:
            self.say("compiling the training step ...")
            values = {key: value for key, value in self.recipe.flat().items() if key not in UNIMPORTANT}
            inputs = first_inputs(self.recipe.data.batch_size, self.setting.size, self.recipe.model.in_channels, self.step.paths)
            start = time.perf_counter()
            with log.heartbeat("still compiling", self.device.is_main):
                kept = graphs.compile_step(self.step, inputs, self.setting, values)
            self.meter.compile_seconds = time.perf_counter() - start
            self.say(f"compiled in {self.meter.compile_seconds:.1f} s{' (from the cache)' if kept else ''}")
        set_precision(self.net, self.device.val_amp_level, self.device.half)

    def resume(self) -> None:
        """Go on where the recipe says: at the newest checkpoint in the run's folder, at a file's, or at the beginning."""
        wanted = self.recipe.checkpoint.resume
        if wanted == "none":
            return
        found = checkpoint.newest(self.folder, self.recipe.model.model, self.say) if wanted == "auto" else checkpoint.of_file(wanted)
        if found is None:
            return
        path, _, meta = found
        if meta["model"] != self.setting.info.name:
            raise UserError(f"{path} is a checkpoint of {meta['model']}, but the recipe's model is {self.setting.info.name} (--resume none starts anew)")
        if meta["data"] != self.fingerprint:
            raise UserError(f"the training pictures are not those that {path} was trained with: another number, other names or other classes "
                            f"(--resume none starts anew; --ckpt_path {path} takes its weights alone)")
        checkpoint.restore(self.state(), found)
        self.step.settle()
        self.at, self.best, self.tally, self.path = meta["step"], meta["best"], Tally(**meta["tally"]), path
        if meta["pictures"] != self.meter.pictures:  # another batch over all cards: its steps can't be counted in the old ones
            if meta["step"] % meta["steps"]:
                raise UserError(f"{path} was saved within an epoch with {meta['pictures']} pictures a step, and there are {self.meter.pictures} now: go on "
                                f"with as many, or from an epoch's checkpoint, --resume FILE")
            self.at = meta["step"] // meta["steps"] * self.steps
        self.keeper.adopt(self.at // self.steps)
        # an earlier mindvit left sizes open; that the tensors fit says that they are the same
        sizes = ("image_resize", "img_size") if meta["recipe"].get("image_resize") in (None, self.setting.size) else ()
        changed = [key for key, value in self.recipe.flat().items()
                   if key not in (*UNIMPORTANT, *sizes) and list_or_value(value) != meta["recipe"].get(key)]
        self.say(f"going on from {path}: epoch {self.at // self.steps}, step {self.at % self.steps} of {self.steps}"
                 + (f"; other values than there: {', '.join(changed)}" if changed else ""))

    def state(self) -> list[ms.Parameter]:
        """Everything that the run changes."""
        return [*self.net.get_parameters(), *self.step.state()]

    def fit(self) -> dict[str, Any]:
        """Train, validate, save, epoch by epoch; the result row."""
        self.describe()
        resolved = f"# {result.versions()}\n{describe(self.recipe)}"
        with checkpoint.own_folder(self.folder, resolved) if self.device.is_main else contextlib.nullcontext():
            self.resume()
            if self.device.is_main:
                log.cut_csv(self.folder / "log.csv", self.at // self.steps)
            self.compile()
            # signals last: MindSpore's summary starts processes, which would inherit the handlers and outlive the signal that ends them
            with log.summary(self.recipe.log.summary if self.device.is_main else "none", self.folder) as self.viewer, signals(self.ask_to_stop):
                score, average = self.epochs()
            return self.finish(score, average)

    def dry_run(self) -> None:
        """Compile, take a few steps on real pictures, say what they need. Nothing is written."""
        self.describe()
        self.compile()
        list(itertools.islice(self.stepped(0), DRY_STEPS))
        whole = self.steps * self.recipe.schedule.epoch_size * self.meter.ms_per_step / 1000
        self.say(f"dry run: {self.meter.ms_per_step:.1f} ms/step, {self.meter.pictures_per_second:.1f} img/s over all cards, "
                 f"{device.memory(self.device.target)}; the whole run's steps would take {log.duration(whole)}")

    def epochs(self) -> tuple[Score, Optional[Score]]:
        """The epochs that are left; the last scores."""
        schedule, recipe = self.recipe.schedule, self.recipe
        progress = log.Progress(self.steps * schedule.epoch_size, schedule.epoch_size, recipe.log.log_interval, self.device.is_main, self.at)
        score = average = None
        for epoch in range(self.at // self.steps, schedule.epoch_size):
            loss = self.train_epoch(epoch, progress)
            score = average = None
            if not parallel.agree(self.net, self.device.ranks):
                raise TrainingFailed(f"after epoch {epoch + 1} rank {self.device.rank} holds other weights than the others: the run stops before it saves them "
                                     f"(one network and one seed on all ranks? a fault of a card?)")
            last = epoch + 1 == schedule.epoch_size
            if last or (recipe.log.val_while_train and (epoch + 1) % recipe.log.val_interval == 0):
                score, average = self.validate()
                self.note(epoch, loss, score, average)
            if self.device.is_main and (last or (epoch + 1) % recipe.checkpoint.ckpt_save_interval == 0):
                self.try_to_save(functools.partial(self.save, epoch + 1, score, average), last)
        progress.close()
        return (score, average) if score is not None else self.validate()  # nothing was left to train

    def ask_to_stop(self, number: int, _: Any) -> None:
        """A signal's handler: end after the step that is running."""
        self.asked = number
        self.step.ask_to_stop()

    def batches(self, epoch: int) -> Iterator[Batch]:
        """This rank's batches of the epoch's steps that are not yet done; every wait for one is noted."""
        recipe, setting, done = self.recipe, self.setting, self.at % self.steps
        batches = train_batches(self.train, recipe.data, recipe.augment, size=setting.size, interpolation=setting.interpolation,
                                mean=setting.statistics[0], epoch=epoch, seed=recipe.runtime.seed, ranks=self.device.ranks, rank=self.device.rank,
                                workers=setting.workers, first=done * self.parts)
        return self.meter.waiting(itertools.islice(batches, (self.steps - done) * self.parts))

    def take(self, batch: Batch, part: int) -> tuple[float, tuple[Tensor, ...]]:
        """The `part`-th batch of the next step through the compiled graph; the learning rate and what the graph gives."""
        recipe = self.recipe
        lr = learning_rate(self.at, schedule=recipe.schedule, steps_per_epoch=self.steps, global_batch=self.meter.pictures)
        chance = draw(recipe.augment, batch=len(batch.labels), size=self.setting.size, channels=batch.images.shape[-1], paths=self.step.paths,
                      seed=recipe.runtime.seed, step=self.at * self.parts + part, rank=self.device.rank)
        return lr, self.step(Tensor(batch.images), Tensor(batch.labels), *(Tensor(item) for item in chance), Tensor(lr, ms.float32))

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
            yield {"loss": self.tally.recent, "lr": lr, "norm": norm, "scale": scale, "img/s": self.meter.recent_pictures_per_second,
                   "data wait": self.meter.wait_share}

    def train_epoch(self, epoch: int, progress: log.Progress) -> float:
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
        stopping = self.step.is_stopping(self.asked > 0)
        inside = self.at % self.steps > 0
        due = self.recipe.checkpoint.ckpt_save_steps
        if inside and self.device.is_main and (stopping or (due and self.at % due == 0)):
            self.try_to_save(lambda: self.keeper.save_within(self.state(), self.meta(None)), stopping)
        if stopping and inside:  # at the end of an epoch it is validated and saved first
            raise Interrupted(f"stopped after step {self.at} ({signal.Signals(self.asked or signal.SIGTERM).name}); saved in {self.keeper.within}: "
                              f"the same command goes on from there", self.asked or signal.SIGTERM)

    def try_to_save(self, write: Callable[[], Path], needed: bool) -> None:
        """A checkpoint, if it can be written; a run that isn't at its end goes on without it, loudly."""
        try:
            self.path = write()
        except checkpoint.NotSaved as error:
            if needed:
                raise
            self.say(f"WARNING: {error}; the run goes on, and would go on again from {self.path or 'the beginning'}")

    def line(self, values: dict[str, float]) -> dict[str, str]:
        """What a progress line shows."""
        shown = {"loss": f"{values['loss']:.4f}", "lr": f"{values['lr']:.2e}", "norm": f"{values['norm']:.2f}", "img/s": f"{values['img/s']:.0f}",
                 "data wait": f"{100 * values['data wait']:.0f} %"}
        if self.step.scaled:
            shown["scale"] = f"{values['scale']:.0f}"
        if self.step.guarded:
            shown["skipped"] = str(self.tally.skipped)
        return shown

    def judge(self, loss: float, norm: float, scale: float) -> None:
        """Count a step; stop at a loss or a gradient that is no number, unless the step was left out and may be."""
        finite = math.isfinite(loss) and math.isfinite(norm)
        self.tally.add(loss, finite)
        if finite or (self.step.dynamic and math.isfinite(loss) and scale > 1):  # a gradient that overflows is what the dynamic scale is for
            return
        self.tally.bad_in_a_row += 1
        allowed, what = self.recipe.precision.skip_nonfinite, f"step {self.at + 1}: loss {loss}, gradient norm {norm}"
        if self.tally.bad_in_a_row > allowed:
            raise TrainingFailed(f"{what}: the run has diverged and stops; the last checkpoint in {self.folder} is untouched "
                                 f"(a lower lr, a longer warm-up or clip_grad: True may help)")
        self.say(f"WARNING: {what}: step left out, number {self.tally.bad_in_a_row} of at most {allowed} in a row")

    def validate(self) -> tuple[Score, Optional[Score]]:
        """Scores of the weights and, with ema, of their average."""
        score = evaluate(self.net, self.eval_step, self.val, self.setting)
        if not self.recipe.optim.ema:
            return score, None
        self.step.swap_average()
        average = evaluate(self.net, self.eval_step, self.val, self.setting)
        self.step.swap_average()
        return score, average

    def note(self, epoch: int, loss: float, score: Score, average: Optional[Score]) -> None:
        """One line on the screen and one in the run's CSV."""
        self.say(f"epoch {epoch + 1}/{self.recipe.schedule.epoch_size}  train loss {loss:.4f}  {score}" + (f"  ema {average}" if average else "")
                 + (f"  {len(self.train.bad)} bad pictures" if self.train.bad else ""))
        if epoch + 1 >= self.recipe.log.chance_epochs and score.is_guessing(self.setting.num_classes, self.commonest):
            self.say(f"WARNING: after {epoch + 1} epochs top-1 is {score.top1:.2f} %, no better than guessing one of {self.setting.num_classes} classes: "
                     f"the network doesn't learn (labels, lr, normalisation, or pretrained weights may be wrong)")
        if not self.device.is_main:
            return
        last, empty = self.last, dict.fromkeys(("loss", "top1", "top5"), "")
        row: dict[str, Any] = {"epoch": epoch + 1, "step": self.at, "lr": f"{last['lr']:.6g}", "train_loss": f"{loss:.6f}", "val_loss": f"{score.loss:.6f}",
               "top1": f"{score.top1:.4f}", "top5": f"{score.top5:.4f}",
               **{f"ema_{key}": f"{getattr(average, key):.6f}" if average else value for key, value in empty.items()},
               "norm": f"{last['norm']:.4f}", "loss_scale": f"{last['scale']:.0f}", "skipped": self.tally.skipped,
               "img_s": f"{last['img/s']:.1f}", "data_wait": f"{last['data wait']:.4f}"}
        try:
            log.append_csv(self.folder / "log.csv", row)
        except OSError as error:
            self.say(f"WARNING: {self.folder / 'log.csv'} can't be written: {error.strerror}")
        self.viewer(self.at, {key: float(value) for key, value in row.items() if key in ("val_loss", "top1", "top5", "ema_top1") and value != ""})

    def save(self, epoch: int, score: Optional[Score], average: Optional[Score]) -> Path:
        """Checkpoint after `epoch` epochs."""
        leader = max((item for item in (score, average) if item), key=lambda item: item.correct1, default=None)
        better = leader is not None and leader.correct1 > self.best
        if leader is not None and better:
            self.best = leader.correct1
        return self.keeper.save(epoch, self.state(), self.meta(score), better)

    def meta(self, score: Optional[Score]) -> dict[str, Any]:
        """What a checkpoint says beside its tensors: the network, and where the run is."""
        return {"model": self.setting.info.name, "num_classes": self.setting.num_classes, "class_names": list(self.train.class_names),
                "epoch": self.at // self.steps, "step": self.at, "steps": self.steps, "pictures": self.meter.pictures, "best": self.best,
                "tally": dataclasses.asdict(self.tally), "data": self.fingerprint, "score": dataclasses.asdict(score) if score else None,
                "recipe": self.recipe.flat(), "mindvit": __version__, "mindspore": ms.__version__}

    def describe(self) -> None:
        """The run in a few lines, before it starts."""
        data = self.recipe.data
        self.say(f"model: {self.setting.info.name}, {self.params / 1e6:.2f} M parameters, {self.setting.size} px, {self.setting.num_classes} classes")
        parts = f" x {self.parts} batches" if self.parts > 1 else ""
        self.say(f"data: {data.dataset}{' in ' + data.data_dir if data.data_dir else ''}, {len(self.train)} training and {len(self.val)} validation pictures; "
                 f"{self.steps} steps of {data.batch_size} x {self.device.ranks}{parts} an epoch, {self.recipe.schedule.epoch_size} epochs")
        for line in schedule_lines(self.recipe.schedule, self.meter.pictures):
            self.say(line)

    def finish(self, score: Score, average: Optional[Score]) -> dict[str, Any]:
        """The performance row: shown, as JSON beside the checkpoints, and appended to the results."""
        row = result.performance_row(self.setting, self.meter, self.params, score, self.config, self.path)
        if self.device.is_main:
            log.say("\n" + log.table(row) + (f"\nmoving average: {average}" if average else "") + "\n")
            more = {**row, **result.circumstances(self.setting, self.meter, time.time() - self.started), "bad pictures": len(self.train.bad)}
            log.write_json(self.folder / "result.json", more)
            log.append_csv(Path(self.recipe.log.results_csv), more)
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
def signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call `handler` the first time and do what they did before from then on."""
    if threading.current_thread() is not threading.main_thread():  # Python lets only that one handle signals
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def once(number: int, frame: Any) -> None:
        signal.signal(number, before[signal.Signals(number)])
        handler(number, frame)

    for number in before:
        signal.signal(number, once)
    try:
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
