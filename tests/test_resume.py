"""Runs that are cut off and go on: at the end they have the weights of one that was not."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
from pictures import make_data_dir

from mindvit import log
from mindvit.commandline import parse
from mindvit.errors import UserError
from mindvit.loop import Interrupted, fit
from mindvit.models import model_info, registry
from mindvit.weights import read_weights

# everything that a run remembers: batch normalisation's statistics, moments, average; and all that is drawn
MODEL = "nano"
OPTIONS = ["--model", MODEL, "--device_target", "CPU", "--epoch_size", "3", "--warmup_epochs", "1", "--batch_size", "4",
           "--gradient_accumulation_steps", "2", "--amp_on_cpu", "True", "--amp_level", "O2", "--skip_nonfinite", "2", "--layer_decay", "0.8",
           "--log_interval", "1", "--label_smoothing", "0.1", "--clip_grad", "True", "--mixup", "0.8", "--cutmix", "1.0", "--re_prob", "0.5",
           "--drop_path_rate", "0.2", "--auto_augment", "randaug-m9-mstd0.5-inc1", "--aug_repeats", "3", "--ema", "True", "--ema_decay", "0.9",
           "--val_interval", "2"]
STEPS = 3  # an epoch


class PowerCut(BaseException):
    """Nobody is asked."""


@pytest.fixture(scope="module", autouse=True)
def network(small_networks: None) -> None:
    """A second name for the network."""
    registry.register(dataclasses.replace(registry._entry(MODEL), info=dataclasses.replace(model_info(MODEL), name=f"{MODEL}_too")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pictures to train and 4 to validate."""
    return make_data_dir(tmp_path_factory.mktemp("pictures"), classes=2, train=12, val=2, modes=("jpeg_rgb",))


def run(folder: Path, out: Path, *more: str) -> dict[str, Any]:
    return fit(parse(["--data_dir", str(folder), "--ckpt_save_dir", str(out), "--results_csv", str(out / "results.csv"), *OPTIONS, *more], "")[0])


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    out = tmp_path_factory.mktemp("whole")
    run(folder, out)
    return out


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], None]) -> None:
    """Do something after a step, once."""
    plain = log.Progress.update

    def update(self: Any, epoch: int, values: Any) -> None:
        plain(self, epoch, values)
        if self.done == number:
            monkeypatch.setattr(log.Progress, "update", plain)
            action()

    monkeypatch.setattr(log.Progress, "update", update)


def same(one: Path, two: Path) -> None:
    name = f"{MODEL}-3.ckpt"
    (ours, mine), (theirs, others) = read_weights(one / name), read_weights(two / name)
    assert list(ours) == list(theirs) and all(np.array_equal(ours[key], theirs[key]) for key in ours)
    assert mine["score"] == others["score"] and mine["best"] == others["best"]
    timeless = [[line.rsplit(",", 2)[0] for line in (out / "log.csv").read_text().splitlines()] for out in (one, two)]
    assert timeless[0] == timeless[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_and_the_same_command_goes_on(folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    at_step(monkeypatch, STEPS + 1, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted, match=r"after step 4 \(SIG(TERM|INT)\); saved in .*within") as caught:
        run(folder, tmp_path)
    assert caught.value.exit_code in (128 + number, 128 + signal.SIGTERM)  # MindSpore makes SIGTERM of a Ctrl-C while it is at work
    assert not (tmp_path / f"{MODEL}-2.ckpt").exists()
    run(folder, tmp_path)
    same(tmp_path, whole)
    assert not (tmp_path / f"{MODEL}-within.ckpt").exists()


def test_a_power_cut_costs_what_came_after_the_last_checkpoint(folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                capsys: pytest.CaptureFixture) -> None:
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
    assert "passed over" in text and "going on from" in text and "epoch 1, step 0 of 3" in text
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
    assert f"recipe's model is {MODEL}_too" in refused(folder, tmp_path / "a", "--resume", file, "--model", f"{MODEL}_too")
    assert "tensors are missing or differ" in refused(folder, tmp_path / "b", "--resume", file, "--ema", "False", "--num_classes", "3")
    assert "no file with weights" in refused(folder, tmp_path / "c", "--resume", str(tmp_path / "nothing.ckpt"))


def test_another_batch_goes_on_from_an_epochs_end_only(folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture) -> None:
    row = run(folder, tmp_path / "a", "--resume", str(whole / f"{MODEL}-1.ckpt"), "--gradient_accumulation_steps", "1")
    text = capsys.readouterr().out
    assert "epoch 1, step 0 of 6; other values than there: gradient_accumulation_steps" in text and row["checkpoint"].endswith("-3.ckpt")
    assert read_weights(tmp_path / "a" / f"{MODEL}-3.ckpt")[1]["step"] == 18

    def cut() -> None:
        raise PowerCut

    at_step(monkeypatch, STEPS + 2, cut)
    with pytest.raises(PowerCut):
        run(folder, tmp_path / "b", "--ckpt_save_steps", "4")
    assert "within an epoch with 8 pictures a step, and there are 4 now" in refused(folder, tmp_path / "b", "--gradient_accumulation_steps", "1")


def test_a_finished_run_is_only_validated(folder: Path, whole: Path, capsys: pytest.CaptureFixture) -> None:
    before = (whole / f"{MODEL}-3.ckpt").read_bytes()
    row = run(folder, whole)
    assert "going on from" in capsys.readouterr().out and row["checkpoint"].endswith("-3.ckpt") and (whole / f"{MODEL}-3.ckpt").read_bytes() == before


def test_two_runs_in_one_folder_are_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    at_step(monkeypatch, 1, lambda: told.append(refused(folder, tmp_path, "--epoch_size", "1")))
    run(folder, tmp_path, "--epoch_size", "1")
    assert f"in use by another run (process {os.getpid()})" in told[0]
