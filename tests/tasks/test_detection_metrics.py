"""COCO's twelve numbers beside pycocotools' own for the oracle's detections."""

from __future__ import annotations

import json
import lzma
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dense_goldens import unpacked
from golden import FOLDER

from mindvit.data.datasets.coco import decoded_mask
from mindvit.tasks.detection.metrics import DetectionScore, KindScore, encoded, evaluated, measure, pycocotools


@pytest.fixture(scope="module")
def golden() -> Any:
    return json.loads(lzma.decompress((FOLDER / "detection_eval.json.xz").read_bytes()))


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_twelve_numbers_and_each_class(golden: Any, kind: str) -> None:
    found = measure(golden["gt"], golden[f"dt_{kind}"], kind)
    assert np.allclose(found.stats, golden["expected"][f"coco/{kind}/stats"], atol=1e-9)
    per_class = [-2 if np.isnan(value) else value for value in found.per_class]
    assert np.allclose(per_class, golden["expected"][f"coco/{kind}/per_category"], atol=1e-9)
    counted = [len(item) for item in (golden["gt"]["images"], golden["gt"]["annotations"], golden[f"dt_{kind}"])]
    assert counted == golden["expected"]["coco/num"]
    evaluation = evaluated(golden["gt"], golden[f"dt_{kind}"], kind)
    assert evaluation.params.catIds == golden["expected"][f"coco/{kind}/category_ids"]
    recall, precision = evaluation.eval["recall"][:, :, 0, -1], evaluation.eval["precision"][0, :, :, 0, -1]
    assert np.allclose(recall, golden["expected"][f"coco/{kind}/recall"], atol=1e-9)
    assert np.allclose(precision, golden["expected"][f"coco/{kind}/precision_50_all_100"], atol=1e-7)


def test_annotations_numbered_from_0(golden: Any) -> None:
    annotations = [{**item, "id": number} for number, item in enumerate(golden["gt"]["annotations"])]
    found = measure({**golden["gt"], "annotations": annotations}, golden["dt_bbox"], "bbox")
    assert np.allclose(found.stats, golden["expected"]["coco/bbox/stats"], atol=1e-9)


def test_faster_coco_eval_is_taken_where_it_is_installed(golden: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a module in its place that calls pycocotools and tells of it."""
    theirs, seen = pycocotools(), []

    def evaluation(*arguments: Any) -> Any:
        seen.append(arguments[2])
        return theirs.cocoeval.COCOeval(*arguments)

    module = SimpleNamespace(COCO=theirs.coco.COCO, COCOeval_faster=evaluation)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", module)
    found = measure(golden["gt"], golden["dt_bbox"], "bbox")
    assert seen == ["bbox"]
    assert np.allclose(found.stats, golden["expected"]["coco/bbox/stats"], atol=1e-9)


def test_nothing_detected(golden: Any) -> None:
    assert measure(golden["gt"], [], "bbox").stats[0] == 0


def test_a_score_in_words_and_numbers() -> None:
    box = KindScore((0.5, 0.75, 0.6, -1, *[0.25] * 8), (0.5, float("nan")))
    score = DetectionScore(box, None, 7)
    assert score.primary == 50
    assert np.isnan(score.metrics()["box APs"]) and np.isnan(score.metrics()["mask AP"])
    assert score.per_class(["a", "b"]) == [{"class": "a", "box AP": 50.0}, {"class": "b", "box AP": None}]
    assert str(score) == "box AP 50.00 %  box AP50 75.00 %  box AP75 60.00 %"


def test_masks_of_all_forms() -> None:
    """Polygons and run lengths, decoded and encoded again, and how masks and crowds of them overlap."""
    golden = np.load(FOLDER / "detection_ops.npz")
    height, width = (int(side) for side in golden["rle/size"])
    given = json.loads(str(golden["rle/segmentations"]))
    for item in given:
        if isinstance(item, dict) and item["counts"][0] == "[":
            item["counts"] = json.loads(item["counts"])
    masks = [decoded_mask(Path(""), {"id": 1, "segmentation": item}, (height, width)) for item in given]
    assert np.array_equal(masks, unpacked(golden["rle/bits"], (len(given), height, width)))
    assert np.sum(masks, (1, 2)).tolist() == golden["rle/area"].tolist()
    codec, codes = pycocotools().mask, [encoded(mask) for mask in masks]
    assert np.array_equal(codec.toBbox(codes), golden["rle/bbox"])
    theirs = [{"size": [height, width], "counts": str(text)} for text in golden["rle/string"]]
    assert np.array_equal(codec.decode(theirs), np.stack(masks, 2))
    for crowd, key in ((0, "rle/iou"), (1, "rle/iou_crowd")):
        assert np.allclose(codec.iou(codes, codes, [crowd] * len(codes)), golden[key], atol=1e-9)


def test_masks_as_run_lengths() -> None:
    mask = np.random.default_rng(0).random((11, 7)) < 0.4
    found = encoded(mask)
    assert found["size"] == [11, 7]
    assert np.array_equal(pycocotools().mask.decode(found).astype(bool), mask)
