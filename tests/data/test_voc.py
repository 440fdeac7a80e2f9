"""Images annotated as Pascal VOC's, and what people get wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
from PIL import Image

from mindvit.data.datasets.coco import AnnotatedDataset
from mindvit.data.datasets.detection import open_objects
from mindvit.errors import UserError
from mindvit.recipe.commandline import parse

WHOLE = "<size><width>64</width><height>48</height><depth>3</depth></size>"


def thing(name: str, *sides: Any, more: str = "") -> str:
    values = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), sides))
    return f"<object><name>{name}</name>{more}<bndbox>{values}</bndbox></object>"


def folder(root: Path, train: dict[str, str], val: Optional[dict[str, str]] = None, size: str = WHOLE) -> Path:
    """A data set with an image and these objects by name."""
    for place in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / place).mkdir(parents=True, exist_ok=True)
    for split, images in (("train", train), ("val", val or {"v": thing("cat", 1, 1, 9, 9)})):
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(images) + "\n")
        for name, objects in images.items():
            Image.new("RGB", (64, 48)).save(root / "JPEGImages" / f"{name}.jpg")
            (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    return root


def opened(root: Path, split: str = "train", more: str = "") -> AnnotatedDataset:
    given = f"--model retinanet --backbone xcit_nano_12_p16_224 --dataset voc --data_dir {root} {more}"
    found = open_objects(parse(given.split(), "")[0], split, masks=False)
    assert isinstance(found, AnnotatedDataset)
    return found


def test_boxes_and_difficult_objects(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>3</xmin></bndbox></part><difficult>1</difficult>"
    objects = thing("dog", 1, 2, 10, 20) + thing("cat", 11.5, 5, 30, 48, more=part)
    dataset = opened(folder(tmp_path, {"2008_1": objects}))
    assert dataset.class_names == ("cat", "dog")
    target = dataset.target(0)
    assert target.boxes.tolist() == [[0, 1, 10, 20], [10.5, 4, 30, 48]]
    assert target.labels.tolist() == [1, 0]
    assert target.crowd.tolist() == [False, True]
    assert opened(tmp_path, "val").class_names == ("cat", "dog")
    (tmp_path / "classes.txt").write_text("dog\ncat\nbird\n")
    assert opened(tmp_path).class_names == ("dog", "cat", "bird")


def test_images_without_a_size_are_looked_at_as_they_are_shown(tmp_path: Path) -> None:
    folder(tmp_path, {"a": thing("cat", 1, 1, 48, 48)}, size="<size><width>0</width><height>0</height></size>")
    exif = Image.Exif()
    exif[274] = 3
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24] = 255
    Image.fromarray(pixels).save(tmp_path / "JPEGImages" / "a.jpg", exif=exif)
    dataset = opened(tmp_path)
    assert (dataset.images[0]["width"], dataset.images[0]["height"]) == (64, 48)
    assert np.asarray(dataset.read(0))[:20].max() < 50
    exif[274] = 6
    Image.fromarray(pixels).save(tmp_path / "JPEGImages" / "a.jpg", exif=exif)
    assert opened(tmp_path).read(0).size == (48, 64)
    (tmp_path / "JPEGImages" / "a.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a.jpg can't be decoded .*: repair it or leave it out"):
        opened(tmp_path)


def test_what_is_put_right_is_told(tmp_path: Path) -> None:
    dataset = opened(folder(tmp_path, {"a": thing("cat", 1, 1, 9, 9) * 2 + thing("cat", 30, 30, 90, 40)}))
    assert dataset.remarks == [
        "Annotations: 1 annotations end beyond their image: they are cut there (the first: a.xml, object 3)"
    ]


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (thing("cat", 9, 1, 3, 9), r"a.xml: object 1 \(cat\): xmin is 9 and xmax 3: exchange them"),
        (thing("cat", 1, 9, 3, 2), r"a.xml: object 1 \(cat\): ymin is 9 and ymax 2: exchange them"),
        (thing("cat", 1, 1, 9), r"a.xml: object 1 \(cat\): ymax is missing, but bndbox must have four numbers"),
        (thing("cat", 1, "one", 9, 9), r"object 1 \(cat\): ymin is 'one', but bndbox must have four numbers"),
        (thing("", 1, 1, 9, 9), "a.xml: object 1 has no name"),
        ("<object>", r"a.xml: broken XML \(mismatched tag: line 1, column \d+\)"),
        (thing("cat", 1, 1, 90, 90), r"Annotations: 1 of 1 boxes end .* an image of another size, or <size> is"),
    ],
)
def test_mistakes(tmp_path: Path, objects: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        opened(folder(tmp_path, {"a": objects}))


def test_classes_that_training_lacks(tmp_path: Path) -> None:
    folder(tmp_path, {"a": thing("cat", 1, 1, 9, 9)}, {"v": thing("cats", 1, 1, 9, 9)})
    with pytest.raises(UserError, match="v.xml: object 1 is a 'cats', .* the 1 classes, cat; did you mean cat"):
        opened(tmp_path, "val")
    (tmp_path / "ImageSets" / "Main" / "train.txt").unlink()
    with pytest.raises(UserError, match="has neither ImageSets/Main/train.txt nor classes.txt"):
        opened(tmp_path, "val")


def test_missing_files(tmp_path: Path) -> None:
    root = folder(tmp_path / "VOCdevkit" / "VOC2007", {"a": thing("cat", 1, 1, 9, 9)})
    with pytest.raises(UserError, match=r"has no folder Annotations, but .*VOCdevkit/VOC2007 has"):
        opened(tmp_path)
    with pytest.raises(UserError, match="dataset: voc has boxes, but no masks, which mask_rcnn learns"):
        open_objects(parse(f"--model mask_rcnn --dataset voc --data_dir {root}".split(), "")[0], "train", masks=True)
    with pytest.raises(UserError, match=r"trainval.txt can't be read \(No such file or directory\)"):
        opened(root, more="--train_split trainval")
    (root / "Annotations" / "a.xml").unlink()
    with pytest.raises(UserError, match=r"a.xml can't be read \(No such file or directory\)"):
        opened(root)
    (root / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"train.txt: line 1: JPEGImages has no image a"):
        opened(root)
