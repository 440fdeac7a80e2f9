"""Evaluation of images one by one, each at its own size."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque, namedtuple
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Iterator, Sequence

import numpy as np

from mindvit.data.datasets.base import Dataset, Sample
from mindvit.data.loader import Batch, eval_steps, one_by_one
from mindvit.data.samplers import val_order
from mindvit.tasks.base import Example, RunContext

ImageBatch = namedtuple("ImageBatch", ["image"])
EXAMPLES = 8  # images that an evaluation keeps


class ImageEvaluator(ABC):
    """A batch is one image, (H, W, 3) uint8. Threads take in what the network says, while it looks at the next."""

    images_per_batch = 1

    def __init__(self, ctx: RunContext, dataset: Dataset):
        self.ctx, self.dataset = ctx, dataset
        self.order = val_order(len(dataset), ctx.device.ranks, ctx.device.rank)
        self.pool = ThreadPoolExecutor(ctx.workers, thread_name_prefix="answers")
        self.lock = threading.Lock()
        self.samples: deque[tuple[int, Sample]] = deque()  # which the network has not seen yet
        self.pending: deque[Future[None]] = deque()
        self.kept: dict[int, Example] = {}

    @abstractmethod
    def take(self, index: int, sample: Sample, outputs: Any) -> None:
        """Take in what the network says of an image; called by threads."""

    def keep(self, index: int, sample: Sample, answers: Callable[[], tuple[Any, Any]]) -> None:
        """One of the first images becomes an example. answers: gives its truth and what the network finds."""
        if index in self.order[:EXAMPLES]:
            example = Example(np.asarray(sample.image), *answers())
            with self.lock:
                self.kept[index] = example

    @property
    def examples(self) -> Sequence[Example]:
        """This rank's first images."""
        return [self.kept[index] for index in sorted(self.kept)]

    def batches(self) -> Iterator[Batch]:
        """This rank's images, one by one."""
        for index, sample in zip(self.order, one_by_one(self.dataset, self.order, self.ctx.workers)):
            self.samples.append((int(index), sample))
            yield ImageBatch(np.asarray(sample.image))

    @property
    def steps(self) -> int:
        """Images of each rank, one more on some."""
        return eval_steps(len(self.dataset), 1, self.ctx.device.ranks)

    def update(self, batch: Batch, outputs: Any) -> None:
        """outputs: what Task.predict gives for the image."""
        self.pending.append(self.pool.submit(self.take, *self.samples.popleft(), outputs))
        while len(self.pending) > 2 * self.ctx.workers:
            self.pending.popleft().result()

    def finish(self) -> None:
        """All of this rank's images are taken in."""
        while self.pending:
            self.pending.popleft().result()
        self.pool.shutdown()

    def close(self) -> None:
        """Stop the threads."""
        self.pool.shutdown(cancel_futures=True)
