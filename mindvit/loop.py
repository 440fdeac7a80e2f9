"""Training: the story of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindvit import checkpoint, log, parallel, result
from mindvit.commandline import describe
from mindvit.data.mixing import draw
from mindvit.data.pipeline import steps_per_epoch, train_batches
from mindvit.data.sources import check_same_classes, open_source
from mindvit.errors import UserError
from mindvit.evaluation import Score, evaluate
from mindvit.layers.basic import set_precision
from mindvit.meter import Meter
from mindvit.models import model_info
from mindvit.optim import is_decayed, learning_rate
from mindvit.recipe import Recipe
from mindvit.setting import build, build_teacher, check_teacher, prepare, step_options
from mindvit.step import EvalStep, TrainStep, first_inputs
from mindvit.version import __version__

# keys that may change from one start of a run to the next without changing what it computes
UNIMPORTANT = ("data_dir", "num_parallel_workers", "pretrained", "ckpt_path", "new_head", "take", "teacher_ckpt_path", "device_target", "mode", "jit_level",
               "distribute", "ckpt_save_dir", "ckpt_save_interval", "ckpt_save_steps", "keep_checkpoint_max", "resume", "val_while_train", "val_interval",
               "log_interval", "results_csv")


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
        model_info(recipe.model.model)  # a misspelt name is told before a million files are listed
        check_teacher(recipe.distill)
        self.train = open_source(recipe.data, "train")
        self.val = open_source(recipe.data, "val", self.train.class_names)
        check_same_classes(self.train, self.val)
        self.setting = prepare(recipe, self.train)
        self.recipe, self.device, self.config = recipe, self.setting.device, config
        self.steps = steps_per_epoch(self.train, recipe.data, self.device.ranks)
        self.net = build(self.setting, resize=True)
        parallel.same_weights(self.net, self.device.ranks)
        self.folder = Path(recipe.checkpoint.ckpt_save_dir)
        self.keeper = checkpoint.Keeper(self.folder, recipe.model.model, recipe.checkpoint.keep_checkpoint_max)
        self.meter = Meter(recipe.data.batch_size * self.device.ranks)
        self.params = sum(item.size for item in self.net.trainable_params())
        self.fingerprint = self.train.fingerprint()
        self.path: Optional[Path] = None  # the last checkpoint
        self.best, self.at, self.asked, self.epoch_loss = -1, 0, 0, 0.0  # best count of right answers, steps done, signal, sum of this epoch's losses
        mean, std = self.setting.statistics
        set_precision(self.net, self.device.amp_level, self.device.half)
        self.net.set_train(True)
        decayed = [is_decayed(item.name, item.ndim, recipe.optim.weight_decay_filter, self.net.no_weight_decay()) for item in self.net.trainable_params()]
        self.step = TrainStep(self.net, decayed, step_options(self.setting), build_teacher(self.setting))
        self.eval_step = EvalStep(self.net, mean, std)

    def say(self, text: str) -> None:
        """Print on the main rank."""
        if self.device.is_main:
            log.say(text)

    def compile(self) -> None:
        """Build the training graph before the first batch is asked for."""
        if self.recipe.runtime.mode == 0:
            self.say("compiling the training step ...")
            start = time.perf_counter()
            self.step.compile(*first_inputs(self.recipe.data.batch_size, self.setting.size, self.recipe.model.in_channels, self.step.paths))
            self.meter.compile_seconds = time.perf_counter() - start
            self.say(f"compiled in {self.meter.compile_seconds:.1f} s")
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
        self.at, self.best, self.epoch_loss, self.path = meta["step"], meta["best"], meta["epoch_loss"], path
        if meta["pictures"] != self.meter.pictures:  # another batch over all cards: its steps can't be counted in the old ones
            if meta["step"] % meta["steps"]:
                raise UserError(f"{path} was saved within an epoch with {meta['pictures']} pictures a step, and there are {self.meter.pictures} now: go on "
                                f"with as many, or from an epoch's checkpoint, --resume FILE")
            self.at = meta["step"] // meta["steps"] * self.steps
        self.keeper.adopt(self.at // self.steps)
        changed = [key for key, value in self.recipe.flat().items() if key not in UNIMPORTANT and list_or_value(value) != meta["recipe"].get(key)]
        self.say(f"going on from {path}: epoch {self.at // self.steps}, step {self.at % self.steps} of {self.steps}"
                 + (f"; other values than there: {', '.join(changed)}" if changed else ""))

    def state(self) -> list[ms.Parameter]:
        """Everything that the run changes."""
        return [*self.net.get_parameters(), *self.step.state()]

    def fit(self) -> dict[str, Any]:
        """Train, validate, save, epoch by epoch; the result row."""
        self.describe()
        with checkpoint.own_folder(self.folder, describe(self.recipe)) if self.device.is_main else contextlib.nullcontext():
            self.resume()
            if self.device.is_main:
                log.cut_csv(self.folder / "log.csv", self.at // self.steps)
            self.compile()
            with signals(self.ask_to_stop):
                score, average = self.epochs()
            return self.finish(score, average)

    def epochs(self) -> tuple[Score, Optional[Score]]:
        """The epochs that are left; the last scores."""
        schedule, recipe = self.recipe.schedule, self.recipe
        progress = log.Progress(self.steps * schedule.epoch_size, schedule.epoch_size, recipe.log.log_interval, self.device.is_main, self.at)
        score = average = None
        for epoch in range(self.at // self.steps, schedule.epoch_size):
            loss = self.train_epoch(epoch, progress)
            score = average = None
            last = epoch + 1 == schedule.epoch_size
            if last or (recipe.log.val_while_train and (epoch + 1) % recipe.log.val_interval == 0):
                score, average = self.validate()
                self.note(epoch, loss, score, average)
            if self.device.is_main and (last or (epoch + 1) % recipe.checkpoint.ckpt_save_interval == 0):
                self.path = self.save(epoch + 1, score, average)
        progress.close()
        return (score, average) if score is not None else self.validate()  # nothing was left to train

    def ask_to_stop(self, number: int, _: Any) -> None:
        """A signal's handler: end after the step that is running."""
        self.asked = number
        self.step.ask_to_stop()

    def train_epoch(self, epoch: int, progress: log.Progress) -> float:
        """The steps of an epoch that are not yet done; the mean loss of all."""
        recipe, setting = self.recipe, self.setting
        batches = train_batches(self.train, recipe.data, recipe.augment, size=setting.size, interpolation=setting.interpolation,
                                mean=setting.statistics[0], epoch=epoch, seed=recipe.runtime.seed, ranks=self.device.ranks, rank=self.device.rank,
                                workers=setting.workers, first_step=self.at % self.steps)
        self.net.set_train(True)
        losses: list[float] = []
        began = time.perf_counter()
        for images, labels in self.meter.waiting(batches):
            lr = learning_rate(self.at, schedule=recipe.schedule, steps_per_epoch=self.steps, global_batch=self.meter.pictures)
            chance = draw(recipe.augment, batch=len(labels), size=setting.size, channels=images.shape[-1], paths=self.step.paths,
                          seed=recipe.runtime.seed, step=self.at, rank=self.device.rank)
            loss, norm, scale = (float(output.asnumpy()) for output in self.step(
                Tensor(images), Tensor(labels), *(Tensor(item) for item in chance), Tensor(lr, ms.float32)))
            self.check(self.at, loss, norm)
            losses.append(loss)
            self.epoch_loss += loss
            self.at += 1
            now = time.perf_counter()
            self.meter.step(now - began)
            began = now
            progress.update(epoch, self.line(losses, lr, scale, norm))
            self.pause()
        mean, self.epoch_loss = self.epoch_loss / self.steps, 0.0
        return mean

    def pause(self) -> None:
        """What may be due between two steps of an epoch: a checkpoint, and the end of a run that was asked to stop."""
        stopping = self.step.is_stopping(self.asked > 0)
        inside = self.at % self.steps > 0
        due = self.recipe.checkpoint.ckpt_save_steps
        if inside and self.device.is_main and (stopping or (due and self.at % due == 0)):
            self.keeper.save_within(self.state(), self.meta(None))
        if stopping and inside:  # at the end of an epoch it is validated and saved first
            raise Interrupted(f"stopped after step {self.at} ({signal.Signals(self.asked or signal.SIGTERM).name}); saved in {self.keeper.within}: "
                              f"the same command goes on from there", self.asked or signal.SIGTERM)

    def line(self, losses: list[float], lr: float, scale: float, norm: float) -> dict[str, str]:
        """What a progress line shows."""
        values = {"loss": f"{np.mean(losses[-20:]):.4f}", "lr": f"{lr:.2e}", "norm": f"{norm:.2f}", "img/s": f"{self.meter.recent_pictures_per_second:.0f}",
                  "data wait": f"{100 * self.meter.wait_share:.0f} %"}
        return {**values, "scale": f"{scale:.0f}"} if self.step.scaled else values

    def check(self, number: int, loss: float, norm: float) -> None:
        """Stop at the first loss that is no number; without a loss scale, at the first such gradient too."""
        if not math.isfinite(loss) or not (self.step.scaled or math.isfinite(norm)):
            raise TrainingFailed(f"step {number + 1}: loss {loss}, gradient norm {norm}: the run has diverged and stops; the last checkpoint in "
                                 f"{self.folder} is untouched (a lower lr, a longer warm-up or clip_grad: True may help)")

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
        if self.device.is_main:
            log.append_csv(self.folder / "log.csv", {
                "epoch": epoch + 1, "train_loss": f"{loss:.6f}", "val_loss": f"{score.loss:.6f}", "top1": f"{score.top1:.4f}", "top5": f"{score.top5:.4f}",
                "ema_top1": f"{average.top1:.4f}" if average else "", "img_s": f"{self.meter.recent_pictures_per_second:.1f}"})

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
                "epoch_loss": self.epoch_loss, "data": self.fingerprint, "score": dataclasses.asdict(score) if score else None,
                "recipe": self.recipe.flat(), "mindvit": __version__, "mindspore": ms.__version__}

    def describe(self) -> None:
        """The run in a few lines, before it starts."""
        data = self.recipe.data
        self.say(f"model: {self.setting.info.name}, {self.params / 1e6:.2f} M parameters, {self.setting.size} px, {self.setting.num_classes} classes")
        self.say(f"data: {data.dataset}{' in ' + data.data_dir if data.data_dir else ''}, {len(self.train)} training and {len(self.val)} validation pictures; "
                 f"{self.steps} steps of {data.batch_size} x {self.device.ranks} an epoch, {self.recipe.schedule.epoch_size} epochs")

    def finish(self, score: Score, average: Optional[Score]) -> dict[str, Any]:
        """The performance row: shown, as JSON beside the checkpoints, and appended to the results."""
        row = result.performance_row(self.setting, self.meter, self.params, score, self.config, self.path)
        if self.device.is_main:
            log.say("\n" + log.table(row) + (f"\nmoving average: {average}" if average else "") + "\n")
            more = {**row, **result.circumstances(self.setting, self.meter, time.time() - self.started), "bad pictures": len(self.train.bad)}
            log.write_json(self.folder / "result.json", more)
            log.append_csv(Path(self.recipe.log.results_csv), more)
        return row


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
