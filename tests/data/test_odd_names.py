"""Names that are no UTF-8, and screens that are not: an answer for every image, files that are whole, and the score."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import stripes
from real_inputs import GBK, SPELT, class_folders, link
from small import SMALL, small

import train
import validate
from mindvit import errors
from mindvit.cli import attention, predict, prepare
from mindvit.data.datasets.build import open_dataset
from mindvit.data.decoding import MAX_PIXELS
from mindvit.engine import checkpoint, evaluate
from mindvit.inference import predictor
from mindvit.recipe.commandline import parse
from mindvit.recipe.options import DataOptions
from mindvit.runtime import files
from mindvit.tasks.classification.metrics import Accuracy
from mindvit.tasks.classification.predictions import Predictions
from mindvit.visualization import run_report
from mindvit.weights import read_weights

pytestmark = pytest.mark.usefixtures("small_networks")
ODD, LINES, LONG = os.fsdecode(GBK), "two\nlines", "n" * 240
CLASSES = ("dog", ODD)  # in the order of folders


@pytest.fixture(scope="module", name="data")
def _data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Below a folder with such a name: two classes, one of them named so, and so are some files."""
    root = class_folders(tmp_path_factory.mktemp("data") / ODD, (b"dog", GBK), train=4, val=3)
    for split in ("train", "val"):
        for name in (ODD, LINES, LONG):
            stripes(0, 2, 50).save(root / split / "dog" / f"{name}.jpg")
    link(root / "train" / "dog" / "up", "..")
    return root


@pytest.fixture(scope="module", name="weights")
def _weights(small_networks: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = {**parse(["--model", "small_xcit"], "")[0].flat(), "img_size": SMALL["xcit"][1].get("img_size")}
    meta = {"model": "small_xcit", "num_classes": 2, "class_names": list(CLASSES), "recipe": values}
    return checkpoint.save(
        tmp_path_factory.mktemp(ODD) / "x.ckpt", list(small("xcit", num_classes=2).get_parameters()), meta
    )


@pytest.fixture(scope="module", name="one")
def _one(small_networks: None, weights: Path) -> predictor.Predictor:
    return predictor.Predictor(weights, device_target="CPU")


@pytest.fixture(name="compiled_once")
def _compiled_once(one: predictor.Predictor, monkeypatch: pytest.MonkeyPatch) -> predictor.Predictor:
    """The commands' predictor, which is compiled once for all tests."""

    def made(
        path: str,
        model: Any = None,
        classes: Any = None,
        batch_size: int = 32,
        device_target: str = "auto",
        take: Any = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Any:
        if not Path(path).exists():
            raise errors.UserError("no file with weights")
        one.batch_size, one.max_pixels = batch_size, max_pixels
        return one

    monkeypatch.setattr(predictor, "Predictor", made)
    return one


def wanted(data: Path) -> list[str]:
    """What stands for each validation image."""
    return sorted(files.printable(str(path)) for path in (data / "val").rglob("*.jpg"))


def run(command: Any, *arguments: Any) -> None:
    command.main([*map(str, arguments), "--device_target", "CPU"])


def test_printable_is_what_utf8_can_write_and_tells_the_bytes() -> None:
    assert (
        files.printable("\u72d7 plain\n") == "\u72d7 plain\n" and files.printable(ODD + "\ud800") == SPELT + "\\ud800"
    )
    assert files.on_one_line(f"{LINES}\x1b[0m{ODD}") == f"two\\x0alines\\x1b[0m{SPELT}"
    assert (
        "\u72d7\xe9".encode("ascii", files.SPELT_OUT) == b"\\u72d7\\xe9"
        and ODD.encode("ascii", files.SPELT_OUT) == SPELT.encode()
    )


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "gbk", "latin-1"])
def test_any_screen_takes_any_name(encoding: str) -> None:
    script = (
        "import os, sys; from mindvit import errors\n"
        "def main(_):\n    print(os.fsdecode(b'out \\xb9\\xb7'), '\\u0416'); raise "
        "errors.UserError(os.fsdecode(b'told \\xb9\\xb7') + '\\u0416')\n"
        "errors.run(main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        cwd=Path(__file__).parents[2],
    )
    letter = "\u0416".encode(encoding, "backslashreplace")
    assert (
        done.returncode == 2
        and done.stdout == b"out \\xb9\\xb7 " + letter + b"\n"
        and done.stderr == b"error: told \\xb9\\xb7" + letter + b"\n"
    )


