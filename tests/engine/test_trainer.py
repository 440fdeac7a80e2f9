"""Whole runs, as a user starts them: alone, under msrun, validated from the checkpoint, and with mistakes."""

from __future__ import annotations

import csv
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import train_small
from image_files import make_data_dir
from launcher import msrun

from mindvit.engine.evaluate import validate
from mindvit.engine.trainer import Trainer, TrainingFailed, fit
from mindvit.errors import UserError
from mindvit.recipe.commandline import parse
from mindvit.weights import read_weights

ROOT = Path(__file__).parents[2]
SMALL = [
    "--model",
    "crossvit_tiny",
    "--img_size",
    "24,16",
    "--image_resize",
    "24",
    "--epoch_size",
    "1",
    "--warmup_epochs",
    "0",
    "--device_target",
    "CPU",
]
# eps 1e-6: with 1e-8 AdamW makes steps of full length out of gradients that are nothing but rounding
PLAIN = [
    "--scale",
    "1,1",
    "--ratio",
    "1,1",
    "--hflip",
    "0",
    "--drop_path_rate",
    "0",
    "--lr",
    "1e-4",
    "--min_lr",
    "1e-4",
    "--eps",
    "1e-6",
]
LIVELY = train_small.LIVELY


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, 24 images to train and 10 to validate, of several modes."""
    return make_data_dir(
        tmp_path_factory.mktemp("images"),
        classes=2,
        train=12,
        val=5,
        modes=("jpeg_rgb", "jpeg_grey", "jpeg_cmyk", "png_rgba"),
    )


def options(folder: Path, out: Path, *more: str) -> list[str]:
    return [
        *train_small.places(folder, out),
        *SMALL,
        *more,
    ]


def quick(folder: Path, out: Path, *more: str) -> list[str]:
    """Of a network that compiles in a second or two; for tests that use the fixture small_networks."""
    return [*train_small.places(folder, out), *train_small.NANO, "--epoch_size", "1", "--batch_size", "8", *more]


def command(*words: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    python = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{python}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*launcher, "python", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
    )


@pytest.fixture(scope="module")
def alone(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of three plain steps of eight images in one process; its recipe says distribute: True."""
    out = tmp_path_factory.mktemp("alone")
    done = command("train.py", *options(folder, out, *PLAIN, "--batch_size", "8", "--distribute", "True"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the run is alone" in done.stdout and "ETA" in done.stdout and "| crossvit_tiny" in done.stdout
    return out


def test_the_row(alone: Path) -> None:
    row = json.loads((alone / "result.json").read_text())
    expected = {
        "model": "crossvit_tiny",
        "device": "CPU",
        "ranks": 1,
        "image_size": 24,
        "batch_size": 8,
        "seed": 42,
        "best_epoch": 1,
    }
    assert {key: row[key] for key in expected} == expected
    assert row["ms_per_step"] > 0 and row["compile_s"] > 0 and Path(row["checkpoint"]).exists()
    assert "train.py" in row["command"] and row["best_top1"] == row["top1"]
    header, line = (alone / "results.csv").read_text().splitlines()
    assert header == ",".join(row)
    assert line.startswith("crossvit_tiny,")
    (logged,) = csv.DictReader((alone / "log.csv").open())
    assert list(logged)[:7] == ["epoch", "step", "lr", "train_loss", "val_loss", "top1", "ema_loss"]  # of few classes
    assert float(logged["elapsed_s"]) > 0
    assert datetime.datetime.fromisoformat(logged["time"]) <= datetime.datetime.fromisoformat(row["time"])


def test_two_workers_take_the_same_steps(folder: Path, alone: Path, tmp_path: Path) -> None:
    done = command(
        "train.py",
        *options(folder, tmp_path / "out", *PLAIN, "--batch_size", "4"),
        launcher=msrun(2, tmp_path / "logs"),
    )
    logs = "\n".join(path.read_text() for path in sorted((tmp_path / "logs").glob("worker_*.log")))
    assert done.returncode == 0, logs[-3000:]
    assert "device: 2 x CPU" in logs and logs.count("| crossvit_tiny") == 1
    one, _ = read_weights(alone / "crossvit_tiny-1.ckpt")
    two, meta = read_weights(tmp_path / "out" / "crossvit_tiny-1.ckpt")
    untrained = Trainer(parse(options(folder, tmp_path / "new", *PLAIN, "--batch_size", "8"), "")[0], None).net
    initial = {item.name: item.asnumpy() for item in untrained.get_parameters()}
    assert max(np.abs(one[name] - value).max() for name, value in initial.items()) > 1e-4  # the steps moved the weights
    for name in initial:
        assert np.abs(one[name] - two[name]).max() < 1e-5, name
        ours, theirs = (
            one[f"mindvit.moment1.{name}"],
            two[f"mindvit.moment1.{name}"],
        )  # AdamW hides a gradient's scale, its moment does not
        assert np.abs(ours - theirs).max() < 1e-3 * np.abs(ours).max() + 1e-7, name
    assert meta["score"]["count"] == 10  # each image once, although 10 is no multiple of 2 x 4


def test_validate_repeats_the_accuracy(folder: Path, alone: Path) -> None:
    done = command(
        "validate.py", *options(folder, alone, "--batch_size", "3", "--ckpt_path", str(alone / "crossvit_tiny-1.ckpt"))
    )
    assert done.returncode == 0, done.stderr
    row = json.loads((alone / "result.json").read_text())
    found = re.search(r"top-1 ([\d.]+) % \((\d+)/10\)  loss ([\d.]+) ", done.stdout)
    assert found and float(found[1]) == row["top1"] and float(found[3]) == row["val_loss"] and row["top5"] is None


@pytest.mark.usefixtures("small_networks")
def test_the_same_seed_gives_the_same_weights(folder: Path, tmp_path: Path) -> None:
    results = []
    for out, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        fit(parse(quick(folder, tmp_path / out, *LIVELY, "--seed", seed), "")[0])
        results.append(read_weights(tmp_path / out / "nano-1.ckpt")[0])
    assert all(np.array_equal(results[0][name], results[1][name]) for name in results[0])
    assert any(not np.array_equal(results[0][name], results[2][name]) for name in results[0])


@pytest.mark.usefixtures("small_networks")
def test_divergence_stops_the_run_and_saves_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=r"step \d: loss .* diverged"):
        fit(parse(quick(folder, tmp_path / "out", *PLAIN, "--lr", "1e30", "--min_lr", "1e30"), "")[0])
    assert not list((tmp_path / "out").glob("*.ckpt"))


def refused(arguments: list[str], action: Any = fit) -> str:
    with pytest.raises(UserError) as caught:
        action(parse(arguments, "")[0])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_validate_refuses_other_checkpoints(folder: Path, alone: Path, tmp_path: Path) -> None:
    path = alone / "crossvit_tiny-1.ckpt"
    whole = path.read_bytes()
    (tmp_path / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "flipped.ckpt").write_bytes(whole[:9000] + bytes([whole[9000] ^ 255]) + whole[9001:])
    (tmp_path / "empty.ckpt").write_bytes(b"")
    validating = options(folder, tmp_path)
    assert "needs the weights" in refused(validating, validate)
    assert "no file with weights" in refused(
        [*validating, "--ckpt_path", str(alone / "crossvit_tiny-2.ckpt")], validate
    )
    assert "did you mean crossvit_tiny-1.ckpt" in refused(
        [*validating, "--ckpt_path", str(alone / "crossvit_tiny-l.ckpt")], validate
    )
    for name in ("half", "flipped"):
        assert "truncated or damaged" in refused([*validating, "--ckpt_path", str(tmp_path / f"{name}.ckpt")], validate)
    assert "empty" in refused([*validating, "--ckpt_path", str(tmp_path / "empty.ckpt")], validate)
    other = [*validating, "--ckpt_path", str(path), "--model", "crossvit_small"]
    assert "checkpoint of crossvit_tiny, but the model asked for is crossvit_small" in refused(other, validate)
    assert "doesn't fit" in refused([*validating, "--ckpt_path", str(path), "--img_size", "36,16"], validate)


@pytest.mark.usefixtures("small_networks")
def test_training_refuses_wrong_data(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert "data_dir" in refused(SMALL)
    assert "nowhere" in refused(options(tmp_path / "nowhere", tmp_path))
    other = shutil.copytree(folder, tmp_path / "other")
    shutil.copytree(other / "val" / "class_1", other / "val" / "class_9")
    assert "class_9" in refused(options(other, tmp_path))
    shutil.rmtree(other / "val" / "class_9")
    assert "num_classes is 1" in refused(options(other, tmp_path, "--num_classes", "1"))
    assert "batch_size" in refused(options(other, tmp_path, "--batch_size", "64"))
    assert "in_channels is 1" in refused(options(other, tmp_path, "--in_channels", "1"))
    assert "unknown model" in refused([*options(tmp_path / "nowhere", tmp_path), "--model", "crossvit_10"])
    (other / "train" / "class_0" / "000_jpeg_rgb.JPEG").write_bytes(b"\xff\xd8 no image")
    assert "000_jpeg_rgb.JPEG" in refused(quick(other, tmp_path / "out", "--bad_image", "stop"))
    assert not list((tmp_path / "out").glob("*.ckpt"))
    fit(parse(quick(other, tmp_path / "out"), "")[0])  # skip is the default: named, counted, and the run goes on
    assert "000_jpeg_rgb.JPEG can't be decoded" in capfd.readouterr().err
    assert json.loads((tmp_path / "out" / "result.json").read_text())["bad_images"] == 1


@pytest.mark.usefixtures("small_networks")
def test_an_output_folder_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "can't be written" in refused(quick(folder, tmp_path / "file" / "out"))


def test_an_unknown_device_is_one_line(folder: Path, tmp_path: Path) -> None:
    done = command("train.py", *options(folder, tmp_path, "--device_target", "Ascend"))
    assert done.returncode == 2 and done.stderr.strip().startswith(
        "error: device_target is Ascend, but no Ascend found"
    )
    assert len(done.stderr.strip().splitlines()) == 1
