"""Accuracy over every validation image, each counted once."""

from __future__ import annotations

from typing import Any, Iterator, Optional, Sequence

import numpy as np

from mindvit.data.arrays import ArraySpec
from mindvit.data.datasets.base import LabelledDataset
from mindvit.data.loader import Batch, eval_batches, eval_steps
from mindvit.data.transforms.image import ClassRow
from mindvit.runtime import distributed
from mindvit.tasks.base import Example, RunContext
from mindvit.tasks.classification.metrics import FIRST, Accuracy
from mindvit.tasks.classification.predictions import Predictions


class ClassificationEvaluator:
    """Counts the images whose class comes first and among the first five."""

    examples: Sequence[Example] = ()  # classes are told in words

    def __init__(
        self,
        ctx: RunContext,
        dataset: LabelledDataset,
        spec: Sequence[ArraySpec],
        predictions: Optional[str] = None,
    ):
        self.ctx, self.dataset, self.spec = ctx, dataset, spec
        self.predictions = Predictions(predictions, dataset, ctx.shard) if predictions else None
        self.correct1 = self.correct5 = self.count = 0
        self.loss = 0.0

    def batches(self) -> Iterator[Batch]:
        """This rank's batches."""
        ctx, views = self.ctx, self.ctx.preprocessing.views
        row = ClassRow(views or ctx.preprocessing.transform)
        return eval_batches(self.dataset, row, self.spec, shard=ctx.shard, workers=ctx.workers)

    @property
    def steps(self) -> int:
        """Batches of each rank."""
        return eval_steps(len(self.dataset), self.ctx.recipe.data.batch_size, self.ctx.device.ranks)

    @property
    def images_per_batch(self) -> int:
        """The recipe's."""
        return self.ctx.recipe.data.batch_size

    def update(self, batch: Batch, outputs: Sequence[Any]) -> None:
        """outputs: EvalStep's for the batch."""
        class_ranks, losses = (output.asnumpy() for output in outputs[:2])
        if self.predictions is not None:
            self.predictions.add(outputs[2].asnumpy(), losses)
        real = class_ranks >= 0
        self.count += int(real.sum())
        self.correct1 += int((real & (class_ranks < 1)).sum())
        self.correct5 += int((real & (class_ranks < FIRST)).sum())
        self.loss += float(losses.sum(dtype=np.float64))

    def save_predictions(self) -> None:
        """Write the file of predictions, if one is wanted; called on every rank."""
        if self.predictions is not None:
            self.predictions.write()

    def close(self) -> None:
        """Clear away what a pass that failed has half written."""
        if self.predictions is not None:
            self.predictions.clean()

    def compute(self) -> Accuracy:
        """Over all ranks."""
        correct1, correct5, count, loss = distributed.total(
            (self.correct1, self.correct5, self.count, self.loss), self.ctx.device.ranks
        )
        first = int(correct5) if self.ctx.num_classes > FIRST else None
        return Accuracy(int(correct1), first, int(count), float(loss / max(count, 1)))
