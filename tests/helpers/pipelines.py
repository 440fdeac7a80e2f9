"""Batches of a classifier's pipeline, for tests that need no network."""

from __future__ import annotations

from typing import Any, Iterator, Optional

import numpy as np

from mindvit.data.datasets.base import Dataset, Sample
from mindvit.data.loader import Row, eval_batches, train_batches
from mindvit.data.samplers import Shard
from mindvit.data.transforms.image import EvalTransform, TrainTransform
from mindvit.recipe.options import AugmentOptions, DataOptions
from mindvit.tasks.classification.task import batch_spec

MEAN = (0.485, 0.456, 0.406)


def train_pipeline(
    dataset: Dataset, data: DataOptions, augment: AugmentOptions, *, size: int = 24, shard: Shard, **more: Any
) -> Iterator[Any]:
    """One rank's batches of an epoch; `more`: epoch, seed, workers, first."""
    transform = TrainTransform(size, "bicubic", MEAN, augment)

    def row(sample: Sample, rng: Optional[np.random.Generator]) -> Row:
        assert rng is not None
        return transform(sample.image, rng), sample.target

    return train_batches(dataset, row, batch_spec(data.batch_size, size, 3).batch, data, shard=shard, **more)


def eval_pipeline(
    dataset: Dataset, batch_size: int, transform: EvalTransform, shard: Shard, workers: int = 1
) -> Iterator[Any]:
    """One rank's batches of an evaluation."""

    def row(sample: Sample, _: Optional[np.random.Generator]) -> Row:
        return transform(sample.image), sample.target

    return eval_batches(dataset, row, batch_spec(batch_size, transform.size, 3).batch, shard=shard, workers=workers)
