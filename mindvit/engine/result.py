"""What a run ends with: a row of numbers for files, and the same in two short tables for people."""

from __future__ import annotations

import csv
import datetime
import json
import math
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

import mindspore as ms
import numpy as np

from mindvit.engine import checkpoint
from mindvit.engine.meter import Meter
from mindvit.engine.resume import Resume
from mindvit.engine.state import Best
from mindvit.recipe.schema import Recipe
from mindvit.runtime import console, device
from mindvit.tasks.base import RunContext, Score, Task
from mindvit.tasks.metric import Metric
from mindvit.version import __version__

ROOT = Path(__file__).parents[2]
TABLES = (
    "model",
    "params_m",
    "ranks",
    "device",
    "batch_size",
    "image_size",
    "amp_level",
    "dtype",
    "compile_s",
    "ms_per_step",
    "img_per_s",
)  # of every task


@dataclass(frozen=True)
class Outcome:
    """What a run reached: the last epoch's scores (of the weights and, with ema, of their moving average), the best
    one, and where the weights are.

    bad: training images that could not be decoded; params: the network's trainable numbers; seconds: of the whole run.
    """

    score: Score
    average: Optional[Score]
    best: Optional[Best]
    checkpoint: Optional[Path]
    bad: int
    params: int
    seconds: float


def row(task: Task, ctx: RunContext, meter: Meter, outcome: Outcome, config: Optional[str]) -> dict[str, Any]:
    """What ran, on what, how fast (median step over all ranks) and how well: numbers are numbers, with their unit in
    the key; None: there is none.

    Accuracies are per cent; data_wait is the share (0..1) of the steps' time in which they waited for images.
    """
    recipe, chosen = ctx.recipe, ctx.device
    stepped, primary = bool(meter.steps), task.metrics[0]
    return {
        "model": ctx.info.name,
        "params_m": round(outcome.params / 1e6, 2),
        "device": chosen.target,
        "ranks": chosen.ranks,
        "batch_size": recipe.data.batch_size,
        "image_size": task.input_size(ctx),
        "jit_level": chosen.running_level,
        "amp_level": chosen.amp_level,
        "dtype": chosen.dtype,
        "epochs": recipe.schedule.epoch_size,
        "compile_s": round(meter.compile_seconds, 1),
        "ms_per_step": round(meter.ms_per_step, 2) if stepped else None,
        "img_per_s": round(meter.images_per_second, 2) if stepped else None,
        **measured(task.metrics, outcome.score),
        **{f"ema_{key}": value for key, value in measured(task.metrics, outcome.average).items()},
        f"best_{primary.key}": outcome.best and number(outcome.best.value, primary.digits),
        "best_epoch": outcome.best and outcome.best.epoch or None,
        "train_s": round(meter.total, 1),
        "total_s": round(outcome.seconds, 1),
        "data_wait": round(meter.wait_share, 4) if stepped else None,
        "bad_images": outcome.bad,
        "seed": recipe.runtime.seed,
        "config": config,
        "command": shlex.join(sys.argv),
        "checkpoint": str(outcome.checkpoint),
        "git": git_revision(),
        "mindvit": __version__,
        "mindspore": ms.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": device.machine(),
        "time": now(),
    }


def measured(metrics: Sequence[Metric], score: Optional[Score]) -> dict[str, Optional[float]]:
    """A score's numbers by their columns; None where it doesn't have one."""
    found = score.metrics() if score else {}
    return {
        column(metric.key): number(found[metric.key], metric.digits) if metric.key in found else None
        for metric in metrics
    }


def column(key: str) -> str:
    """How files call a metric: a loss is training's or validation's."""
    return "val_loss" if key == "loss" else key


def number(value: float, digits: int) -> Optional[float]:
    """Rounded; None for NaN and infinity, which JSON does not have."""
    return round(value, digits) if math.isfinite(value) else None


