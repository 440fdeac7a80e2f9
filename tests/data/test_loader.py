"""Batches: each image once, determinism, augmentation, and bad images."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import make_folder
from PIL import Image
from pipelines import MEAN, eval_pipeline, train_pipeline

from mindvit.data import loader
from mindvit.data.arrays import ArraySpec
from mindvit.data.datasets.base import Dataset
from mindvit.data.datasets.folder import FolderDataset
from mindvit.data.datasets.scenes import ScenesDataset
from mindvit.data.loader import eval_steps, steps_per_epoch
from mindvit.data.samplers import Shard
from mindvit.data.transforms.image import ClassRow, EvalTransform, TrainTransform, policies
from mindvit.errors import UserError
from mindvit.recipe.options import AugmentOptions, DataOptions

DEFAULT = AugmentOptions()
PLAIN = AugmentOptions(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0)


def train(
    source: Dataset,
    *,
    batch_size: int = 4,
    size: int = 24,
    epoch: int = 0,
    seed: int = 1,
    ranks: int = 1,
    rank: int = 0,
    workers: int = 2,
    augment: AugmentOptions = DEFAULT,
    **data: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """All batches of one rank and epoch, as images and labels."""
    options = DataOptions(batch_size=batch_size, **data)
    batches = list(
        train_pipeline(
            source, options, augment, size=size, shard=Shard(ranks, rank), epoch=epoch, seed=seed, workers=workers
        )
    )
    return np.stack([batch.images for batch in batches]), np.stack([batch.labels for batch in batches])


def evaluate(
    source: Dataset,
    *,
    batch_size: int = 4,
    size: int = 24,
    crop_pct: float = 0.875,
    crop_mode: str = "center",
    ranks: int = 1,
    rank: int = 0,
    workers: int = 2,
) -> tuple[np.ndarray, np.ndarray]:
    """All batches of one rank's evaluation, as images and labels."""
    batches = list(
        eval_pipeline(
            source,
            batch_size,
            EvalTransform(size, crop_pct, "bicubic", crop_mode),
            Shard(ranks, rank),
            workers,
        )
    )
    return np.concatenate([batch.images for batch in batches]), np.concatenate([batch.labels for batch in batches])


@pytest.fixture(name="source")
def _source(tmp_path: Path) -> FolderDataset:
    return FolderDataset(make_folder(tmp_path / "images", classes=3, per_class=7))


def damage(source: Dataset, index: int) -> None:
    """Cut an image's file short."""
    os.truncate(source.name(index), os.path.getsize(source.name(index)) - 200)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_evaluation_sees_every_image_once_in_batches_of_one_shape(
    source: FolderDataset, ranks: int, batch_size: int
) -> None:
    once = {
        EvalTransform(24, 0.875, "bicubic")(source.read(index)).tobytes(): int(source.labels[index])
        for index in range(21)
    }
    seen = []
    for rank in range(ranks):
        images, labels = evaluate(source, batch_size=batch_size, ranks=ranks, rank=rank)
        assert (
            images.shape == (eval_steps(21, batch_size, ranks) * batch_size, 24, 24, 3)
            and images.dtype == np.uint8
            and labels.dtype == np.int32
        )
        seen += [(image.tobytes(), label) for image, label in zip(images, labels) if label != -1]
    assert len(seen) == 21 and dict(seen) == once


def test_a_rank_without_images_still_has_a_batch(source: FolderDataset) -> None:
    source.labels = source.labels[:2]
    assert [evaluate(source, ranks=3, rank=rank)[1].tolist() for rank in range(3)] == [
        [0, -1, -1, -1],
        [0, -1, -1, -1],
        [-1] * 4,
    ]


@pytest.mark.parametrize(
    "augment", [AugmentOptions(color_jitter=0.4, vflip=0.5), AugmentOptions(auto_augment="randaug-m9-mstd0.5-inc1")]
)
def test_batches_are_a_function_of_seed_and_epoch_whatever_the_workers(
    source: FolderDataset, augment: AugmentOptions
) -> None:
    images, labels = train(source, augment=augment, workers=1)
    assert images.shape == (5, 4, 24, 24, 3) and labels.shape == (5, 4)
    for workers in (1, 2, 5):
        again = train(source, augment=augment, workers=workers)
        assert (again[0] == images).all() and (again[1] == labels).all()
    for other in ({"epoch": 1}, {"seed": 2}):
        assert (train(source, augment=augment, **other)[0] != images).any()


