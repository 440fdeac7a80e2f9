"""Faults and duplicates among images: each kind is found, and different photographs are not taken for the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import blobs, make_different
from PIL import Image

from mindvit.data.datasets.base import LabelledDataset
from mindvit.data.datasets.digits import DigitsDataset
from mindvit.data.datasets.folder import FolderDataset
from mindvit.data.findings import NEAR_BITS, ORIENTATION, Finding, _near_pairs, difference_hash, find, look


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes of different images, without a fault."""
    return make_different(tmp_path, train=3, val=1)


def found(data: Path) -> list[tuple[str, list[str], str]]:
    """Kind, image files and words of everything that is found."""
    splits: dict[str, LabelledDataset] = {split: FolderDataset(data / split) for split in ("train", "val")}
    findings: list[Finding] = find([look(at, split, index) for split, at in splits.items() for index in range(len(at))])
    return [
        (item.kind, [str(Path(image.name).relative_to(data)) for image in item.images], item.what) for item in findings
    ]


def add(data: Path, name: str, image: Image.Image, **how: Any) -> str:
    image.save(data / name, **how)
    return name


def one(data: Path) -> tuple[str, list[str], str]:
    (finding,) = found(data)
    return finding


FIRST = "train/class_0/0.png"


def test_nothing_where_nothing_is(data: Path) -> None:
    assert found(data) == []


@pytest.mark.parametrize(
    "copy, kind",
    [
        ("train/class_0/copy.png", "twice"),
        ("val/class_0/copy.png", "in train and val"),
        ("train/class_1/copy.png", "in two classes"),
    ],
)
def test_the_same_bytes_twice(data: Path, copy: str, kind: str) -> None:
    shutil.copy(data / FIRST, data / copy)
    assert one(data)[:2] == (kind, [FIRST, copy])


@pytest.mark.parametrize(
    "copy, kind",
    [
        ("train/class_0/copy.jpg", "nearly the same"),
        ("val/class_0/copy.jpg", "nearly the same in train and val"),
    ],
)
def test_the_same_image_smaller_and_compressed(data: Path, copy: str, kind: str) -> None:
    add(data, copy, Image.open(data / FIRST).convert("RGB").resize((60, 48)), quality=70)
    assert one(data)[:2] == (kind, [FIRST, copy])


def test_a_file_that_ends_too_early(data: Path) -> None:
    content = (data / FIRST).read_bytes()
    (data / FIRST).write_bytes(content[: len(content) // 2])
    kind, images, what = one(data)
    assert (kind, images) == ("broken", [FIRST])
    assert what


def test_what_is_odd_about_one_image(data: Path) -> None:
    image = blobs(99, (200, 160))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    grey = Image.new("RGB", (64, 64), (90, 90, 90))
    odd = {
        add(data, "train/class_0/a.png", image.crop((0, 0, 40, 20))): "small: 40 x 20 px",
        add(data, "train/class_0/b.png", image.resize((400, 60))): "long: 400 x 60 px",
        add(data, "train/class_0/c.png", grey): "one colour",
        add(data, "train/class_0/d.jpg", blobs(98), format="PNG"): "a PNG file named .jpg",
        add(data, "train/class_0/e.jpg", blobs(97), exif=exif): "turned by its EXIF orientation",
    }
    told = {images[0]: what for kind, images, what in found(data) if kind == "odd"}
    assert {*told} == {*odd}
    assert all(told[name].startswith(words) for name, words in odd.items())


def test_images_of_one_colour_are_not_the_same_image(data: Path) -> None:
    for number in (1, 2):
        add(data, f"train/class_0/{number}.png", Image.new("RGB", (64, 64), (number, 0, 0)))
    assert [kind for kind, _, _ in found(data)] == ["odd", "odd"]


def test_pairs_of_hashes_are_those_of_a_search_through_all() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (60, 16)).astype(np.uint8)
    for number in range(1, 60, 2):  # every second one is its neighbour with some bits turned
        flips = rng.choice(128, number % 10, replace=False)
        hashes[number] = np.packbits(np.unpackbits(hashes[number - 1]) ^ np.isin(np.arange(128), flips))
    distance = np.unpackbits(hashes[:, None] ^ hashes, axis=2).sum(2)
    first, second = np.nonzero(np.triu(distance <= NEAR_BITS, 1))
    assert {(min(pair), max(pair)) for pair in _near_pairs(hashes)} == {*zip(first.tolist(), second.tolist())}
    assert len(first) > 10


def test_a_hash_of_the_same_image_differs_little_and_of_others_much() -> None:
    image = blobs(0, (200, 150))
    bits = [
        int(np.unpackbits(difference_hash(image) ^ difference_hash(other)).sum())
        for other in (image.resize((90, 70)), blobs(1, (200, 150)))
    ]
    assert bits[0] <= NEAR_BITS < bits[1]


def test_images_that_are_no_files(data: Path) -> None:
    dataset = DigitsDataset("val")
    images = [look(dataset, "val", index) for index in range(len(dataset))]
    assert len(images) == 360
    assert {image.size for image in images} == {(8, 8)}
    assert not any(image.broken for image in images)
