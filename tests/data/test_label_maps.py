"""Folders of images with label maps: every layout, every format of a map, and what people get wrong."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
from image_files import make_data_dir
from label_files import CLASSES, make_label_folder, sample
from PIL import Image

from mindvit.cli import inspect_data
from mindvit.data.datasets import label_folder
from mindvit.data.datasets.build import open_dataset
from mindvit.data.datasets.dense import CITYSCAPES, open_label_maps
from mindvit.data.label_maps import palette, read_label_map, write_label_map
from mindvit.errors import UserError
from mindvit.recipe.schema import Recipe, build


def recipe(root: Path, **values: Any) -> Recipe:
    return build({"model": "semantic_fpn", "dataset": "segmentation", "data_dir": str(root), **values}, {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_label_folder(tmp_path / "data", train=4, val=2)


def test_images_with_their_label_maps(folder: Path) -> None:
    train, val = (open_label_maps(recipe(folder), split) for split in ("train", "val"))
    assert (len(train), len(val)) == (4, 2)
    assert train.class_names == CLASSES
    image, labels = sample(3)
    found = train[3]
    assert np.array_equal(np.asarray(found.image), image)
    assert np.array_equal(found.target, labels)
    assert np.array_equal(train.target(3), labels)
    assert train.key(3) == "3"
    assert train.remarks == []
    assert train.fingerprint() != val.fingerprint()
    reduced = open_label_maps(recipe(shifted(folder), reduce_zero_label=True), "train")
    assert np.array_equal(reduced[3].target, labels)
    assert reduced.fingerprint() != train.fingerprint()


def shifted(folder: Path) -> Path:
    """Class numbers from 1 on, 0 for none."""
    for path in folder.glob("annotations/*/*.png"):
        values = np.asarray(Image.open(path))
        Image.fromarray(np.where(values == 255, 0, values + 1).astype(np.uint8)).save(path)
    return folder


@pytest.mark.parametrize("form", ["palette", "grey", "16 bits", "bits", "three channels"])
def test_every_format_of_a_map(form: str, tmp_path: Path) -> None:
    labels: np.ndarray = np.array([[0, 1, 2], [255, 1, 0]], np.uint8)
    if form == "bits":
        labels = (labels % 2).astype(np.uint8)
        image = Image.fromarray(labels.astype(bool))
    elif form == "palette":
        write_label_map(tmp_path / "a.png", labels)
        image = Image.open(tmp_path / "a.png")
        assert np.array_equal(np.asarray(image.convert("RGB"))[0, 1], palette()[1])
    else:
        forms: dict[str, np.ndarray] = {
            "16 bits": labels.astype(np.uint16),
            "grey": labels,
            "three channels": np.stack([labels] * 3, -1),
        }
        image = Image.fromarray(forms[form])
    image.save(tmp_path / "b.png")
    assert np.array_equal(read_label_map(str(tmp_path / "b.png"), 100), labels)


def test_the_palette_is_pascal_vocs() -> None:
    colours = palette()
    assert colours[[0, 1, 2, 8, 255]].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [64, 0, 0], [224, 224, 192]]
    assert len(np.unique(colours, axis=0)) == 256


def test_ade20k(folder: Path) -> None:
    for kind in ("images", "annotations"):
        for old, new in (("train", "training"), ("val", "validation")):
            (folder / kind / old).rename(folder / kind / new)
    shifted(folder)
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName", "1\t0.2\t1\t1\t1\tground, floor", "2\t0.1\t1\t1\t0\tsquare"]
    (folder / "objectInfo150.txt").write_text("\n".join([*rows, "3\t0.1\t1\t1\t0\tbar"]), "utf-8")
    dataset = open_label_maps(recipe(folder, dataset="ade20k"), "val")
    assert dataset.class_names == CLASSES
    assert np.array_equal(dataset[0].target, sample(100)[1])
    (folder / "objectInfo150.txt").unlink()
    assert "objectInfo150.txt can't be read" in refused(folder, dataset="ade20k")


def test_cityscapes(folder: Path) -> None:
    for number in range(2):
        for kind, end in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
            (folder / kind / "train/ulm").mkdir(parents=True, exist_ok=True)
            source = folder / ("images" if kind == "leftImg8bit" else "annotations") / f"train/{number}.png"
            shutil.copy(source, folder / kind / f"train/ulm/ulm_{number}_{end}.png")
    path = folder / "gtFine/train/ulm/ulm_1_gtFine_labelIds.png"
    values = np.zeros(np.asarray(Image.open(path)).shape, np.uint8)
    values[0, :4] = 7, 33, 9, 255
    Image.fromarray(values).save(path)
    dataset = open_label_maps(recipe(folder, dataset="cityscapes"), "train")
    assert dataset.class_names == tuple(CITYSCAPES)
    assert dataset.key(1) == "ulm/ulm_1_leftImg8bit"
    assert dataset[1].target[0, :5].tolist() == [0, 18, 255, 255, 255]


def refused(folder: Path, **values: Any) -> str:
    """The one line that a folder is refused with."""
    with pytest.raises(UserError) as caught:
        open_label_maps(recipe(folder, **values), "train")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


def saved(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], Any]:
    """Writes a map or an image anew."""

    def write(root: Path) -> None:
        Image.fromarray(change(np.asarray(Image.open(root / name)).copy())).save(root / name)

    return write


def labelled(value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(labels: np.ndarray) -> np.ndarray:
        labels[20, 30] = value
        return labels

    return change


def turned(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(root / "images/train/0.png").rotate(90, expand=True).save(root / "images/train/0.png", exif=exif)


def unlabelled(root: Path) -> None:
    for path in root.glob("annotations/train/*"):
        Image.new("L", Image.open(path).size, 255).save(path)


MISTAKES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "sizes that differ": (
        saved("annotations/train/1.png", lambda labels: labels[:-1]),
        "images/train/1.png is 40 x 48 px, but its label map .*annotations/train/1.png is 40 x 47$",
    ),
    "EXIF turns the image alone": (
        turned,
        "0.png is 40 x 56 px, but its label map .*0.png is 56 x 40; the image's EXIF orientation turns it",
    ),
    "a label beyond the classes": (
        saved("annotations/train/2.png", labelled(3)),
        "annotations/train/2.png has 3 at row 20, column 30, but classes.txt names 3 classes: labels are 0 to 2, and "
        "255 where nothing counts$",
    ),
    "labels from 1": (
        saved("annotations/train/2.png", lambda labels: np.minimum(labels, 2) + 1),
        "2.png has 3 at row 0, column 0.*if they are counted from 1: reduce_zero_label: True",
    ),
    "colours": (
        saved("annotations/train/0.png", lambda labels: palette()[labels]),
        "annotations/train/0.png holds colours .RGB. and no class numbers: save it with a palette or in grey",
    ),
    "a JPEG": (
        lambda root: Image.open(root / "annotations/train/0.png").save(root / "annotations/train/0.png", "JPEG"),
        "a JPEG, and label maps are PNGs",
    ),
    "a map that is missing": (
        lambda root: (root / "annotations/train/3.png").rename(root / "3.png"),
        "1 of 4 images have no label map: .*images/train/3.png needs .*annotations/train/3.png",
    ),
    "names that don't fit": (
        lambda root: [path.rename(path.with_name(f"map_{path.name}")) for path in root.glob("annotations/train/*")],
        "none of the 4 images in .* has a label map of its name in .*: 0.png needs 0.png, and there is map_0.png, ",
    ),
    "a map that is broken": (
        lambda root: (root / "annotations/train/0.png").write_bytes(b"PNG"),
        "^label map .*annotations/train/0.png can't be decoded",
    ),
    "two images of one map": (
        lambda root: Image.open(root / "images/train/0.png").save(root / "images/train/0.jpg"),
        "images/train/0.jpg and .*images/train/0.png have one label map, .*annotations/train/0.png: take one",
    ),
    "a class twice": (
        lambda root: (root / "classes.txt").write_text("sky\nsea\nsky\n"),
        "classes.txt names class sky more than once",
    ),
    "nothing labelled": (
        unlabelled,
        "^no pixel of the 4 label maps for .*images/train has a class: 255 counts nowhere$",
    ),
    "no folder of maps": (
        lambda root: (root / "annotations").rename(root / "labels"),
        "has no folder annotations/train: it needs images/train with images and annotations/train with a label map",
    ),
    "no image": (
        lambda root: [path.rename(root / path.name) for path in root.glob("images/train/*")],
        r"images/train holds no image \(\*.jpg",
    ),
    "no classes": (
        lambda root: (root / "classes.txt").rename(root / "names.txt"),
        "classes.txt does not exist: dataset: segmentation needs the classes' names",
    ),
    "too many classes": (
        lambda root: (root / "classes.txt").write_text("\n".join(map(str, range(256)))),
        "classes.txt names 256 classes, but there can be 1 to 255: 255 marks pixels that count nowhere",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_a_line(mistake: str, folder: Path) -> None:
    change, told = MISTAKES[mistake]
    change(folder)
    with pytest.raises(UserError, match=told):
        open_label_maps(recipe(folder), "train")
    refused(folder)


def test_what_may_be_a_mistake_is_remarked(folder: Path) -> None:
    for path in folder.glob("annotations/train/*"):
        values = np.asarray(Image.open(path))
        Image.fromarray(np.where(values == 1, 255, 0).astype(np.uint8)).save(path)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(folder / "images/train/1.png").save(folder / "images/train/1.png", exif=exif)
    saved("annotations/train/2.png", lambda labels: np.full_like(labels, 255))(folder)
    blank, empty, stored = open_label_maps(recipe(folder), "train").remarks
    assert re.match("1 of 4 label maps have no pixel with a class, .*annotations/train/2.png first$", blank)
    assert empty.startswith("2 of 3 classes have no pixel in 4 label maps: square, bar; they hold 0 and 255 alone")
    assert stored.startswith("1 of 4 images have an EXIF orientation")


def test_data_sets_and_networks_that_do_not_belong_together(folder: Path, tmp_path: Path) -> None:
    assert "dataset is imagenet, which has no label maps, but semantic_fpn is a segmentor" in refused(
        folder, dataset="imagenet"
    )
    assert "data_dir is not given, but dataset: segmentation needs it" in refused(folder, data_dir=None)
    assert "nowhere does not exist; give a folder with images/train" in refused(tmp_path / "nowhere")
    assert "classes.txt is not a folder" in refused(folder / "classes.txt")
    images = make_data_dir(tmp_path / "images", classes=2, train=1, val=1, modes=("jpeg_rgb",))
    options = build({"dataset": "segmentation", "data_dir": str(images)}, {}).data
    with pytest.raises(UserError, match="dataset segmentation has no class for each image, which a classifier needs"):
        open_dataset(options, "train")


def test_everything_is_read_and_told_before_training(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_folder, "LOOKED_AT", 1)
    MISTAKES["a label beyond the classes"][0](folder)
    Image.fromarray(np.zeros_like(sample(100)[1])).save(folder / "annotations/val/100.png")
    network = "--model semantic_fpn --backbone cvt_13_224 --crop_size 32 --batch_size 2 --img_scale none"
    options = ["--dataset", "segmentation", "--data_dir", str(folder), "--out", str(tmp_path / "out")]
    inspect_data.main([*network.split(), *options])
    told = capsys.readouterr().out
    assert "3 classes, 4 training and 2 validation images" in told
    assert "can't be used: 1" in told and "annotations/train/2.png has 3 at row 20, column 30" in told
    rows = {row["class"]: row for row in csv.DictReader((tmp_path / "out/classes.csv").open())}
    counts = np.sum([np.bincount(sample(number)[1].ravel(), minlength=256)[:3] for number in (0, 1, 3)], 0)
    for number, name in enumerate(CLASSES):
        assert float(rows[name]["train_share"]) == pytest.approx(100 * counts[number] / counts.sum(), abs=1e-3)
        assert rows[name]["train_images"] == "3"
    assert rows["square"]["val_images"] == "1"
    assert len((tmp_path / "out/findings.csv").read_text("utf-8").splitlines()) == 2
    assert Image.open(tmp_path / "out/preview.png").size[0] > 300
