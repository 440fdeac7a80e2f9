"""What goes wrong in three days of training: numbers that are none, networks that don't learn, full disks; and the
looks before a run.
"""

from __future__ import annotations

import csv
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import train_small
from image_files import make_data_dir

import train
from mindvit.engine import checkpoint
from mindvit.engine.step import StepResult
from mindvit.engine.steps import StepRunner
from mindvit.engine.trainer import Trainer, TrainingFailed, fit
from mindvit.errors import UserError
from mindvit.recipe.commandline import parse
from mindvit.runtime import console, files
from mindvit.tasks.classification.metrics import Accuracy
from mindvit.weights import read_weights, write

OPTIONS = [*train_small.NANO, "--batch_size", "8"]


pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images to train and 16 to validate."""
    return make_data_dir(tmp_path_factory.mktemp("images"), classes=2, train=12, val=8, modes=("jpeg_rgb",))


def options(folder: Path, out: Path, *more: str) -> list[str]:
    return [
        *train_small.places(folder, out),
        *OPTIONS,
        *more,
    ]


def run(folder: Path, out: Path, *more: str) -> dict[str, Any]:
    return fit(parse(options(folder, out, *more), "")[0])


def test_steps_without_a_number_are_left_out_as_often_as_the_recipe_says(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    plain = StepRunner.read
    broken: list[int] = []
    numbers = iter(range(12))

    def read(self: StepRunner, result: Any) -> StepResult:
        found = plain(self, result)
        return found._replace(loss=np.nan) if next(numbers) in broken else found

    monkeypatch.setattr(StepRunner, "read", read)
    broken[:] = [1, 2, 4]
    run(folder, tmp_path / "a", "--skip_nonfinite", "2")
    text = capsys.readouterr().out
    assert (
        "step 3: loss nan" in text
        and "number 2 of at most 2 in a row" in text
        and "step 5: loss nan" in text
        and "skipped 3" in text
    )
    rows = list(csv.DictReader((tmp_path / "a" / "log.csv").open()))
    assert [row["skipped"] for row in rows] == ["2", "3"] and all(np.isfinite(float(row["train_loss"])) for row in rows)
    broken[:] = [9, 10, 11]  # the second run's
    with pytest.raises(TrainingFailed, match=r"^step 6: loss nan, gradient norm [\d.]+: the run has diverged"):
        run(folder, tmp_path / "b", "--skip_nonfinite", "2")
    assert [path.name for path in (tmp_path / "b").glob("*.ckpt") if "best" not in path.name] == ["nano-1.ckpt"]


def test_a_network_that_only_guesses_is_warned_of(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run(folder, tmp_path, "--lr", "0", "--min_lr", "0", "--chance_epochs", "2")
    lines = [line for line in capsys.readouterr().out.splitlines() if "WARNING" in line]
    assert len(lines) == 1 and "after 2 epochs" in lines[0] and "guessing one of 2 classes" in lines[0]


@pytest.mark.parametrize(
    "correct, count, classes, commonest, guessing",
    [
        (50, 50000, 1000, 50, True),
        (90, 50000, 1000, 50, False),
        (4, 8, 2, 4, True),
        (8, 8, 2, 4, False),
        (70, 100, 2, 70, True),
        (71, 100, 2, 70, False),
        # one class; images of one of two classes
        (8, 8, 1, 8, False),
        (0, 8, 1, 8, False),
        (8, 8, 2, 8, False),
        (3, 8, 2, 8, True),
    ],
)
def test_guessing(correct: int, count: int, classes: int, commonest: int, guessing: bool) -> None:
    assert Accuracy(correct, correct, count, 0.0).is_guessing(classes, commonest) is guessing


def test_a_full_disk_costs_one_checkpoint_and_not_the_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    plain, full = write.ms.save_checkpoint, [3]  # epoch 1, the best one, epoch 2

    def save(parameters: list, name: str, **settings: Any) -> None:
        full[0] -= 1
        plain(parameters, name, **settings)
        if full[0] == 0:
            os.truncate(name, 100)
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(write.ms, "save_checkpoint", save)
    run(folder, tmp_path / "a", "--epoch_size", "3")
    text = capsys.readouterr().out
    assert (
        "WARNING" in text
        and "nano-2.ckpt can't be written: No space left on device; the run continues" in text
        and "nano-1.ckpt" in text
    )
    assert sorted(path.name for path in (tmp_path / "a").glob("*.ckpt") if "best" not in path.name) == [
        "nano-1.ckpt",
        "nano-3.ckpt",
    ]
    full[0] = 3
    with pytest.raises(
        checkpoint.NotSaved, match="No space left"
    ) as caught:  # without its last checkpoint a run has no result
        run(folder, tmp_path / "b")
    assert caught.value.exit_code == 1 and [path.suffix for path in (tmp_path / "b").glob("*unfinished*")] == []
    assert read_weights(tmp_path / "b" / "nano-1.ckpt")[1]["step"] == 3


def test_results_that_cannot_be_written_at_the_end_stop_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fails(path: Path, row: Any) -> None:
        raise OSError(28, "No space left on device")

    for name in ("append_csv", "write_json"):
        monkeypatch.setattr(console, name, fails)
    row = run(folder, tmp_path, "--epoch_size", "1")
    text = capsys.readouterr().out
    for name in ("log.csv", "results.csv", "result.json"):
        assert f"WARNING: {tmp_path / name} can't be written: No space left" in text
    assert read_weights(row["checkpoint"])[1]["score"]


def test_what_cannot_be_written_is_told_before_the_first_step(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*more: str) -> str:
        with pytest.raises(UserError) as caught:
            run(folder, tmp_path / "out", *more)
        assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
        return str(caught.value)

    monkeypatch.setattr(Trainer, "compile", lambda _: pytest.fail("compiled"))
    (tmp_path / "file").write_text("")
    assert f"results_csv {tmp_path / 'file' / 'all.csv'} can't be written" in refused(
        "--results_csv", str(tmp_path / "file" / "all.csv")
    )
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert "tensorboardX is missing: pip install tensorboardX" in refused(
        "--summary", "tensorboard", "--data_dir", str(tmp_path / "nowhere")
    )
    monkeypatch.setattr(files, "write_text", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert f"ckpt_save_dir {tmp_path / 'out'} can't be written: No space left on device" in refused()
    assert not (tmp_path / "out" / "recipe.yaml").exists()


def test_a_viewer_that_fails_costs_no_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from tensorboardX import SummaryWriter

    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", fails)
    monkeypatch.setattr(SummaryWriter, "close", fails)
    row = run(folder, tmp_path, "--epoch_size", "1", "--summary", "tensorboard")
    assert (
        capsys.readouterr().out.count("summary can't be written, no more is added to it: No space left") == 2
        and Path(row["checkpoint"]).exists()
    )


def test_a_dry_run_writes_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train.main([*options(folder, tmp_path / "out"), "--dry_run"])
    text = capsys.readouterr().out
    assert "ms/step" in text and "GiB of memory" in text and "whole run" in text and not (tmp_path / "out").exists()


def test_a_run_leaves_its_recipe_with_versions(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path, "--epoch_size", "1")
    first, *lines = (tmp_path / "recipe.yaml").read_text().splitlines()
    assert (
        first.startswith("# mindvit ")
        and "mindspore 2." in first
        and "Python 3." in first
        and "batch_size: 8" in "\n".join(lines)
    )


def test_the_heartbeat_beats_until_it_is_over(capsys: pytest.CaptureFixture) -> None:
    with console.heartbeat("still compiling", seconds=0.02):
        time.sleep(0.2)
    beats = capsys.readouterr().out.count("still compiling (")
    with console.heartbeat("still compiling", shown=False, seconds=0.02):
        time.sleep(0.1)
    time.sleep(0.1)
    assert 1 < beats < 12 and capsys.readouterr().out == ""


def test_tensorboard_shows_what_the_csv_says(folder: Path, tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    run(folder, tmp_path, "--summary", "tensorboard")
    (file,) = (tmp_path / "summary").iterdir()
    data, place, found = file.read_bytes(), 0, []
    while place < len(data):  # length (8 bytes), its CRC (4), an event, its CRC (4)
        length = int.from_bytes(data[place : place + 8], "little")
        event = Event.FromString(data[place + 12 : place + 12 + length])
        found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
        place += length + 16
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    losses = [(step, value) for tag, step, value in found if tag == "val_loss"]
    assert [(int(row["step"]), pytest.approx(float(row["val_loss"]), abs=1e-5)) for row in rows] == losses
    assert {"loss", "lr", "norm", "img/s"} <= {tag for tag, _, _ in found}


def test_mindspore_s_summary_files(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path, "--summary", "mindspore", "--epoch_size", "1")
    (file,) = [path for path in (tmp_path / "summary").iterdir() if "summary" in path.name and path.is_file()]
    assert b"val_loss" in file.read_bytes()