def test_an_image_looks_different_in_every_epoch_and_copy(source: FolderDataset) -> None:
    first, second = (train(source, shuffle=False, epoch=epoch)[0] for epoch in (0, 1))
    assert all((one != other).any() for one, other in zip(first.reshape(20, -1), second.reshape(20, -1)))
    copies = train(source, aug_repeats=3, batch_size=3, shuffle=False)[0][0]
    assert (copies[0] != copies[1]).any() and (copies[1] != copies[2]).any()


@pytest.mark.parametrize("repeats", [0, 3])
def test_global_batch_does_not_depend_on_the_number_of_ranks(source: FolderDataset, repeats: int) -> None:
    def step(ranks: int, number: int) -> list[tuple[bytes, int]]:
        shares = [
            train(source, ranks=ranks, rank=rank, batch_size=6 // ranks, aug_repeats=repeats) for rank in range(ranks)
        ]
        return sorted(
            (image.tobytes(), label)
            for images, labels in shares
            for image, label in zip(images[number], labels[number])
        )

    for number in (0, 2):
        assert step(1, number) == step(2, number) == step(3, number)


def test_labels_belong_to_their_images(source: FolderDataset) -> None:
    plain = {
        TrainTransform(24, "bicubic", MEAN, PLAIN)(
            source.read(index), np.random.default_rng()
        ).tobytes(): source.labels[index]
        for index in range(21)
    }
    images, labels = train(source, augment=PLAIN, batch_size=7)
    assert [plain[image.tobytes()] for image in images.reshape(21, 24, 24, 3)] == labels.ravel().tolist()


def test_without_crop_the_whole_image_is_resized(source: FolderDataset) -> None:
    images, _ = train(source, augment=PLAIN, shuffle=False, batch_size=21)
    assert (images[0, 3] == np.asarray(source.read(3).resize((24, 24), Image.Resampling.BICUBIC))).all()
    for flip, axis in ((dataclasses.replace(PLAIN, hflip=1.0), 1), (dataclasses.replace(PLAIN, vflip=1.0), 0)):
        flipped, _ = train(source, augment=flip, shuffle=False, batch_size=21)
        assert (flipped[0, 3] == np.flip(images[0, 3], axis)).all()


def test_flips_happen_with_their_probability(source: FolderDataset) -> None:
    plain = train(source, augment=PLAIN, shuffle=False, batch_size=21)[0][0]
    half = np.concatenate(
        [
            train(source, augment=dataclasses.replace(PLAIN, hflip=0.5), shuffle=False, batch_size=21, epoch=epoch)[0]
            for epoch in range(10)
        ]
    )
    share = (half != plain).any((2, 3, 4)).mean()
    assert 0.4 < share < 0.6


def test_colour_jitter_changes_colours_within_its_strength(source: FolderDataset) -> None:
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    values = [
        TrainTransform(8, "bicubic", MEAN, dataclasses.replace(PLAIN, color_jitter=0.4))(
            grey, np.random.default_rng(i)
        )[0, 0, 0]
        for i in range(200)
    ]
    assert 58 <= min(values) < 70 and 130 < max(values) <= 141
    assert (
        train(source, augment=dataclasses.replace(PLAIN, color_jitter=0.4))[0] != train(source, augment=PLAIN)[0]
    ).any()


def test_policy_gets_the_mean_colour_the_resampling_and_the_images_generator(
    source: FolderDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    augment = dataclasses.replace(PLAIN, auto_augment="rand-m9-mstd0.5-inc1", color_jitter=0.4)
    calls: list[Any] = []
    plain = TrainTransform(24, "bilinear", MEAN, PLAIN)(source.read(0), np.random.default_rng(3))

    def policy(image: Image.Image, *arguments: Any) -> Image.Image:
        calls.append((np.asarray(image), *arguments))
        return image

    monkeypatch.setattr(policies, "parse", lambda name: policy)
    rng = np.random.default_rng(3)
    assert (TrainTransform(24, "bilinear", MEAN, augment)(source.read(0), rng) == plain).all()  # and no jitter besides
    assert (
        (calls[0][0] == plain).all()
        and calls[0][1] is rng
        and calls[0][2:] == ((124, 116, 104), Image.Resampling.BILINEAR)
    )


def test_policies_change_some_of_the_images(source: FolderDataset) -> None:
    augmented = train(source, augment=dataclasses.replace(PLAIN, auto_augment="rand-m9-mstd0.5-inc1"), shuffle=False)[0]
    changed = (augmented != train(source, augment=PLAIN, shuffle=False)[0]).any((2, 3, 4))
    assert 5 < changed.sum() < 20  # of 20; a quarter keeps both operations off


def test_bad_training_image_is_skipped_named_once_and_counted(
    source: FolderDataset, capfd: pytest.CaptureFixture[str]
) -> None:
    damage(source, 4)
    for _ in range(2):
        images, labels = train(source, augment=PLAIN, shuffle=False, batch_size=7)
    error = capfd.readouterr().err
    assert (
        error.count("\n") == 1
        and error.startswith(f"warning: image {source.name(4)} can't be decoded (")
        and "truncated" in error
    )
    assert error.endswith("); another one takes its place\n")
    assert list(source.bad) == [source.name(4)]
    assert (images[0, 4] == images[0, 5]).all() and labels[0].tolist() == [0] * 7


def test_the_last_image_is_replaced_by_the_first_with_its_label(
    source: FolderDataset, capfd: pytest.CaptureFixture[str]
) -> None:
    damage(source, 20)
    images, labels = train(source, augment=PLAIN, shuffle=False, batch_size=7)
    assert (images[2, 6] == images[0, 0]).all() and labels[2].tolist() == [2] * 6 + [0]
    assert "another one" in capfd.readouterr().err


def test_bad_training_image_stops_where_asked(source: FolderDataset, capfd: pytest.CaptureFixture[str]) -> None:
    damage(source, 4)
    with pytest.raises(UserError) as caught:
        train(source, bad_image="stop")
    assert str(caught.value).startswith(f"image {source.name(4)} can't be decoded (")
    assert str(caught.value).endswith("; repair or remove it, or set bad_image: skip")
    assert caught.value.__suppress_context__ and capfd.readouterr().err == ""


def test_bad_evaluation_image_always_stops(source: FolderDataset, capfd: pytest.CaptureFixture[str]) -> None:
    damage(source, 20)
    with pytest.raises(UserError) as caught:
        evaluate(source)
    assert source.name(20) in str(caught.value) and str(caught.value).endswith(
        "; repair or remove it: evaluation counts every image"
    )
    assert capfd.readouterr().err == ""


def test_only_decode_errors_stop_the_training(source: FolderDataset, capfd: pytest.CaptureFixture[str]) -> None:
    for index in range(21):
        damage(source, index)
    with pytest.raises(UserError, match="21 training images in a row can't be decoded, the last one being .*truncated"):
        train(source)
    assert 1 <= capfd.readouterr().err.count("warning") <= 21


def test_too_few_images_for_a_step(source: FolderDataset) -> None:
    assert steps_per_epoch(source, DataOptions(batch_size=5), 2) == 2
    with pytest.raises(
        UserError,
        match="batch_size 8 on 3 ranks needs 24 training images a step, but there are 21; the largest batch_size is 7",
    ):
        steps_per_epoch(source, DataOptions(batch_size=8), 3)


def test_little_is_read_ahead_and_leaving_early_ends_the_threads(
    source: FolderDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = source.read

    def slow(index: int) -> Image.Image:
        time.sleep(0.01)
        read.append(index)
        return original(index)

    monkeypatch.setattr(source, "read", slow)
    batches = train_pipeline(
        source, DataOptions(batch_size=3), PLAIN, size=8, shard=Shard(), epoch=0, seed=0, workers=2
    )
    next(batches)
    time.sleep(0.4)
    assert len(read) == 3 * (1 + loader.AHEAD)
    next(batches)
    assert isinstance(batches, Generator)
    batches.close()
    assert len(read) < 3 * (2 + loader.AHEAD)
    assert not any(thread.name.startswith("images") for thread in threading.enumerate())


def test_balanced_batches(tmp_path: Path) -> None:
    """12 images of one class and 4 of another: 8 of each in an epoch."""
    make_folder(tmp_path, classes=2, per_class=12)
    for path in sorted((tmp_path / "class_1").iterdir())[4:]:
        path.unlink()
    row = ClassRow(EvalTransform(16, 1.0, "bilinear"))
    spec = (ArraySpec("images", (4, 16, 16, 3), "uint8"), ArraySpec("labels", (4,), "int32"))
    batches = loader.train_batches(
        FolderDataset(tmp_path), row, spec, DataOptions(batch_size=4, balanced=True), epoch=0, seed=0
    )
    assert np.bincount(np.concatenate([labels for _, labels in batches])).tolist() == [8, 8]
    with pytest.raises(UserError, match="only a classifier's images have one class each"):
        loader.labels_of(ScenesDataset("val"))
