"""What a run ends with: a row of numbers, and tables that fit a page."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mindvit.engine import result
from mindvit.engine.meter import Meter
from mindvit.engine.state import Best
from mindvit.models import list_models, model_info
from mindvit.recipe.schema import build
from mindvit.runtime import device
from mindvit.tasks.base import RunContext
from mindvit.tasks.classification.metrics import Accuracy
from mindvit.tasks.classification.task import ClassificationTask

TEXTS = {
    "model",
    "device",
    "jit_level",
    "amp_level",
    "dtype",
    "config",
    "command",
    "checkpoint",
    "git",
    "mindvit",
    "mindspore",
    "numpy",
    "python",
    "machine",
    "time",
}


TASK = ClassificationTask()
METRICS = TASK.metrics


def made(steps: int = 3, **more: Any) -> dict[str, Any]:
    """The row of a run that never was."""
    recipe = build({"model": "crossvit_9", "batch_size": 32, "epoch_size": 16, "seed": 7}, {})
    chosen = device.Device("CPU", "O0", "O0", "O0", None, 0, 2, 2)
    meter = Meter(64, compile_seconds=6.83)
    for _ in range(steps):
        meter.step(0.25)
    facts = {
        "score": Accuracy(355, 360, 360, 0.1),
        "average": None,
        "best": Best(100 * 356 / 360, 360, 12, "ab"),
        "checkpoint": Path("a.ckpt"),
        "bad": 1,
        "params": 8_070_000,
        "seconds": 20.0,
    }
    ctx = RunContext(recipe, model_info("crossvit_9"), chosen, 10, 1)
    return result.row(TASK, ctx, meter, result.Outcome(**{**facts, **more}), "configs/a.yaml")


def test_numbers_are_numbers_and_keys_are_names() -> None:
    row = made()
    assert (
        all(key.isidentifier() and key == key.lower() for key in row)
        and json.loads(json.dumps(row, allow_nan=False)) == row
    )
    assert {key for key, value in row.items() if isinstance(value, str)} <= TEXTS
    expected = {
        "ranks": 2,
        "batch_size": 32,
        "image_size": 240,
        "epochs": 16,
        "compile_s": 6.8,
        "ms_per_step": 250.0,
        "img_per_s": 256.0,
        "top1": 98.61,
        "top5": 100.0,
        "best_top1": 98.89,
        "best_epoch": 12,
        "ema_top1": None,
        "seed": 7,
        "train_s": 0.8,
        "total_s": 20.0,
        "bad_images": 1,
        "params_m": 8.07,
        "config": "configs/a.yaml",
        "checkpoint": "a.ckpt",
        "val_loss": 0.1,
    }
    assert {key: row[key] for key in expected} == expected
    assert made(average=Accuracy(36, 90, 360, 2.0))["ema_top1"] == 10.0
    few = made(score=Accuracy(8, None, 8, 0.1))  # no more than five classes
    assert few["top5"] is None and "top-5" not in result.tables(few, METRICS) and "top-5" in result.tables(row, METRICS)
    untrained = made(steps=0, best=None, score=Accuracy(1, 2, 4, float("nan")))
    unknown = ("ms_per_step", "img_per_s", "data_wait", "best_top1", "best_epoch", "val_loss")
    assert all(untrained[key] is None for key in unknown)
    assert "n/a" in result.tables(untrained, METRICS)


def test_tables_fit_a_hundred_columns_for_every_network() -> None:
    for name in list_models():
        big = {
            "params_m": 1234.56,
            "ranks": 128,
            "device": "Ascend",
            "batch_size": 4096,
            "image_size": 1024,
            "amp_level": "O2",
            "dtype": "bfloat16",
        }
        slow = {
            "compile_s": 12345.6,
            "ms_per_step": 123456.78,
            "img_per_s": 123456.78,
            "top1": 100.0,
            "top5": 100.0,
            "ema_top1": 100.0,
            "best_top1": 100.0,
            "best_epoch": 1000,
        }
        assert max(map(len, result.tables({**made(), "model": name, **big, **slow}, METRICS).splitlines())) <= 100, name
    assert "| 98.61 % | 100.00 % | 98.89 %    | 12 " in result.tables(made(), METRICS) and "EMA" not in result.tables(
        made(), METRICS
    )


def test_a_row_is_read_back_and_an_earlier_version_s_is_not(tmp_path: Path) -> None:
    file, row = tmp_path / "result.json", made()
    file.write_text(json.dumps(row))
    assert result.read(file, METRICS) == row
    for content in ('{"acc@top1": 98.06, "checkpoint": "a"}', "[1]", "{", ""):
        file.write_text(content)
        assert result.read(file, METRICS) is None


def test_the_revision_is_that_of_our_own_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", *who, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    assert (result.ROOT / "train.py").is_file()
    inside = tmp_path / "inside"
    inside.mkdir()
    git("init", "--quiet")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "--quiet", "-m", "first")
    monkeypatch.setattr(result, "ROOT", inside)  # somebody else's repository
    assert result.git_revision() is None
    monkeypatch.setattr(result, "ROOT", tmp_path)
    assert result.git_revision() == git("rev-parse", "--short=12", "HEAD")
    (tmp_path / "file").write_text("2")
    assert str(result.git_revision()).endswith("-dirty")
    monkeypatch.setenv("PATH", "")
    assert result.git_revision() is None
