"""Runs that are cut off and go on: at the end they have the weights of one that was not."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any, Callable

import mindspore as ms
import numpy as np
import pytest
import train_small
from image_files import make_data_dir

from mindvit.engine import checkpoint, compile_cache, validator
from mindvit.engine.state import Best, TrainState, leading
from mindvit.engine.trainer import Interrupted, Trainer, fit
from mindvit.errors import UserError
from mindvit.models import model_info, registry
from mindvit.recipe.commandline import parse
from mindvit.runtime import console
from mindvit.tasks.classification.metrics import Accuracy
from mindvit.weights import read_weights

# everything that a run remembers: batch normalisation's statistics, moments, average; and all that is drawn
MODEL = "nano"
OPTIONS = [
    "--model",
    MODEL,
    "--device_target",
    "CPU",
    "--epoch_size",
    "3",
    "--warmup_epochs",
    "1",
    "--batch_size",
    "4",
    "--gradient_accumulation_steps",
    "2",
    "--amp_on_cpu",
    "True",
    "--amp_level",
    "O2",
    "--skip_nonfinite",
    "2",
    "--layer_decay",
    "0.8",
    "--log_interval",
    "1",
    "--label_smoothing",
    "0.1",
    "--clip_grad",
    "True",
    *train_small.LIVELY,
    "--aug_repeats",
    "3",
    "--ema",
    "True",
    "--ema_decay",
    "0.9",
    "--val_interval",
    "2",
]
STEPS = 3  # an epoch


class PowerCut(BaseException):
    """Nobody is asked."""


@pytest.fixture(scope="module", autouse=True)
def network(small_networks: None) -> None:
    """A second name for the network."""
    registry.register(
        dataclasses.replace(registry._entry(MODEL), info=dataclasses.replace(model_info(MODEL), name=f"{MODEL}_too"))
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images to train and 4 to validate."""
    return make_data_dir(tmp_path_factory.mktemp("images"), classes=2, train=12, val=2, modes=("jpeg_rgb",))


def run(folder: Path, out: Path, *more: str) -> dict[str, Any]:
    return fit(
        parse(
            [
                *train_small.places(folder, out),
                *OPTIONS,
                *more,
            ],
            "",
        )[0]
    )


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    out = tmp_path_factory.mktemp("whole")
    run(folder, out)
    return out


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], None]) -> None:
    """Do something after a step, once."""
    plain = console.Progress.update

    def update(self: Any, epoch: int, values: Any) -> None:
        plain(self, epoch, values)
        if self.done == number:
            monkeypatch.setattr(console.Progress, "update", plain)
            action()

    monkeypatch.setattr(console.Progress, "update", update)


