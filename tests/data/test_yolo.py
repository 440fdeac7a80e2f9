"""Images annotated as YOLO's, and what people get wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import numpy as np
import pytest
from PIL import Image

from mindvit.data.datasets.coco import AnnotatedDataset
from mindvit.data.datasets.detection import open_objects
from mindvit.errors import UserError
from mindvit.recipe.commandline import parse

NAMES = "nc: 2\nnames: [cat, 1]\n"
BOX = "0 0.5 0.5 0.25 0.5\n"


def folder(root: Path, labels: dict[str, Optional[str]], layout: str = "{kind}/{split}") -> Path:
    """A data set with these files of labels, each with an image of 64 x 48 px."""
    for split in ("train", "val"):
        images, texts = (root / layout.format(kind=kind, split=split) for kind in ("images", "labels"))
        for name, text in labels.items():
            for place in (images / name, texts / name):
                place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 48)).save(images / f"{name}.png")
            if text is not None:
                (texts / f"{name}.txt").write_text(text)
    (root / "data.yaml").write_text(NAMES)
    return root


def opened(root: Path, masks: bool = False, more: str = "") -> AnnotatedDataset:
    given = f"--model mask_rcnn --backbone xcit_nano_12_p16_224 --dataset yolo --data_dir {root} {more}"
    found = open_objects(parse(given.split(), "")[0], "train", masks)
    assert isinstance(found, AnnotatedDataset)
    return found


@pytest.mark.parametrize("layout", ["{kind}/{split}", "{split}/{kind}"])
def test_boxes(tmp_path: Path, layout: str) -> None:
    dataset = opened(folder(tmp_path, {"sub/a": f"{BOX}\n1 0.25 0.75 0.5 0.5\n"}, layout))
    assert dataset.class_names == ("cat", "1")
    target = dataset.target(0)
    assert target.boxes.tolist() == [[24, 12, 40, 36], [0, 24, 32, 48]]
    assert target.labels.tolist() == [0, 1]
    assert not target.crowd.any()


def test_polygons(tmp_path: Path) -> None:
    dataset = opened(folder(tmp_path, {"a": "1 0.25 0.25 0.75 0.25 0.75 0.5 0.25 0.5\n"}), masks=True)
    target = dataset.target(0)
    assert target.boxes.tolist() == [[16, 12, 48, 24]]
    assert target.masks is not None and target.masks.sum() == target.masks[0, 12:24, 16:48].sum() == 32 * 12
    assert target.areas is not None and target.areas.tolist() == [32 * 12]


def test_images_that_tools_show_turned(tmp_path: Path) -> None:
    folder(tmp_path, {"a": BOX})
    exif = Image.Exif()
    for orientation, size in ((6, (48, 64)), (3, (64, 48))):
        exif[274] = orientation
        pixels = np.zeros((48, 64, 3), np.uint8)
        pixels[:24] = 255
        Image.fromarray(pixels).save(tmp_path / "images" / "train" / "a.png", exif=exif)
        image = opened(tmp_path).read(0)
        assert image.size == size
        assert np.asarray(image)[0, 0].max() == 0


def test_names(tmp_path: Path) -> None:
    folder(tmp_path, {"a": BOX})
    (tmp_path / "data.yaml").write_text("names:\n  1: dog\n  0: cat\n")
    assert opened(tmp_path).class_names == ("cat", "dog")
    for text, message in (
        ("names: {0: cat, 2: dog}", "names must have the numbers 0 to 1, each once"),
        ("nc: 3\nnames: [cat, dog]", "nc is 3, but there are 2 names"),
        ("nc: 3", "names must be a list of the classes' names"),
    ):
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(UserError, match=message):
            opened(tmp_path)
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(UserError, match="classes.txt does not exist, nor does data.yaml"):
        opened(tmp_path)
    (tmp_path / "classes.txt").write_text("cow\n")
    assert opened(tmp_path).class_names == ("cow",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 0.1 0.1 0.9", "a.txt: line 2 has 6 columns, but must have class, centre x, centre y"),
        ("0 0.5 0.5 0.1", "a.txt: line 2 has 4 columns"),
        ("cat 0.5 0.5 0.1 0.1", "a.txt: line 2: 'cat' is no number"),
        ("2 0.5 0.5 0.1 0.1", "a.txt: line 2: class 2, but there are 2 classes, 0 to 1: cat, 1"),
        ("0.5 0.5 0.5 0.1 0.1", "a.txt: line 2: class 0.5, but there are 2 classes"),
        ("0 32 24 16 24", "a.txt: line 2: 32 is not within 0 and 1: numbers are shares"),
        ("0 0.5 0.5 -0.1 0.1", "a.txt: line 2: -0.1 is not within 0 and 1"),
        ("0 0.5 nan 0.1 0.1", "a.txt: line 2: nan is not within 0 and 1"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        opened(folder(tmp_path, {"a": BOX + text}))


def test_missing_files(tmp_path: Path) -> None:
    folder(tmp_path, {"a": BOX, "b": None, "c": ""})
    (tmp_path / "labels" / "train" / "z.txt").write_text(BOX)
    remarks = "\n".join(opened(tmp_path, more="--empty_images True").remarks)
    assert "1 of 3 images have no file in " in remarks and "no objects (b.png)" in remarks
    assert "labels/train: 1 files of labels have no image (z.txt)" in remarks
    with pytest.raises(UserError, match="annotation a.txt, line 1 has no segmentation, which masks are learnt from"):
        opened(tmp_path, masks=True)
    with pytest.raises(UserError, match="has no folder images/train2, only images/train, images/val; give"):
        opened(tmp_path, more="--train_split train2")
    (tmp_path / "labels" / "train" / "a.txt").unlink()
    (tmp_path / "labels" / "train" / "c.txt").unlink()
    with pytest.raises(UserError, match="none of the 3 images in .* has labels: a.png needs .*labels/train/a.txt"):
        opened(tmp_path)
