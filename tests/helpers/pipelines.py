"""Batches of a classifier's pipeline, for tests that need no network."""

from __future__ import annotations

from typing import Any, Iterator

from mindvit.data.datasets.base import Dataset
from mindvit.data.loader import eval_batches, train_batches
from mindvit.data.samplers import Shard
from mindvit.data.transforms.image import ClassRow, EvalTransform, TrainTransform
from mindvit.data.workers import Workers
from mindvit.recipe.options import AugmentOptions, DataOptions
from mindvit.tasks.classification.task import batch_spec

MEAN = (0.485, 0.456, 0.406)


def train_pipeline(
    dataset: Dataset, data: DataOptions, augment: AugmentOptions, *, size: int = 24, shard: Shard, **more: Any
) -> Iterator[Any]:
    """One rank's batches of an epoch; `more`: epoch, seed, workers, first."""
    row = ClassRow(TrainTransform(size, "bicubic", MEAN, augment))
    return train_batches(dataset, row, batch_spec(data.batch_size, size, 3).batch, data, shard=shard, **more)


def eval_pipeline(
    dataset: Dataset, batch_size: int, transform: EvalTransform, shard: Shard, workers: Workers = 1
) -> Iterator[Any]:
    """One rank's batches of an evaluation."""
    row = ClassRow(transform)
    return eval_batches(dataset, row, batch_spec(batch_size, transform.size, 3).batch, shard=shard, workers=workers)
