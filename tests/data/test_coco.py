"""Images annotated as COCO's: what mmdetection makes of the oracle's file, and what people get wrong."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
from golden import FOLDER
from PIL import Image

from mindvit.data.datasets.coco import AnnotatedDataset, read_annotations
from mindvit.data.transforms.detection import best_canvas
from mindvit.errors import UserError

GOLDEN = np.load(FOLDER / "detection_data.npz")
ORACLE = json.loads(str(GOLDEN["coco/json"]))
SQUARE = [[2, 2, 12, 2, 12, 12, 2, 12]]


def annotation(number: int, **changes: Any) -> dict[str, Any]:
    given = {"id": number, "image_id": 7, "category_id": 3, "bbox": [2, 2, 10, 10], "area": 100, "iscrowd": 0}
    return {**given, "segmentation": SQUARE, **changes}


def content(*annotations: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": 40, "height": 36}],
        "annotations": list(annotations),
        "categories": [{"id": 90, "name": "bird"}, {"id": 3, "name": "car"}],
    }


def opened(
    folder: Path, what: dict[str, Any], masks: bool = True, train: bool = True, make: bool = True
) -> AnnotatedDataset:
    """The data set of a file with this content, whose images are there."""
    (folder / "a.json").write_text(json.dumps(what))
    for item in what["images"] if make else ():
        Image.new("RGB", (item["width"], item["height"])).save(folder / item["file_name"], "PNG")
    return AnnotatedDataset(read_annotations(folder / "a.json"), folder, train, masks)


def test_the_oracles_file(tmp_path: Path) -> None:
    train = opened(tmp_path, ORACLE, masks=False)
    assert [item["id"] for item in train.images] == GOLDEN["coco/train_ids"].tolist()
    test = opened(tmp_path, ORACLE, masks=False, train=False)
    assert [item["id"] for item in test.images] == GOLDEN["coco/test_ids"].tolist()
    assert list(train.categories) == GOLDEN["coco/cat_ids"].tolist()
    # canvases that lie and stand part images as mmdetection's flag does: wider than high, or not
    groups = [best_canvas((item["height"], item["width"]), [(96, 64), (64, 96)]) for item in train.images]
    assert groups == GOLDEN["coco/aspect_flag"].tolist()
    for number, item in enumerate(train.images):
        objects, key = train.target(number), f"coco/{item['id']}"
        own, crowd = objects.kept(~objects.crowd), objects.kept(objects.crowd)
        assert np.allclose(own.boxes, GOLDEN[f"{key}/boxes"])
        assert np.array_equal(own.labels, GOLDEN[f"{key}/labels"])
        assert np.allclose(crowd.boxes, GOLDEN[f"{key}/ignore"].reshape(-1, 4))


def test_classes_in_the_order_of_the_file(tmp_path: Path) -> None:
    dataset = opened(tmp_path, content(annotation(0), annotation(5, category_id=90)))
    assert dataset.class_names == ("bird", "car")
    assert dataset.target(0).labels.tolist() == [1, 0]


def test_polygons_and_run_lengths(tmp_path: Path) -> None:
    from pycocotools import mask as codec

    bitmap = np.zeros((36, 40), np.uint8)
    bitmap[5:9, 3:20] = 1
    code = codec.encode(np.asfortranarray(bitmap))
    flat = bitmap.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    compressed = {"size": [36, 40], "counts": code["counts"].decode()}
    uncompressed = {"size": [36, 40], "counts": counts}
    found = [annotation(1), annotation(2, segmentation=compressed), annotation(3, segmentation=uncompressed, iscrowd=1)]
    objects = opened(tmp_path, content(*found)).target(0)
    assert objects.masks is not None
    assert objects.masks[0].sum() == 100 and objects.masks[0][2:12, 2:12].all()
    assert np.array_equal(objects.masks[1], bitmap.astype(bool))
    assert np.array_equal(objects.masks[2], bitmap.astype(bool))
    assert objects.crowd.tolist() == [False, False, True]
    assert objects.areas is not None and objects.areas.tolist() == [100, 100, 100]


def test_what_is_put_right_is_told(tmp_path: Path) -> None:
    found = [annotation(1), annotation(1), annotation(2, bbox=[3, 3, 0, 9]), annotation(4, bbox=[30, 3, 40, 9])]
    dataset = opened(tmp_path, content(*found, annotation(5), annotation(6), annotation(9, category_id=1)))
    assert len(dataset.target(0).labels) == 5
    text = "\n".join(dataset.remarks)
    assert "1 annotations have the id of another: all count (the first: 1)" in text
    assert "1 annotations are of a category that the file doesn't have: they are left out (the first: 9)" in text
    assert "1 annotations have no area: they are left out (the first: 2)" in text
    assert "1 annotations end beyond their image: they are cut there (the first: 4)" in text


def test_images_without_objects(tmp_path: Path) -> None:
    what = content(annotation(1))
    what["images"].append({"id": 8, "file_name": "b.png", "width": 40, "height": 36})
    assert len(opened(tmp_path, what)) == 1
    assert len(opened(tmp_path, what, train=False)) == 2
    empty = opened(tmp_path, what, train=False).target(1)
    assert empty.boxes.shape == (0, 4) and empty.masks is not None and empty.masks.shape == (0, 36, 40)


def test_images_that_lie_on_their_side(tmp_path: Path) -> None:
    dataset = opened(tmp_path, content(annotation(1)))
    pixels = np.zeros((40, 36, 3), np.uint8)
    pixels[:10] = 255  # above, which is to the right once it is turned
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    image = np.asarray(dataset.read(0))
    assert image.shape == (36, 40, 3)
    assert image[:, 30:].min() == 255 and image[:, :30].max() == 0
    Image.fromarray(pixels[:20]).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a.png has 36 x 20 px, but a.json says 40 x 36"):
        dataset.read(0)


def changed(key: str, value: Any, kind: str = "annotations") -> Callable[[dict[str, Any]], None]:
    def change(what: dict[str, Any]) -> None:
        what[kind][0][key] = value

    return change


def twice(what: dict[str, Any]) -> None:
    what["images"] *= 2


def without_width(what: dict[str, Any]) -> None:
    del what["images"][0]["width"]


def without_categories(what: dict[str, Any]) -> None:
    del what["categories"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed("image_id", 4), "annotation 1 is of image 4, which the file doesn't have"),
        (changed("bbox", [1, 2, 3]), r"annotation 1: bbox is \[1, 2, 3\], but must be left, top, width, height"),
        (changed("bbox", [20, 20, 30, 30]), "look like left, top, right, bottom"),
        (changed("category_id", [3]), r"annotation 1: category_id is \[3\], but must be a whole number"),
        (changed("id", {}), "annotation number 0 is {.*, not COCO's"),
        (changed("area", "100"), "annotation 1: area is '100', but must be a number of px"),
        (changed("iscrowd", "0"), "annotation 1: iscrowd is '0', but must be 0 or 1"),
        (changed("iscrowd", 1), "has no object to learn: all are crowds, without area or to be ignored"),
        (changed("segmentation", []), "annotation 1 has no segmentation, which masks are learnt from"),
        (changed("file_name", 3, "images"), "image 7: file_name is 3, but must be text"),
        (changed("width", "40", "images"), "image 7: width is '40', but must be a whole number of px"),
        (changed("height", 36.5, "images"), "image 7: height is 36.5, but must be a whole number of px"),
        (changed("id", [7], "images"), "image without an id: {'id'"),
        (twice, "two image entries have the id 7"),
        (without_width, "image 7 has no width"),
        (without_categories, "has no list 'categories'"),
    ],
)
def test_mistakes(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    what = copy.deepcopy(content(annotation(1)))
    change(what)
    with pytest.raises(UserError, match=message):
        opened(tmp_path, what, make=False)


def test_missing_images_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lacks 1 of the 1 images of a.json: a.png"):
        opened(tmp_path, content(annotation(1)), make=False)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match="a.json can't be read as JSON"):
        AnnotatedDataset(read_annotations(tmp_path / "a.json"), tmp_path, True, True)
    for shape, told in (
        ({"size": [9, 9], "counts": [81]}, "its run lengths are of 9 x 9 px, but the image has 40 x 36"),
        ({"counts": [81]}, "its segmentation is neither polygons nor run lengths"),
        ([[1, 2, float("nan"), 4, 5, 6]], "its segmentation .*a point is no number"),  # pycocotools would crash
    ):
        broken = opened(tmp_path, content(annotation(1, segmentation=shape)))
        with pytest.raises(UserError, match=f"annotation 1: {told}"):
            broken.target(0)


def test_polygons_without_three_points(tmp_path: Path) -> None:
    """Are left out beside others; pycocotools takes four numbers for a box."""
    square = [4, 4, 14, 4, 14, 14, 4, 14]
    known = opened(tmp_path, content(annotation(1, segmentation=[[20, 20, 8, 8], square])))
    masks = known.target(0).masks
    assert masks is not None and masks.sum() == 100
    broken = opened(tmp_path, content(annotation(1, segmentation=[[1, 2, 3]])))
    with pytest.raises(UserError, match="annotation 1: its segmentation is neither .*no polygon has three points"):
        broken.target(0)
