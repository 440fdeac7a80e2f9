"""Where a run's figures go beside log.csv: files of MindSpore's or TensorBoard's viewer, or an experiment tracker.

Trackers are used offline: what they keep lies in the run's folder, and is uploaded by their own commands, or at once
where their own environment variable says so (WANDB_MODE, SWANLAB_MODE, MLFLOW_TRACKING_URI).
"""

from __future__ import annotations

import contextlib
import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

from mindvit.errors import UserError
from mindvit.runtime.console import first_line

Scalars = Mapping[str, float]
Write = Callable[[int, Scalars], None]
Close = Callable[[], object]
PROJECT = "mindvit"  # what trackers file runs under


@dataclass(frozen=True)
class Run:
    """What a viewer is told of a run: its name, where its files go, what its recipe says that is no default."""

    name: str
    place: Path
    config: Mapping[str, Any]


def _mindspore(run: Run) -> tuple[Write, Close]:
    from mindspore import SummaryRecord, Tensor  # starts processes of its own: only for those who want it

    record = SummaryRecord(str(run.place))

    def write(step: int, values: Scalars) -> None:
        for name, value in values.items():
            record.add_value("scalar", name, Tensor(float(value)))
        record.record(step)

    return write, record.close


def _tensorboard(run: Run) -> tuple[Write, Close]:
    from tensorboardX import SummaryWriter

    board = SummaryWriter(str(run.place))

    def write(step: int, values: Scalars) -> None:
        for name, value in values.items():
            board.add_scalar(name, value, step)

    return write, board.close


def _wandb(run: Run) -> tuple[Write, Close]:
    import wandb

    run.place.mkdir(parents=True, exist_ok=True)  # else it takes the system's folder for temporary files
    tracked = wandb.init(
        project=PROJECT,
        name=run.name,
        dir=str(run.place),
        config=dict(run.config),
        mode=os.environ.get("WANDB_MODE", "offline"),
        settings={"silent": True, "console": "off"},
    )
    return lambda step, values: tracked.log(dict(values), step=step), tracked.finish


def _swanlab(run: Run) -> tuple[Write, Close]:
    import swanlab

    run.place.mkdir(parents=True, exist_ok=True)
    swanlab.init(
        project=PROJECT,
        experiment_name=run.name,
        logdir=str(run.place),
        config=dict(run.config),
        mode=os.environ.get("SWANLAB_MODE", "offline"),
    )
    return lambda step, values: swanlab.log(dict(values), step=step), swanlab.finish


def _mlflow(run: Run) -> tuple[Write, Close]:
    import mlflow

    if "MLFLOW_TRACKING_URI" not in os.environ:
        run.place.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(f"sqlite:///{(run.place / 'mlflow.db').resolve()}")
    mlflow.set_experiment(PROJECT)
    mlflow.start_run(run_name=run.name)
    mlflow.log_params(dict(run.config))
    return lambda step, values: mlflow.log_metrics(dict(values), step=step), mlflow.end_run


VIEWERS: dict[str, Callable[[Run], tuple[Write, Close]]] = {
    "mindspore": _mindspore,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "swanlab": _swanlab,
    "mlflow": _mlflow,
}
PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "swanlab": "swanlab", "mlflow": "mlflow"}


def check_viewer(kind: str) -> None:
    """UserError if the package for this kind of summary is missing."""
    package = PACKAGES.get(kind)
    if package is None:
        return
    try:
        importlib.import_module(package)
    except ImportError:
        raise UserError(
            f"summary is {kind}, but the package {package} is missing: pip install {package}, or summary: mindspore"
        ) from None


@contextlib.contextmanager
def summary(
    kind: str, folder: Path, config: Mapping[str, Any], complain: Callable[[str], None]
) -> Iterator[Callable[[int, Scalars], None]]:
    """A function (step, values by name) that writes for a viewer into `folder`/summary; for kind 'none' nothing.

    kind: of VIEWERS. config: the run's, as trackers show it. What can't be written costs no training: `complain` is
    told, and no more is written.
    UserError if the package is missing or can't begin.
    """
    check_viewer(kind)
    if kind == "none":
        yield lambda step, values: None
        return
    place = folder / "summary"
    try:
        writer, close = VIEWERS[kind](Run(folder.resolve().name, place, config))
    except Exception as error:  # a tracker's own, or the disk's
        raise UserError(f"{place} can't be written: {first_line(error)} (summary: none does without)") from None
    working = True

    def trying(action: Callable[[], object]) -> None:
        nonlocal working
        try:
            action()
        except Exception as error:  # what a full disk becomes differs by package
            working = False
            complain(f"WARNING: {place} can't be written, no more is added to it: {first_line(error)}")

    def write(step: int, values: Scalars) -> None:
        if working:
            trying(lambda: writer(step, values))

    try:
        yield write
    finally:
        trying(close)
