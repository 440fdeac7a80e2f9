"""mindvit inspect-data: what it says, the files that it writes, and batches as the network gets them."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from image_files import make_data_dir, make_different
from PIL import Image

from mindvit.cli import inspect_data
from mindvit.engine.setup import setup
from mindvit.errors import UserError
from mindvit.recipe.commandline import parse
from mindvit.tasks import task_of
from mindvit.tasks.classification.inspect import soft_label
from mindvit.tasks.classification.task import ClassificationTask
from mindvit.tasks.segmentation.task import SegmentationTask

pytestmark = pytest.mark.usefixtures("small_networks")
NANO = ("--model", "nano", "--device_target", "CPU", "--batch_size", "4")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_lines_and_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = make_different(tmp_path / "data", train=3, val=2)
    (data / "train" / "class_0" / "broken.jpg").write_bytes(b"no image")
    shutil.copy(data / "train" / "class_0" / "0.png", data / "val" / "class_0" / "leak.png")
    inspect_data.main([*NANO, "--data_dir", str(data), "--out", str(tmp_path / "out")])
    text = capsys.readouterr().out
    assert "2 classes, 7 training and 5 validation images" in text
    assert "images a class: 3 (class_1) to 4 (class_0)" in text
    assert "fewer than 10 training images: class_0, class_1" in text
    assert "broken: 1\n" in text and "in train and val: 1\n" in text
    counted = [{"class": "class_0", "train": "4", "val": "3"}, {"class": "class_1", "train": "3", "val": "2"}]
    assert rows(tmp_path / "out" / "classes.csv") == counted
    found = rows(tmp_path / "out" / "findings.csv")
    assert [(row["number"], row["kind"], row["split"]) for row in found] == [
        ("1", "broken", "train"),
        ("2", "in train and val", "train"),
        ("2", "in train and val", "val"),
    ]
    assert min(Image.open(tmp_path / "out" / "preview.png").size) > 200


def test_what_was_found_before_does_not_stay(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = make_different(tmp_path / "data", train=3, val=2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "findings.csv").write_text("of another data set")
    inspect_data.main([*NANO, "--data_dir", str(data), "--out", str(tmp_path / "out")])
    assert "nothing broken, twice or odd" in capsys.readouterr().out
    assert not (tmp_path / "out" / "findings.csv").exists()


def test_a_preview_has_the_pixels_that_the_network_gets(tmp_path: Path) -> None:
    """Without augmentation an image is itself; with mixup it is a mean of two, as its label says."""
    data = make_data_dir(tmp_path, classes=2, train=4, val=1, size=(16, 16), modes=("png_rgb",))
    plain = "--scale 1,1 --ratio 1,1 --hflip 0 --shuffle False --batch_size 8 --data_dir".split()  # noqa: SIM905
    recipe, _ = parse([*NANO, *plain, str(data)], "")
    task = task_of(recipe)
    assert isinstance(task, ClassificationTask)
    recipe = task.resolve(recipe)
    train, _ = task.datasets(recipe, None, print)
    images = list(task.preview(setup(recipe, train), train, 1))
    assert [image.target for image in images] == ["class_0"] * 4 + ["class_1"] * 4
    for number, image in enumerate(images):
        assert np.array_equal(image.pixels, np.asarray(train.read(number)))
    mixed = list(task.preview(setup(recipe.replace("test", mixup=1.0), train), train, 1))
    share = float(mixed[0].target.split(" % ")[0]) / 100
    own, other = (train.read(number) for number in ((0, 7) if "% class_0, " in mixed[0].target else (7, 0)))
    expected = share * np.asarray(own, np.float64) + (1 - share) * np.asarray(other, np.float64)
    assert np.abs(mixed[0].pixels - expected).max() < 3  # the label is rounded to a per cent


def test_soft_labels() -> None:
    names = ("cat", "dog")
    assert soft_label({0: 0.3}, 1, names) == "70 % dog, 30 % cat"
    assert soft_label({0: 0.3}, 0, names) == "cat"
    assert soft_label({1: 1.0}, 0, names) == "dog"


def test_a_task_without_it_and_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(UserError, match="can't look at data for segmentation, which"):
        patch.delattr(SegmentationTask, "inspect")
        inspect_data.main(["--model", "semantic_fpn_crossformer_small", "--dataset", "scenes"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out .* can't be written"):
        inspect_data.main([*NANO, "--dataset", "digits", "--out", str(tmp_path / "file" / "out")])
