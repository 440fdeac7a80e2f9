"""Detections drawn over images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mindvit.visualization.boxes import colour, drawn


def test_colours_of_classes_differ_and_none_is_the_grounds() -> None:
    found = {colour(label) for label in range(80)}
    assert len(found) == 80
    assert (0, 0, 0) not in found


@pytest.mark.parametrize("ground", [0, 255])
def test_boxes_and_masks(ground: int) -> None:
    image = Image.new("RGB", (128, 64), (ground,) * 3)
    masks = np.zeros((1, 64, 128), bool)
    masks[0, 30:50, 20:60] = True
    picture = drawn(image, np.array([[20.0, 30, 60, 50]]), [3], ["cat 0.97"], masks)
    assert picture.size == (256, 128)
    pixels = np.asarray(picture)
    assert tuple(pixels[99, 60]) == colour(3)  # the frame, below
    inside, outside = pixels[85:95, 80:100].mean((0, 1)), pixels[110:, :10].mean((0, 1))
    assert np.abs(inside - (ground * 0.45 + 0.55 * np.array(colour(3)))).max() < 2
    assert (outside == ground).all()


def test_names_stay_inside_the_image() -> None:
    image = Image.new("RGB", (300, 300))
    corner = drawn(image, np.array([[280.0, 290, 300, 300]]), [1], ["a long name 0.50"])
    assert corner.size == (300, 300)
    assert (np.asarray(corner)[285:, 200:] > 200).any()


def test_nothing_found() -> None:
    image = Image.new("RGB", (300, 200), (9, 9, 9))
    assert np.array_equal(np.asarray(drawn(image, np.zeros((0, 4)), [], [])), np.asarray(image))
