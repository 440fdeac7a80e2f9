"""What is said of an image by each task: predict's JSON, and pictures of a size for a page."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mindvit.serve import answers
from mindvit.tasks.detection.prediction import DetectionPrediction, Found
from mindvit.tasks.segmentation.prediction import SegmentationPrediction
from mindvit.visualization import boxes

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (1500, 2048, 3), np.uint8))
NAMES = ("ground", "red", "blue")


def predictor(task: str, inference: Any) -> Any:
    """As much of one as answers need: no network runs here."""
    inference.class_names = NAMES
    return SimpleNamespace(info=SimpleNamespace(name="a", task=task), inference=inference, class_names=NAMES)


def test_a_segmentor_s() -> None:
    labels = np.zeros((1500, 2048), np.int32)
    labels[:750, :1024] = 2
    one = predictor("segmentation", object.__new__(SegmentationPrediction))
    assert answers.as_json(one, IMAGE, IMAGE, labels) == {
        "model": "a",
        "task": "segmentation",
        "size": [2048, 1500],
        "classes": [{"name": "ground", "share": 0.75}, {"name": "blue", "share": 0.25}],
    }
    (picture,) = answers.pictures(one, IMAGE, labels)
    assert picture.as_json()["colours"] == {"blue": "#008000"} and "ground" in picture.remark
    shown, plain = np.asarray(picture.image, np.float32), np.asarray(answers.smaller(IMAGE), np.float32)
    assert shown.shape == (750, 1024, 3)
    assert np.array_equal(shown[375:], plain[375:])
    assert not np.array_equal(shown[:375, :512], plain[:375, :512])


@pytest.mark.parametrize("with_masks", [False, True])
def test_a_detector_s(with_masks: bool) -> None:
    masks = np.zeros((1, 1500, 2048), bool)
    masks[:, 200:400, 200:400] = True
    box = np.array([[200, 200, 400, 400]], np.float32)
    found = Found(box, np.array([0.75], np.float32), np.array([1]), ("red",), masks if with_masks else None)
    one = predictor("detection", object.__new__(DetectionPrediction))
    told = answers.as_json(one, IMAGE, IMAGE, found)
    assert told["objects"] == [{"name": "red", "score": 0.75, "box": [200.0, 200.0, 400.0, 400.0]}]
    assert json.loads(json.dumps(told)) == told
    (picture,) = answers.pictures(one, IMAGE, found)
    assert picture.colours == {"red": answers.css(boxes.colour(1))}
    changed = (np.asarray(picture.image) != np.asarray(answers.smaller(IMAGE))).any(2)
    assert changed[150, 198:202].any() and not changed[300:].any()  # the box's bottom is at 200
    assert changed[120:190, 120:190].all() == with_masks


def test_what_has_a_number_a_pixel_is_given_few_pixels() -> None:
    one = predictor("detection", object.__new__(DetectionPrediction))
    seen = answers.seen_of(one, IMAGE)
    assert 0.99 * answers.MOST_SEEN < seen.width * seen.height <= answers.MOST_SEEN
    assert seen.width / seen.height == pytest.approx(2048 / 1500, abs=0.002)
    box = np.array([[0, 0, seen.width, seen.height]], np.float32)
    found = Found(box, np.array([0.75], np.float32), np.array([1]), ("red",), None)
    assert answers.as_json(one, IMAGE, seen, found)["objects"][0]["box"] == [0.0, 0.0, 2048.0, 1500.0]
    one.info.task = "classification"
    assert answers.seen_of(one, IMAGE) is IMAGE


def test_nothing_found() -> None:
    none = Found(np.zeros((0, 4), np.float32), np.zeros(0), np.zeros(0, int), (), np.zeros((0, 1500, 2048), bool))
    one = predictor("detection", object.__new__(DetectionPrediction))
    assert answers.as_json(one, IMAGE, IMAGE, none)["objects"] == []
    assert answers.pictures(one, IMAGE, none)[0].image.size == (1024, 750)


def test_a_network_without_attention_has_no_pictures() -> None:
    one = SimpleNamespace(info=SimpleNamespace(name="nano", task="classification"), net=object())
    assert answers.pictures(one, IMAGE, []) == []  # type: ignore[arg-type]