def same(one: Path, two: Path) -> None:
    name = f"{MODEL}-3.ckpt"
    (ours, mine), (theirs, others) = read_weights(one / name), read_weights(two / name)
    assert list(ours) == list(theirs) and all(np.array_equal(ours[key], theirs[key]) for key in ours)
    assert mine["score"] == others["score"] and mine["best"] == others["best"]
    timeless = [[line.rsplit(",", 4)[0] for line in (out / "log.csv").read_text().splitlines()] for out in (one, two)]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_and_the_same_command_goes_on(
    folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    # when step 4 is logged, the next one is under way
    at_step(monkeypatch, STEPS + 1, lambda: os.kill(os.getpid(), number))
    with pytest.raises(
        Interrupted,
        match=r"^stopped by (SIGTERM|Ctrl-C) after step 5; saved in .*within.ckpt: the "
        r"same command resumes$",
    ) as caught:
        run(folder, tmp_path)
    # MindSpore makes SIGTERM of a Ctrl-C while it is at work; a command (test_stop) knows better
    assert caught.value.exit_code in (128 + number, 128 + signal.SIGTERM)
    assert not (tmp_path / f"{MODEL}-2.ckpt").exists()
    run(folder, tmp_path)
    same(tmp_path, whole)
    assert not (tmp_path / f"{MODEL}-within.ckpt").exists()


def test_a_power_cut_costs_what_came_after_the_last_checkpoint(
    folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def cut() -> None:
        raise PowerCut

    at_step(monkeypatch, STEPS + 2, cut)
    with pytest.raises(PowerCut):
        run(folder, tmp_path, "--ckpt_save_steps", "4")
    at_step(monkeypatch, 2 * STEPS + 1, cut)
    with pytest.raises(PowerCut):
        run(folder, tmp_path, "--ckpt_save_steps", "4")
    assert "epoch 1, step 1 of 3" in capsys.readouterr().out
    newest = tmp_path / f"{MODEL}-2.ckpt"
    newest.write_bytes(newest.read_bytes()[:-100])  # and the disk lost its end
    (tmp_path / f"{MODEL}-best.ckpt").unlink(missing_ok=True)
    run(folder, tmp_path, "--ckpt_save_steps", "4")
    text = capsys.readouterr().out
    assert "passed over" in text and "resuming from" in text and "epoch 1, step 0 of 3" in text
    same(tmp_path, whole)


def refused(folder: Path, out: Path, *more: str) -> str:
    with pytest.raises(UserError) as caught:
        run(folder, out, *more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_does_not_belong_together_is_refused(folder: Path, whole: Path, tmp_path: Path) -> None:
    other = make_data_dir(tmp_path / "other", classes=2, train=13, val=2, modes=("jpeg_rgb",))
    assert "not those" in refused(other, whole)
    file = str(whole / f"{MODEL}-1.ckpt")
    assert f"recipe's model is {MODEL}_too" in refused(
        folder, tmp_path / "a", "--resume", file, "--model", f"{MODEL}_too"
    )
    assert "tensors are missing or differ" in refused(
        folder, tmp_path / "b", "--resume", file, "--ema", "False", "--num_classes", "3"
    )
    assert "no file with weights" in refused(folder, tmp_path / "c", "--resume", str(tmp_path / "nothing.ckpt"))


def test_another_batch_goes_on_from_an_epochs_end_only(
    folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    row = run(folder, tmp_path / "a", "--resume", str(whole / f"{MODEL}-1.ckpt"), "--gradient_accumulation_steps", "1")
    text = capsys.readouterr().out
    assert "epoch 1, step 0 of 6; other values than there: gradient_accumulation_steps" in text and row[
        "checkpoint"
    ].endswith("-3.ckpt")
    assert read_weights(tmp_path / "a" / f"{MODEL}-3.ckpt")[1]["step"] == 18

    def cut() -> None:
        raise PowerCut

    at_step(monkeypatch, STEPS + 2, cut)
    with pytest.raises(PowerCut):
        run(folder, tmp_path / "b", "--ckpt_save_steps", "4")
    assert "within an epoch with 8 images a step, and there are 4 now" in refused(
        folder, tmp_path / "b", "--gradient_accumulation_steps", "1"
    )
    assert "was saved within epoch 2, but epoch_size is 1: give a larger one" in refused(
        folder, tmp_path / "b", "--epoch_size", "1"
    )


def content(out: Path) -> dict[str, bytes]:
    """What a run left, by the files' names."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != ".lock"}


@pytest.mark.parametrize("more", [(), ("--lr", "0.5"), ("--epoch_size", "2", "--warmup_epochs", "0")])
def test_a_finished_run_is_shown_and_left_as_it_is(
    folder: Path, whole: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    monkeypatch.setattr(Trainer, "compile", lambda _: pytest.fail("compiled"))
    before = content(whole)
    row = run(folder, whole, *more)
    text = capsys.readouterr().out
    assert all(words in text for words in ("the run is finished", "larger epoch_size", "--resume none", "| nano "))
    assert content(whole) == before and row == json.loads(before["result.json"])
    assert row["ms_per_step"] > 0 and row["best_top1"] is not None
    assert ("without effect on it: lr (0.0005 there)" in text) is ("--lr" in more)
    assert ("epoch_size (3 there)" in text) is ("--epoch_size" in more)


def test_a_finished_run_without_its_row_says_what_the_checkpoint_knows(
    folder: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    (tmp_path / "copy" / "result.json").write_text('{"acc@top1": 5.0}')  # of an earlier version
    row = run(folder, tmp_path / "copy")
    score = read_weights(whole / f"{MODEL}-3.ckpt")[1]["score"]
    assert row["top1"] == 100 * score["correct1"] / score["count"]
    assert f"({score['correct1']}/{score['count']})" in capsys.readouterr().out


def test_whatever_a_validation_meets_no_training_is_lost(
    folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    data, out = shutil.copytree(folder, tmp_path / "data"), tmp_path / "out"
    image = next((data / "val").rglob("*.JPEG"))
    good = image.read_bytes()
    image.write_bytes(good[:40])
    assert f"{image.name} can't be decoded" in refused(data, out)
    meta = read_weights(out / f"{MODEL}-2.ckpt")[1]
    assert meta["step"] == 2 * STEPS and meta["score"] is None
    image.write_bytes(good)
    plain, count = validator.evaluate, itertools.count(1)

    # of epoch 2 the weights (1, 3, 5) and their average (2, 4, 6), then of epoch 3 the weights (7)
    def evaluate(*words: Any, **more: Any) -> Accuracy:
        number = next(count)
        if number == 2:
            raise MemoryError
        if number == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        if number == 7:
            raise PowerCut
        return plain(*words, **more)

    monkeypatch.setattr(validator, "evaluate", evaluate)
    with pytest.raises(MemoryError):
        run(data, out)
    with pytest.raises(
        Interrupted, match="while validating after epoch 2; saved in .*nano-2.ckpt: the same command resumes"
    ):
        run(data, out)
    with pytest.raises(PowerCut):
        run(data, out)
    monkeypatch.setattr(validator, "evaluate", plain)
    capsys.readouterr()
    monkeypatch.setattr(compile_cache, "compile_step", lambda *_: pytest.fail("compiled"))  # nothing is left to train
    row = run(data, out)
    same(out, whole)
    assert row["ms_per_step"] is None and row["top1"] is not None and "epoch 3/3" in capsys.readouterr().out


def test_checkpoints_of_earlier_versions_and_other_validation_images(
    folder: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arrays, meta = read_weights(whole / f"{MODEL}-2.ckpt")
    best = meta["best"]
    assert best == {
        "value": best["value"],
        "count": 4,
        "epoch": 2,
        "data": meta["val_data"],
        "loss": meta["score"]["loss"],
    }
    old = {key: value for key, value in meta.items() if key not in ("val_data", "ema_score", "epoch_end")}
    old["best"] = round(best["value"] * best["count"] / 100)
    old["pictures"] = old.pop("global_batch")
    checkpoint.save(
        tmp_path / "old.ckpt", [ms.Parameter(ms.Tensor(value), name=key) for key, value in arrays.items()], old
    )
    run(folder, tmp_path / "a", "--resume", str(tmp_path / "old.ckpt"))
    assert "starts anew" not in capsys.readouterr().out
    (ours, new), (theirs, _) = (read_weights(out / f"{MODEL}-3.ckpt") for out in (tmp_path / "a", whole))
    assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)
    assert new["best"]["count"] == 4 and new["best"]["value"] >= best["value"]

    data = shutil.copytree(folder, tmp_path / "data")
    for path in list((data / "val").rglob("*.JPEG")):
        for number in range(3):
            shutil.copy(path, path.with_name(f"{number}_{path.name}"))
    run(data, tmp_path / "b", "--resume", str(whole / f"{MODEL}-2.ckpt"))
    text = capsys.readouterr().out
    assert "of 4 validation images, was measured on others than the 16 of now: the best starts anew" in text
    best = read_weights(tmp_path / "b" / f"{MODEL}-best.ckpt")[1]["best"]
    assert best["count"] == 16 and best["epoch"] == 3  # the first that was measured on these


def test_the_best_is_a_share() -> None:
    best = Best.of_meta({"best": {"correct": 90, "count": 100, "epoch": 7, "data": "ab"}}, 50)
    assert best == Best(90.0, 100, 7, "ab")
    assert best.is_beaten_by(Accuracy(46, 50, 50, 0.0))
    assert not best.is_beaten_by(Accuracy(45, 50, 50, 0.0)) and not best.is_beaten_by(Accuracy(899, 999, 1000, 0.0))


def test_of_equal_accuracies_the_lower_loss_is_better() -> None:
    state, first = TrainState(10, 40, 8, global_step=90), Accuracy(8, None, 8, 0.2)
    state.best = Best.of(first, 5, "ab")
    assert not state.best.is_beaten_by(Accuracy(8, None, 8, 0.2)) and state.is_stale(4)
    lower, fewer = Accuracy(8, None, 8, 0.1), Accuracy(7, None, 8, 0.01)
    assert state.best.is_beaten_by(lower) and not state.best.is_beaten_by(fewer)
    state.best = Best.of(lower, 8, "ab")
    assert not state.is_stale(4)
    assert leading(first, lower) is lower and leading(lower, first) is lower and leading(first, fewer) is first
    assert not Best(100.0, 8, 5, "ab").is_beaten_by(lower)  # of an earlier version, which kept no loss


@pytest.mark.parametrize(
    "best, score, expected",
    [
        (40, {"count": 60}, Best(100 * 40 / 60, 60, 0, "")),
        (40, None, Best(80.0, 50, 0, "")),
        (-1, None, None),
        (51, None, None),
        (None, None, None),
    ],
)
def test_the_best_of_earlier_versions_is_a_count(best: Any, score: Any, expected: Any) -> None:
    assert Best.of_meta({"best": best, "score": score}, 50) == expected


def test_two_runs_in_one_folder_are_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    at_step(monkeypatch, 1, lambda: told.append(refused(folder, tmp_path, "--epoch_size", "1")))
    run(folder, tmp_path, "--epoch_size", "1")
    assert f"in use by another run (process {os.getpid()})" in told[0]
