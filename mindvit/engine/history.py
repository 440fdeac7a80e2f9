"""What a run says and keeps of itself while it trains: its first lines, progress, log.csv, a viewer's files."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

from mindvit.data.datasets.base import Dataset
from mindvit.data.datasets.build import passed_over
from mindvit.engine import checkpoint, result
from mindvit.engine.state import TrainState, leading
from mindvit.optim.schedule import schedule_lines
from mindvit.recipe.commandline import describe
from mindvit.runtime import console, files
from mindvit.tasks.base import RunContext, Score, Task

PER_CLASS = "classes.csv"  # beside log.csv: each class by itself in the last validation
FIGURES = ("loss", "lr", "norm", "scale", "img/s", "data wait")  # of a step, as a log shows them
Datasets = tuple[Dataset, Dataset]  # training and validation
Viewer = Callable[[int, Mapping[str, float]], None]


def progress_values(values: Mapping[str, float], scale: bool, skipped: Optional[int]) -> dict[str, str]:
    """What a progress line shows of a step's figures; the loss scale and the number of skipped steps where wanted."""
    shown = {
        "loss": f"{values['loss']:.4f}",
        "lr": f"{values['lr']:.2e}",
        "norm": f"{values['norm']:.2f}",
        "img/s": f"{values['img/s']:.0f}",
        "data wait": f"{100 * values['data wait']:.0f} %",
    }
    if scale:
        shown["scale"] = f"{values['scale']:.0f}"
    if skipped is not None:
        shown["skipped"] = str(skipped)
    return shown


class RunLog:
    """The lines and files of a run: what every rank may call, and the main rank alone does."""

    def __init__(self, task: Task, ctx: RunContext, state: TrainState, started: float):
        self.task, self.ctx, self.state, self.started = task, ctx, state, started
        self.folder = Path(ctx.recipe.checkpoint.ckpt_save_dir)
        self.viewer: Viewer = lambda step, values: None

    def say(self, text: str) -> None:
        """Print on the main rank."""
        if self.ctx.device.is_main:
            console.log_info(text)

    def announce(self, datasets: Datasets, params: int, said: Sequence[str]) -> None:
        """The run in a few lines. params: of the network; said: what is remarkable about the data."""
        task, ctx, state = self.task, self.ctx, self.state
        recipe, (train, val) = ctx.recipe, datasets
        data, accum_steps = recipe.data, recipe.optim.gradient_accumulation_steps
        self.say(
            f"model: {ctx.info.name}, {params / 1e6:.2f} M parameters, {task.input_size(ctx)} px, "
            f"{ctx.num_classes} classes"
        )
        for line in said:
            self.say(line)
        batches = f" x {accum_steps} batches" if accum_steps > 1 else ""
        self.say(
            f"data: {data.place}, {len(train)} training and "
            f"{len(val)} validation images; "
            f"{state.steps} steps of {data.batch_size} x {ctx.device.ranks}{batches} an epoch, "
            f"{state.epochs} epochs" + passed_over((data.train_split, train), (data.val_split, val))
        )
        for line in task.remarks(train):
            self.say(f"WARNING: {line}")
        for line in schedule_lines(recipe.schedule, state.global_batch):
            self.say(line)

    def prepare_files(self) -> None:
        """Write what a run leaves before its first step, and see that the rest can be written.

        The recipe of weights that are trained already stays as it is. UserError, while nothing is lost yet, if it
        can't.
        """
        state, recipe = self.state, self.folder / "recipe.yaml"
        console.check_csv(Path(self.ctx.recipe.log.results_csv), "results_csv")
        try:
            if state.global_step < state.total_steps or not recipe.exists():
                files.write_text(recipe, f"# {result.versions()}\n{describe(self.ctx.recipe)}\n")
            console.cut_csv(self.folder / "log.csv", state.epoch - state.validation_due)
        except OSError as error:
            raise checkpoint.cannot_write(self.folder, error) from None

    def log_epoch(self, epoch: int, score: Score, average: Optional[Score], datasets: Datasets) -> None:
        """One line on the screen and one in the run's CSV; `average`: the score of the weights' moving average."""
        train, val = datasets
        loss, log = self.state.epoch_end.get("loss", math.nan), self.ctx.recipe.log
        self.say(
            f"epoch {epoch}/{self.state.epochs}  train loss {loss:.4f}  {score}"
            + (f"  ema {average}" if average else "")
            + (f"  {len(train.bad)} bad images" if train.bad else "")
        )
        warning = self.task.warning(score, self.ctx, val) if epoch >= log.chance_epochs else ""
        if warning:
            self.say(f"WARNING: after {epoch} epochs {warning}")
        if not self.ctx.device.is_main:
            return
        row = self._row(epoch, loss, score, average)
        try:
            file = self.folder / "log.csv"
            console.append_csv(file, row)
            file = self.folder / PER_CLASS
            console.write_csv(file, leading(score, average).per_class(train.class_names))
        except OSError as error:
            self.say(f"WARNING: {file} can't be written: {error.strerror}")
        shown = {"val_loss", f"ema_{self.task.metrics[0].key}", *(metric.key for metric in self.task.metrics)}
        self.viewer(
            self.state.global_step,
            {key: float(value) for key, value in row.items() if key in shown and value != ""},
        )

    def _row(self, epoch: int, loss: float, score: Score, average: Optional[Score]) -> dict[str, Any]:
        last = {key: self.state.epoch_end.get(f"last {key}", math.nan) for key in FIGURES}
        averages = average.metrics() if average else {}
        measured = dict(sorted(score.metrics().items(), key=lambda item: item[0] != "loss"))  # the loss first
        return {
            "epoch": epoch,
            "step": self.state.global_step,
            "lr": f"{last['lr']:.6g}",
            "train_loss": f"{loss:.6f}",
            **{result.column(key): f"{value:.6f}" for key, value in measured.items()},
            **{f"ema_{key}": f"{averages[key]:.6f}" if averages else "" for key in measured},
            "norm": f"{last['norm']:.4f}",
            "loss_scale": f"{last['scale']:.0f}",
            "skipped": self.state.stats.skipped,
            "img_s": f"{last['img/s']:.1f}",
            "data_wait": f"{last['data wait']:.4f}",
            "elapsed_s": f"{time.time() - self.started:.1f}",
            "time": result.now(),
        }