def now() -> str:
    """Date, time and time zone, to the second."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def git_revision() -> Optional[str]:
    """The commit of mindvit's sources, -dirty if they were changed since; None outside a repository of their own."""
    if not (ROOT / ".git").exists():
        return None
    try:
        asked = subprocess.run(
            ["git", "describe", "--always", "--exclude", "*", "--abbrev=12", "--dirty"],
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip() or None


def read(file: Path, metrics: Sequence[Metric]) -> Optional[dict[str, Any]]:
    """The row in a result.json; None if it can't be read, or is of an earlier version, with other keys."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {*TABLES, "checkpoint", metrics[0].key} <= set(found) else None


def tables(row: Mapping[str, Any], metrics: Sequence[Metric]) -> str:
    """A row as people read it: two tables in Markdown that fit 100 columns."""

    what = {
        "model": row["model"],
        "params (M)": row["params_m"],
        "devices": f"{row['ranks']} x {row['device']}",
        "batch size": row["batch_size"],
        "image size": row["image_size"],
        "precision": f"{row['amp_level']} {row['dtype']}",
    }
    if len(console.table(what).splitlines()[0]) > 100:  # the longest names
        del what["precision"]
    primary = metrics[0]
    how = {
        "compile (s)": row["compile_s"],
        "ms/step": row["ms_per_step"],
        "img/s": row["img_per_s"],
        primary.title: primary.text(row.get(primary.key)),
        **{metric.title: metric.text(row.get(metric.key)) for metric in metrics[1:] if metric.key != "loss"},
        f"EMA {primary.title}": primary.text(row.get(f"ema_{primary.key}")),
        f"best {primary.title}": primary.text(row.get(f"best_{primary.key}")),
        "best epoch": row.get("best_epoch"),
    }
    always = ("compile (s)", "ms/step", "img/s", primary.title)
    shown = {name: value for name, value in how.items() if value is not None or name in always}
    return f"{console.table(what)}\n\n{console.table(shown)}"


def versions() -> str:
    """What ran, in one line."""
    libraries = f"mindspore {ms.__version__}, numpy {np.__version__}, Python {platform.python_version()}"
    return f"mindvit {__version__}, {libraries}; {device.machine()}"


def keep(row: Mapping[str, Any], metrics: Sequence[Metric], outcome: Outcome, recipe: Recipe) -> None:
    """Show a run's row, write it beside its checkpoints as JSON, and append it to the results."""
    console.log_info(
        f"\n{tables(row, metrics)}\n"
        + (f"\nmoving average: {outcome.average}" if outcome.average else "")
        + f"\ncheckpoint: {outcome.checkpoint}\n"
    )
    for path, write in (
        (Path(recipe.checkpoint.ckpt_save_dir) / "result.json", console.write_json),
        (Path(recipe.log.results_csv), console.append_csv),
    ):
        try:
            write(path, row)
        except (OSError, csv.Error) as error:  # the weights are trained and saved
            console.log_info(f"WARNING: {path} can't be written: {console.first_line(error)}")


def show_finished(resume: Resume, found: checkpoint.Found) -> dict[str, Any]:
    """Say that a run is finished and what it reached.

    Returned is the row of result.json or, without that, what the checkpoint knows.
    """
    (path, _, meta), say, metrics = found, resume.say, resume.task.metrics
    score = resume.task.score(meta["score"])
    early = meta["step"] // meta["steps"] < resume.ctx.recipe.schedule.epoch_size
    say(
        f"the run is finished: {path} has {meta['step'] // meta['steps']} epochs of "
        f"{resume.ctx.recipe.schedule.epoch_size}; nothing is trained or written "
        f"(a larger {'patience' if early else 'epoch_size'} continues it, --resume none or another ckpt_save_dir "
        "starts anew)"
    )
    changed = [f"{key} ({there} there)" for key, there in resume.changed(meta).items()]
    if changed:
        say(f"WARNING: other values than the finished run's, without effect on it: {', '.join(changed)}")
    if meta.get("val_data", resume.data.val) != resume.data.val:
        say(
            f"WARNING: the validation images are others than the finished run's: validate.py --ckpt_path "
            f"{path} measures on them"
        )
    known = read(path.with_name("result.json"), metrics)
    if known is None or known[metrics[0].key] != number(score.primary, metrics[0].digits):  # of another run there
        say(f"{path}  {score}")
        return {"model": meta["model"], **measured(metrics, score), "checkpoint": str(path)}
    say(f"\n{tables(known, metrics)}\n\ncheckpoint: {known['checkpoint']}")
    return known
