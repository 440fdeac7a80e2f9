"""Scenes of digits: the same every time, and exact about what they show."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from mindvit.data.datasets.scenes import DIGITS, LEAST_VISIBLE, SIDES, SceneMaps, ScenesDataset, hide, seen
from mindvit.errors import UserError

TRAIN, VAL = ScenesDataset("train"), ScenesDataset("val")


def test_the_same_every_time() -> None:
    crc = 0
    for index in range(3):
        pixels, scene = TRAIN.draw(index)
        crc = zlib.crc32(scene.labels.tobytes(), zlib.crc32(pixels.tobytes(), crc))
    assert f"{crc:08x}" == "fbb5ad9b"


@pytest.mark.parametrize("data", [TRAIN, VAL])
def test_what_is_said_of_scenes_is_so(data: ScenesDataset) -> None:
    for index in range(0, len(data), len(data) // 30):
        image, scene = data[index]
        assert image.mode == "RGB" and all(SIDES[0] <= side <= SIDES[1] for side in image.size)
        assert scene.labels.shape == image.size[::-1]
        assert 1 <= len(scene.classes) <= DIGITS[1]
        covered = np.zeros_like(scene.labels)
        for label, box, mask in zip(scene.classes, scene.boxes, scene.masks):
            rows, columns = np.nonzero(mask)
            assert mask.sum() >= LEAST_VISIBLE
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert not covered[mask].any()
            covered[mask] = label
        assert np.array_equal(covered, scene.labels)


def test_every_digit_is_there_and_scenes_differ() -> None:
    counts = np.sum([np.bincount(VAL.target(index).classes, minlength=11) for index in range(len(VAL))], 0)
    assert counts[0] == 0 and counts[1:].min() > 20
    assert TRAIN.fingerprint() != VAL.fingerprint()
    assert not np.array_equal(np.asarray(TRAIN.read(0))[:128, :128], np.asarray(VAL.read(0))[:128, :128])


def test_digits_in_front_hide_others() -> None:
    owner = np.zeros((20, 20), np.int32)
    owner[:10, :10], owner[5:15, 5:15], owner[19, 19] = 1, 2, 3
    pixels = np.full((20, 20, 3), 200, np.uint8)
    pixels[19, 19] = 0
    scene = seen(owner, np.array([0, 4, 7, 9], np.int32), pixels)
    assert scene.classes.tolist() == [4, 7]  # of the third too little shows
    assert scene.boxes.tolist() == [[0, 0, 10, 10], [5, 5, 15, 15]]
    assert scene.masks.sum((1, 2)).tolist() == [75, 100]
    assert scene.labels[19, 19] == 0 and pixels[19, 19, 0] == 199
    assert owner[19, 19] == 0 and hide(owner, 4, pixels).tolist() == [1, 2]


def test_maps_alone_are_the_scenes() -> None:
    maps = SceneMaps("val")
    for index in range(20):
        pixels, scene = VAL.draw(index)
        image, labels = maps[index]
        assert np.array_equal(np.asarray(image), pixels)
        assert labels.dtype == np.uint8 and np.array_equal(labels, scene.labels)
    assert np.array_equal(maps.target(20), VAL.draw(20)[1].labels)


def test_wrong_splits_and_numbers() -> None:
    with pytest.raises(UserError, match="no split 'test', but train and val"):
        ScenesDataset("test")
    with pytest.raises(IndexError):
        VAL.draw(len(VAL))
