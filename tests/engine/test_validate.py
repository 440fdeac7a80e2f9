"""validate.py: the moving average, and what was said of every image."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
from image_files import make_data_dir
from mindspore import Parameter, Tensor
from PIL import Image

import train
import validate
from mindvit.cli import convert
from mindvit.engine import checkpoint
from mindvit.errors import UserError
from mindvit.recipe.commandline import parse
from mindvit.weights import read_weights

pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set of 3 classes with 15 images to validate, and the folder of a run over it that kept an average."""
    data = make_data_dir(tmp_path_factory.mktemp("images"), classes=3, train=8, val=5, modes=("jpeg_rgb",))
    out = tmp_path_factory.mktemp("out")
    train.main(
        [
            "--model",
            "nano",
            "--data_dir",
            str(data),
            "--ckpt_save_dir",
            str(out),
            "--results_csv",
            str(out / "results.csv"),
            "--device_target",
            "CPU",
            "--epoch_size",
            "2",
            "--warmup_epochs",
            "0",
            "--batch_size",
            "8",
            "--lr",
            "0.01",
            "--ema",
            "--ema_decay",
            "0.5",
        ]
    )
    return data, out


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_image_once_with_what_was_said(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data, out = trained
    validate.main(
        [
            "--data_dir",
            str(data),
            "--ckpt_path",
            str(out / "nano-2.ckpt"),
            "--batch_size",
            "4",
            "--predictions",
            str(tmp_path / "new" / "said.csv"),
        ]
    )
    said = rows(tmp_path / "new" / "said.csv")
    assert [row["image"] for row in said] == sorted(str(path) for path in (data / "val").rglob("*.*"))
    assert all(row["label"] == Path(row["image"]).parent.name for row in said) and list(
        (tmp_path / "new").iterdir()
    ) == [tmp_path / "new" / "said.csv"]
    right = sum(row["label"] == row["class1"] for row in said)
    assert f"({right}/15)" in capsys.readouterr().out
    for row in said:
        classes = {row[f"class{place}"]: float(row[f"probability{place}"]) for place in (1, 2, 3)}
        assert abs(sum(classes.values()) - 1) < 1e-5 and list(classes.values()) == sorted(
            classes.values(), reverse=True
        )
        assert abs(-np.log(classes[row["label"]]) - float(row["loss"])) < 1e-3
    final = rows(out / "log.csv")[-1]
    better = "ema_loss" if float(final["ema_top1"]) > float(final["top1"]) else "val_loss"
    assert abs(np.mean([float(row["loss"]) for row in said]) - float(final[better])) < 1e-5


def test_views_are_averaged(trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The mean of an image's and its mirror image's probabilities, as a data set of mirror images says them."""
    data, out = trained
    for path in (data / "val").rglob("*.*"):
        target = tmp_path / "data" / path.relative_to(data).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(target)

    def said(folder: Path, *words: str) -> np.ndarray:
        file = tmp_path / f"{len(words)}{folder.name}.csv"
        words = ("--ckpt_path", str(out / "nano-2.ckpt"), "--batch_size", "4", "--predictions", str(file), *words)
        validate.main(["--data_dir", str(folder), *words])
        found = [{row[f"class{n}"]: float(row[f"probability{n}"]) for n in (1, 2, 3)} for row in rows(file)]
        return np.array([[row[name] for name in ("class_0", "class_1", "class_2")] for row in found])

    mean = (said(data) + said(tmp_path / "data")) / 2
    assert np.abs(said(data, "--tta", "flip") - mean).max() < 1e-4
    with pytest.raises(UserError, match="not cropped"):
        said(data, "--tta", "five_crops", "--crop_pct", "1.0")
    five = said(data, "--tta", "five_crops", "--crop_pct", "0.5")
    assert np.abs(five.sum(1) - 1).max() < 1e-4


def test_a_folder_of_what_there_is_to_see(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data, out = trained
    asked = ["--data_dir", str(data), "--ckpt_path", str(out / "nano-2.ckpt"), "--batch_size", "4"]
    validate.main([*asked, "--out", str(tmp_path / "seen")])
    text = capsys.readouterr().out
    right = sum(int(row["images"]) * float(row["recall"]) / 100 for row in rows(tmp_path / "seen" / "classes.csv"))
    assert f"({round(right)}/15)" in text
    assert "| class_0 " in text and "calibration error" in text
    assert {path.name for path in (tmp_path / "seen").glob("*.png")} == {
        "confusion.png",
        "calibration.png",
        "wrong.png",
    }
    with pytest.raises(UserError, match="not both"):
        validate.main([*asked, "--out", str(tmp_path / "seen"), "--predictions", str(tmp_path / "said.csv")])


def test_the_average_is_measured_where_asked_for(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data, out = trained
    asked = ["--data_dir", str(data), "--ckpt_path", str(out / "nano-2.ckpt")]
    validate.main([*asked, "--ema"])
    text = capsys.readouterr().out
    final = rows(out / "log.csv")[-1]
    found = re.search(r"nano \(moving average\) .* loss ([\d.]+) ", text)
    assert found and abs(float(found[1]) - float(final["ema_loss"])) < 2e-4 < abs(
        float(final["ema_loss"]) - float(final["val_loss"])
    )
    arrays, _ = read_weights(out / "nano-2.ckpt")
    np.savez(tmp_path / "raw.npz", **{name: value for name, value in arrays.items() if not name.startswith("mindvit.")})
    with pytest.raises(UserError, match="no moving average"):
        validate.main(
            [*asked[:2], "--model", "nano", "--num_classes", "3", "--ckpt_path", str(tmp_path / "raw.npz"), "--ema"]
        )


def test_the_better_weights_are_measured_and_a_converted_file_scores_the_same(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data, out = trained
    arrays, meta = read_weights(out / "nano-2.ckpt")
    final = rows(out / "log.csv")[-1]
    assert meta["best_weights"] == ("ema" if float(final["ema_top1"]) > float(final["top1"]) else "model")
    assert abs(100 * meta["ema_score"]["correct1"] / 15 - float(final["ema_top1"])) < 1e-3
    own = {name: value for name, value in arrays.items() if not name.startswith("mindvit.")}
    wrong = {**own, "head.weight": -own["head.weight"], "head.bias": -own["head.bias"]}
    everything = {**wrong, **{f"mindvit.ema.{name}": value for name, value in own.items()}}
    states = [Parameter(Tensor(value), name=name) for name, value in everything.items()]
    checkpoint.save(tmp_path / "a.ckpt", states, {**meta, "best_weights": "ema"})

    def measured(path: Path, *more: str) -> str:
        capsys.readouterr()
        validate.main(["--data_dir", str(data), "--ckpt_path", str(path), *more])
        told, line = capsys.readouterr().out.splitlines()[-2:]
        assert str(path) in told and ("taken: ema" in told) == ("(moving average)" in line)
        return line.partition("  loss ")[0] + line.split()[line.split().index("loss") + 1]

    right = measured(tmp_path / "a.ckpt")
    assert "(moving average)" in right and f"({meta['score']['correct1']}/15)" in right
    assert measured(tmp_path / "a.ckpt", "--ema", "False") != right
    convert.main([str(tmp_path / "a.ckpt"), "--out", str(tmp_path / "b.safetensors")])
    convert.main([str(tmp_path / "b.safetensors"), "--out", str(tmp_path / "c.ckpt")])
    assert measured(tmp_path / "c.ckpt") == right


def test_predictions_that_cannot_be_written_are_told_before_the_work(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    data, out = trained
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="predictions can't be written"):
        validate.main(
            [
                "--data_dir",
                str(data),
                "--ckpt_path",
                str(out / "nano-2.ckpt"),
                "--predictions",
                str(tmp_path / "file" / "said.csv"),
            ]
        )
    assert parse(["--ema"], "")[0].optim.ema
