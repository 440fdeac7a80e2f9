"""Experiment trackers by name, as recorded calls of stand-ins for their packages."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mindvit.errors import UserError
from mindvit.runtime.viewers import PACKAGES, summary

CONFIG = {"lr": 0.1, "model": "nano"}
TRACKERS = ("wandb", "swanlab", "mlflow")


class Recorder:
    """Notes what it is called with under `name`, and gives what `gives` says."""

    def __init__(self, calls: list[tuple[str, tuple, dict]], name: str, gives: Any = None):
        self.calls, self.name, self.gives = calls, name, gives

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls.append((self.name, arguments, named))
        return self.gives


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple, dict]]:
    """The calls of all three packages, in their order; no variable of theirs is set."""
    found: list[tuple[str, tuple, dict]] = []
    run = SimpleNamespace(log=Recorder(found, "log"), finish=Recorder(found, "finish"))
    names: dict[str, dict[str, Any]] = {
        "wandb": {"init": run},
        "swanlab": {"init": None, "log": None, "finish": None},
        "mlflow": dict.fromkeys(
            ("set_tracking_uri", "set_experiment", "start_run", "log_params", "log_metrics", "end_run")
        ),
    }
    for package, functions in names.items():
        module = ModuleType(package)
        for name, gives in functions.items():
            setattr(module, name, Recorder(found, name, gives))
        monkeypatch.setitem(sys.modules, package, module)
    for variable in ("WANDB_MODE", "SWANLAB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    return found


def track(kind: str, folder: Path, complain: Any = pytest.fail) -> None:
    with summary(kind, folder, CONFIG, complain) as write:
        write(5, {"loss": 0.5})
        write(9, {"top1": 80.0})


def test_wandb_is_offline_in_the_run_s_folder(tmp_path: Path, calls: list, monkeypatch: pytest.MonkeyPatch) -> None:
    track("wandb", tmp_path / "runs" / "mine")
    place = str(tmp_path / "runs" / "mine" / "summary")
    name, _, begun = calls[0]
    assert (name, begun["mode"], begun["dir"], begun["name"]) == ("init", "offline", place, "mine")
    assert begun["config"] == CONFIG and begun["project"] == "mindvit" and Path(place).is_dir()
    assert calls[1:] == [
        ("log", ({"loss": 0.5},), {"step": 5}),
        ("log", ({"top1": 80.0},), {"step": 9}),
        ("finish", (), {}),
    ]
    monkeypatch.setenv("WANDB_MODE", "online")
    track("wandb", tmp_path)
    assert calls[4][2]["mode"] == "online"


def test_swanlab_is_offline_in_the_run_s_folder(tmp_path: Path, calls: list) -> None:
    track("swanlab", tmp_path / "mine")
    name, _, begun = calls[0]
    assert (name, begun["mode"], begun["logdir"]) == ("init", "offline", str(tmp_path / "mine" / "summary"))
    assert begun["experiment_name"] == "mine" and begun["config"] == CONFIG
    assert [call[0] for call in calls[1:]] == ["log", "log", "finish"] and calls[1][2] == {"step": 5}


def test_mlflow_keeps_a_data_base_in_the_run_s_folder(
    tmp_path: Path, calls: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    track("mlflow", tmp_path / "mine")
    uri = f"sqlite:///{(tmp_path / 'mine' / 'summary' / 'mlflow.db').resolve()}"
    assert calls == [
        ("set_tracking_uri", (uri,), {}),
        ("set_experiment", ("mindvit",), {}),
        ("start_run", (), {"run_name": "mine"}),
        ("log_params", (CONFIG,), {}),
        ("log_metrics", ({"loss": 0.5},), {"step": 5}),
        ("log_metrics", ({"top1": 80.0},), {"step": 9}),
        ("end_run", (), {}),
    ]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://there")
    track("mlflow", tmp_path)
    assert calls[7][0] == "set_experiment", "the address that the user gives stays"


@pytest.mark.parametrize("kind", TRACKERS)
def test_a_missing_package_is_a_line(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[kind], None)
    with pytest.raises(UserError) as error:
        track(kind, tmp_path)
    assert str(error.value) == (
        f"summary is {kind}, but the package {kind} is missing: pip install {kind}, or summary: mindspore"
    )


def fails(*_: Any, **__: Any) -> None:
    raise LookupError("no such run\nand more")  # a tracker's own kind of error


def test_a_tracker_that_fails_costs_no_training(tmp_path: Path, calls: list) -> None:
    sys.modules["mlflow"].log_metrics = fails  # type: ignore[attr-defined]
    told: list[str] = []
    track("mlflow", tmp_path, told.append)
    assert told == [f"WARNING: {tmp_path / 'summary'} can't be written, no more is added to it: no such run"]
    assert calls[-1][0] == "end_run"
    sys.modules["mlflow"].start_run = fails  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"summary can't be written: no such run \(summary: none does without\)"):
        track("mlflow", tmp_path)