def test_train_report_and_validate_with_predictions(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / ODD
    (data / "train" / "dog" / f"{ODD}-broken.jpg").write_bytes(b"nothing")
    run(
        train,
        "--model",
        "nano",
        "--data_dir",
        data,
        "--ckpt_save_dir",
        out,
        "--results_csv",
        out / "results.csv",
        "--epoch_size",
        1,
        "--warmup_epochs",
        0,
        "--batch_size",
        12,
        "--shuffle",
        "False",
    )
    os.unlink(data / "train" / "dog" / f"{ODD}-broken.jpg")
    told = capsys.readouterr()
    line = next(line for line in told.out.splitlines() if line.startswith("data: "))
    assert SPELT in line and line.endswith("; passed over in train: symbolic link dog/up -> .. (a loop)")
    assert f"/dog/{SPELT}-broken.jpg can't be decoded" in told.err and "| nano" in told.out
    assert read_weights(out / "nano-1.ckpt")[1]["class_names"] == list(CLASSES)
    assert parse(["--config", str(out / "recipe.yaml")], "")[0].data.data_dir == str(data) and SPELT in (
        out / "results.csv"
    ).read_text("utf-8")
    assert run_report.write_report([out], tmp_path / "report") and SPELT in (
        tmp_path / "report" / "report.html"
    ).read_text("utf-8")
    said = tmp_path / f"{ODD}.csv"
    run(validate, "--data_dir", data, "--ckpt_path", out / "nano-1.ckpt", "--batch_size", 4, "--predictions", said)
    told = capsys.readouterr().out
    assert "(" in told and "/9)" in told and f"data: {files.printable(str(data))}, 9 validation images\n" in told
    with said.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert sorted(row["image"] for row in rows) == wanted(data) and {row["label"] for row in rows} == {"dog", SPELT}
    assert [row["class1"] for row in rows].count("dog") + [row["class1"] for row in rows].count(SPELT) == 9


def test_the_score_is_printed_although_the_predictions_cannot_be_written(
    data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    original = Predictions._write
    monkeypatch.setattr(evaluate, "evaluate", lambda *_: Accuracy(5, 9, 9, 1.0))

    def full(self: Any, path: Path, rows: list[Any]) -> None:
        if rows:
            raise errors.UserError("predictions can't be written: No space left on device")
        original(self, path, rows)

    monkeypatch.setattr(Predictions, "_write", full)
    with pytest.raises(errors.UserError, match="No space left"):
        run(
            validate,
            "--data_dir",
            data,
            "--ckpt_path",
            weights,
            "--batch_size",
            4,
            "--predictions",
            tmp_path / "said.csv",
        )
    assert "/9)" in capsys.readouterr().out and not list(tmp_path.iterdir())
    with pytest.raises(errors.UserError, match="/dev/null: it is a folder or a device"):
        run(validate, "--data_dir", data, "--ckpt_path", weights, "--predictions", "/dev/null")


@pytest.mark.parametrize("where", ["file", "stdout"])
@pytest.mark.usefixtures("compiled_once")
def test_predict_in_every_format(
    data: Path, weights: Path, tmp_path: Path, where: str, capsys: pytest.CaptureFixture
) -> None:
    texts = {}
    for kind in ("csv", "json", "table"):
        place = tmp_path / ODD / f"it.{kind}"
        run(
            predict,
            data / "val",
            "--ckpt_path",
            weights,
            "--format",
            kind,
            *(("--out", place) if where == "file" else ()),
        )
        out = capsys.readouterr().out
        texts[kind] = place.read_text("utf-8") if where == "file" else out
        assert where == "stdout" or (out == "" and f"it.{kind}.partial" not in os.listdir(place.parent))
    rows = list(csv.DictReader(texts["csv"].splitlines(keepends=True)))
    assert sorted({row["image"] for row in rows}) == wanted(data) and {row["class"] for row in rows} == {"dog", SPELT}
    assert sorted(item["image"] for item in json.loads(texts["json"])) == wanted(data)
    lines = texts["table"].splitlines()
    assert (
        len(lines) == 1 + 2 * 9
        and len({line.index("%") for line in lines[1:]}) == 1
        and sum("two\\x0alines.jpg" in line for line in lines) == 1
    )


@pytest.mark.usefixtures("compiled_once")
def test_attention_draws_them_all(data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run(
        attention,
        *(data / "val" / "dog" / f"{name}.jpg" for name in (ODD, LINES, LONG)),
        "--ckpt_path",
        weights,
        "--out",
        tmp_path,
    )
    names = sorted(os.listdir(tmp_path))
    assert (
        len(names) == 3
        and f"{ODD}-attention.png" in names
        and f"{LINES}-attention.png" in names
        and "n" * 220 + "-attention.png" in names
    )
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 3 and f"{tmp_path}/{SPELT}-attention.png" in told


def test_prepare_packs_them(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    prepare.main([str(data), str(tmp_path / "out")])
    told = capsys.readouterr().out
    assert "train: 11 " in told
    assert "passed over in train: symbolic link dog/up -> .. (a loop)" in told
    with pytest.raises(errors.UserError, match="has a name that is no UTF-8"):
        prepare.main([str(data), str(tmp_path / ODD)])
    for split in ("train", "val"):
        folder, packed = (open_dataset(DataOptions(data_dir=str(root)), split) for root in (data, tmp_path / "out"))
        assert (
            packed.class_names == folder.class_names == CLASSES
            and packed.fingerprint() == folder.fingerprint()
            and len(packed) == len(folder)
        )


def test_what_was_answered_is_kept_when_predict_ends_early(
    compiled_once: predictor.Predictor,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    for number in range(6):
        stripes(0, 2, number).save(tmp_path / f"{number}.png")
    out = tmp_path / "out" / "it.json"
    out.parent.mkdir()
    out.write_text("old")
    compute, calls = compiled_once.batches.compute, []

    def broken(images: np.ndarray) -> np.ndarray:
        calls.append(len(images))
        if len(calls) > 2:
            raise KeyboardInterrupt
        return compute(images)

    monkeypatch.setattr(compiled_once.batches, "compute", broken)
    with pytest.raises(KeyboardInterrupt):
        run(predict, tmp_path, "--ckpt_path", weights, "--format", "json", "--batch_size", 2, "--out", out)
    assert out.read_text() == "old" and f"the answers so far are in {out}.partial" in capsys.readouterr().err
    assert [Path(item["image"]).name for item in json.loads(Path(f"{out}.partial").read_text("utf-8"))] == [
        "0.png",
        "1.png",
        "2.png",
        "3.png",
    ]
    with pytest.raises(errors.UserError, match="no file with weights"):
        run(predict, tmp_path, "--ckpt_path", tmp_path / "none.ckpt", "--out", tmp_path / "new" / "it.csv")
    assert not list((tmp_path / "new").iterdir())


def test_an_out_that_is_a_device_or_a_link_stays_one(tmp_path: Path) -> None:
    with (
        pytest.raises(errors.UserError, match="--out /dev/full can't be written: No space left on device"),
        predict.writer(Path("/dev/full")) as write,
    ):
        write("a")
    with predict.writer(Path("/dev/null")) as write:
        write("a")
    (tmp_path / "real.csv").write_text("old")
    link(tmp_path / "it.csv", "real.csv")
    with predict.writer(tmp_path / "it.csv") as write:
        write("new")
    assert (
        (tmp_path / "it.csv").is_symlink()
        and (tmp_path / "real.csv").read_text() == "new\n"
        and not Path("/dev/null").is_file()
    )


def test_the_limit_of_pixels_reaches_predict_and_attention(
    compiled_once: predictor.Predictor, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    stripes(0, 2, 0).save(tmp_path / "a.png")
    for tool, more in ((predict, ()), (attention, ("--out", tmp_path / "out"))):
        with pytest.raises(predictor.Unreadable):
            run(tool, tmp_path / "a.png", "--ckpt_path", weights, "--max_pixels", 1999, *more)
        assert "a.png can't be decoded (50 x 40 px are 2000 pixels, and max_pixels is 1999" in capsys.readouterr().err
    with pytest.raises(errors.UserError, match="max_pixels is 1999"):
        compiled_once(stripes(0, 2, 0))
    assert len(compiled_once(stripes(0, 2, 0, (49, 40)))) == 2
