"""mindvit inspect-data: what it says, the files that it writes, and batches as the network gets them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from coco_files import make_coco_folder
from image_files import make_data_dir, make_different
from PIL import Image

from mindvit.cli import inspect_data
from mindvit.engine.setup import setup
from mindvit.errors import UserError
from mindvit.recipe.commandline import parse
from mindvit.tasks import task_of
from mindvit.tasks.classification.inspect import soft_label
from mindvit.tasks.classification.task import ClassificationTask
from mindvit.tasks.detection.task import DetectionTask

pytestmark = pytest.mark.usefixtures("small_networks")
NANO = ("--model", "nano", "--device_target", "CPU", "--batch_size", "4")

DETECTOR = (
    *("--model", "mask_rcnn", "--backbone", "nano_pyramid", "--dataset", "coco", "--device_target", "CPU"),
    *("--canvas", "64", "--img_scale", "none", "--batch_size", "4", "--hflip", "0"),
)


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


def test_a_task_without_it_and_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    recipe, _ = parse([*NANO], "")
    with pytest.raises(UserError, match="inspect-data can't look at data for depth, which nano is for"):
        inspect_data.inspect(SimpleNamespace(name="depth"), recipe, tmp_path / "out", None)  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out .* can't be written"):
        inspect_data.main([*NANO, "--dataset", "digits", "--out", str(tmp_path / "file" / "out")])


def test_objects_by_class_and_size(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = make_coco_folder(tmp_path / "data", train=8, val=4)
    (data / "val" / "101.png").write_bytes(b"no image")
    file = data / "annotations" / "train.json"
    content = json.loads(file.read_text())
    outside = {**content["annotations"][0], "id": 99, "area": 1e4, "segmentation": [[90, 90, 95, 90, 95, 95]]}
    content["annotations"] += [outside, {**outside, "id": 100, "iscrowd": 1}]
    file.write_text(json.dumps(content))
    inspect_data.main([*DETECTOR, "--max_instances", "1", "--data_dir", str(data), "--out", str(tmp_path / "out")])
    lines = capsys.readouterr().out.splitlines()
    expected = [
        "2 classes, 8 training and 4 validation images",
        "5 of 8 images have more than max_instances (1) objects, up to 2 (0.png): the largest are trained on, and 5 "
        "are not",
        "train: 13 objects (12 small, 0 medium, 1 large) and 1 crowd regions",
        "train: 2 objects an image (median), 2 at most, none in 0 of 8 images",
        "train: images are 48 to 64 px wide and 40 to 64 px high",
        "training objects a class: 4 (blue) to 9 (red)",
        f"{data}/train/0.png: 2 objects have no pixel in their mask",
        "can't be used: 1",
    ]
    found = [line for line in lines if line in expected]
    assert found == expected, "\n".join(lines)
    assert [(row["split"], Path(row["image"]).name) for row in rows(tmp_path / "out" / "findings.csv")] == [
        ("train", "0.png"),
        ("val", "101.png"),
    ]
    counted = {row["class"]: (row["train_images"], row["train_objects"]) for row in rows(tmp_path / "out/classes.csv")}
    assert counted == {"red": ("8", "9"), "blue": ("4", "4")}
    assert min(Image.open(tmp_path / "out" / "preview.png").size) > 600


def test_a_preview_has_the_objects_that_are_learnt(tmp_path: Path) -> None:
    data = make_coco_folder(tmp_path / "data", train=4, val=1)
    recipe, _ = parse([*DETECTOR, "--hflip", "1", "--shuffle", "False", "--data_dir", str(data)], "")
    task = DetectionTask()
    train, _ = task.datasets(recipe, None, print)
    images = list(task.preview(setup(recipe, train), train, 1))
    assert [image.target for image in images] == ["1 x red", "1 x red, 1 x blue"] * 2
    for number, image in enumerate(images):
        own, width = train.target(number), train.read(number).width
        assert image.objects is not None and image.objects.masks is not None
        assert np.allclose(image.objects.boxes[:, 0], width - own.boxes[:, 2])
        assert np.array_equal(image.objects.masks[:, : own.masks.shape[1], :width], own.masks[:, :, ::-1])
        assert list(image.names) == [train.class_names[label] for label in own.labels]
