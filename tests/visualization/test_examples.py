"""Sheets of what is found in images beside what is there."""

from __future__ import annotations

import numpy as np
import pytest

from mindvit.data.label_maps import overlaid, palette
from mindvit.data.objects import Objects
from mindvit.tasks.base import Example
from mindvit.tasks.detection.prediction import Found, true
from mindvit.visualization.attention_sheet import GAP, LINE, MARGIN, SMALL_LINE
from mindvit.visualization.boxes import colour
from mindvit.visualization.examples import MOST_SIDE, sheet

TOP = MARGIN + LINE + GAP + SMALL_LINE


def found_at(left: float, score: float) -> Found:
    masks = np.zeros((1, 64, 128), bool)
    masks[0, 20:40, int(left) : int(left) + 30] = True
    box = np.array([[left, 20, left + 30, 40]], np.float32)
    return Found(box, np.array([score], np.float32), np.array([3], np.int32), ("cat",), masks)


def test_objects_there_and_found() -> None:
    pixels = np.full((64, 128, 3), 200, np.uint8)
    examples = [Example(pixels, found_at(20, 1), found_at(40, 0.9))] * 3
    picture = np.asarray(sheet("detection", examples, ["cat"], "a title"))
    assert picture.shape[1] == MARGIN + 2 * (2 * (256 + GAP) + MARGIN)
    first = (slice(TOP, TOP + 128), slice(MARGIN, MARGIN + 256))
    masked = np.rint(200 * 0.45 + 0.55 * np.array(colour(3)))
    assert np.abs(picture[first][70, 60] - masked).max() < 2  # 2 px a px, under the name
    assert (picture[first][70, 110] == 200).all()
    second = picture[TOP : TOP + 128, MARGIN + 256 + GAP : MARGIN + 512 + GAP]
    assert np.abs(second[70, 110] - masked).max() < 2
    third = picture[TOP + 128 + GAP : TOP + 256 + GAP, MARGIN : MARGIN + 256]
    assert np.array_equal(third, picture[first])


def test_large_images_are_made_smaller() -> None:
    found = found_at(20, 1)
    none = Found(found.boxes[:0], found.scores[:0], found.labels[:0], (), None)
    picture = sheet("detection", [Example(np.zeros((600, 1200, 3), np.uint8), none, none)], ["cat"], "a title")
    assert picture.width == MARGIN + 2 * (MOST_SIDE + GAP) + MARGIN


@pytest.mark.parametrize("labels", [2, 255])
def test_labels_and_their_names(labels: int) -> None:
    pixels, there, found = np.full((64, 128, 3), 200, np.uint8), *(np.zeros((2, 64, 128), np.int32))
    there[10:20], found[30:40] = labels, 1
    picture = np.asarray(sheet("segmentation", [Example(pixels, there, found)], ["ground", "cat", "dog"], "a title"))
    assert np.array_equal(picture[TOP : TOP + 128 : 2, MARGIN : MARGIN + 256 : 2], overlaid(pixels, there))
    second = picture[TOP : TOP + 128 : 2, MARGIN + 256 + GAP : MARGIN + 512 + GAP : 2]
    assert np.array_equal(second, overlaid(pixels, found))
    below = {tuple(pixel) for row in picture[TOP + 128 + GAP :] for pixel in row}
    assert tuple(palette()[1]) in below
    assert (tuple(palette()[2]) in below) == (labels == 2)


def test_what_is_there_has_no_crowds() -> None:
    boxes = np.array([[0, 0, 9, 9], [1, 1, 5, 5]], np.float32)
    there = true(Objects(boxes, np.array([1, 0]), None, np.array([False, True])), ["cat", "dog"])
    assert (there.boxes.tolist(), there.names, there.scores.tolist()) == ([[0, 0, 9, 9]], ("dog",), [1])
    assert there.masks is None
