"""Kinds of errors, beside what TIDE's paper says of each."""

from __future__ import annotations

from typing import Sequence

import numpy as np
import pytest
from golden import FOLDER

from mindvit.data.objects import Objects
from mindvit.tasks.detection.errors import errors_of, inside, rows
from mindvit.tasks.detection.inference import Detections

Box = Sequence[float]
OBJECT = [0, 0, 10, 10]


def objects(*items: tuple[Box, int], crowd: Sequence[int] = ()) -> Objects:
    boxes = np.array([box for box, _ in items], np.float32).reshape(-1, 4)
    labels = np.array([label for _, label in items], np.int32)
    return Objects(boxes, labels, None, np.isin(np.arange(len(items)), crowd))


def detected(*items: tuple[Box, int]) -> Detections:
    """The surest first."""
    boxes = np.array([box for box, _ in items], np.float32).reshape(-1, 4)
    scores = np.linspace(0.9, 0.5, len(items)).astype(np.float32)
    return Detections(boxes, scores, np.array([label for _, label in items], np.int32), None)


@pytest.mark.parametrize(
    ("box", "label", "kind", "missed"),
    [
        ([0, 0, 10, 9], 1, "right", False),
        ([0, 0, 10, 5], 1, "right", False),  # an IoU of 0.5
        ([0, 0, 10, 4], 1, "localization", False),
        ([0, 0, 10, 9], 0, "classification", False),
        ([0, 0, 10, 4], 0, "both", True),
        ([0, 0, 10, 1], 1, "background", True),  # an IoU of 0.1
        ([50, 50, 60, 60], 1, "background", True),
    ],
)
def test_kinds(box: Box, label: int, kind: str, missed: bool) -> None:
    found = errors_of(objects((OBJECT, 1)), detected((box, label)))
    assert list(found.kinds) == [kind]
    assert found.missed.tolist() == [missed]
    assert found.found.tolist() == [kind == "right"]


def test_duplicates_and_the_best_of_two() -> None:
    found = errors_of(objects(([0, 0, 10, 8], 1), (OBJECT, 1)), detected((OBJECT, 1), (OBJECT, 1), (OBJECT, 1)))
    assert list(found.kinds) == ["right", "right", "duplicate"]
    assert list(found.nearest) == [1, 0, 1]
    assert not found.missed.any()


def test_crowds() -> None:
    """What lies in a crowd of its class is no false alarm, and a crowd isn't missed."""
    there = objects(([0, 0, 100, 100], 1), crowd=[0])
    found = errors_of(there, detected((OBJECT, 1), ([20, 20, 40, 40], 1), (OBJECT, 0)))
    assert list(found.kinds) == ["ignored", "ignored", "background"]
    assert not found.missed.any() and not found.found.any()


def test_shares_of_boxes_inside_regions() -> None:
    golden = np.load(FOLDER / "detection_ops.npz")
    assert np.allclose(inside(golden["iou/a"], golden["iou/b"]), golden["iou/iof"], atol=1e-5)


def test_images_with_nothing() -> None:
    assert list(errors_of(objects(), detected((OBJECT, 0))).kinds) == ["background"]
    assert errors_of(objects((OBJECT, 0)), detected()).missed.tolist() == [True]


def test_a_row_for_each_class() -> None:
    there, found = objects((OBJECT, 1), ([50, 50, 60, 60], 0)), detected((OBJECT, 1), ([30, 0, 40, 10], 0))
    whole, cat, dog = rows([(there, found, errors_of(there, found))], ["cat", "dog"])
    assert whole["objects"] == 2 and whole["found"] == 1 and whole["missed"] == 1 and whole["background"] == 1
    assert (cat["class"], cat["objects"], cat["found"], cat["missed"], cat["background"]) == ("cat", 1, 0, 1, 1)
    assert (dog["class"], dog["objects"], dog["found"], dog["missed"], dog["background"]) == ("dog", 1, 1, 0, 0)
