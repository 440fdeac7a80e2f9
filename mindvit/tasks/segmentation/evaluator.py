"""mIoU over every validation image, each at its own size and counted once."""

from __future__ import annotations

import threading
from collections import deque, namedtuple
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Iterator, Optional, Sequence

import numpy as np

from mindvit.data.datasets.base import Dataset, Sample
from mindvit.data.loader import Batch, eval_steps, one_by_one
from mindvit.data.samplers import val_order
from mindvit.runtime import distributed
from mindvit.tasks.base import RunContext
from mindvit.tasks.segmentation.inference import Pass, label_map
from mindvit.tasks.segmentation.metrics import ConfusionMatrix, SegmentationScore
from mindvit.tasks.segmentation.predictions import LabelMaps

ImageBatch = namedtuple("ImageBatch", ["image"])


class SegmentationEvaluator:
    """Counts pixels of each class that are taken for each class.

    A batch is one image, (H, W, 3) uint8. Threads bring what the network says to the image's own size and count, while
    the network looks at the next.
    """

    images_per_batch = 1

    def __init__(self, ctx: RunContext, dataset: Dataset, folder: Optional[str] = None):
        self.ctx, self.dataset = ctx, dataset
        self.order = val_order(len(dataset), ctx.device.ranks, ctx.device.rank)
        self.predictions = LabelMaps(folder, dataset) if folder else None
        self.matrix = ConfusionMatrix(ctx.num_classes)
        self.pool = ThreadPoolExecutor(ctx.workers, thread_name_prefix="label maps")
        self.lock = threading.Lock()
        self.samples: deque[tuple[int, Sample]] = deque()  # which the network has not seen yet
        self.counting: deque[Future[None]] = deque()

    def batches(self) -> Iterator[Batch]:
        """This rank's images, one by one."""
        for index, sample in zip(self.order, one_by_one(self.dataset, self.order, self.ctx.workers)):
            self.samples.append((int(index), sample))
            yield ImageBatch(np.asarray(sample.image))

    @property
    def steps(self) -> int:
        """Images of each rank, one more on some."""
        return eval_steps(len(self.dataset), 1, self.ctx.device.ranks)

    def update(self, batch: Batch, outputs: Sequence[Pass]) -> None:
        """outputs: ImageInference's for the image."""
        self.counting.append(self.pool.submit(self._count, *self.samples.popleft(), outputs))
        while len(self.counting) > 2 * self.ctx.workers:
            self.counting.popleft().result()

    def _count(self, index: int, sample: Sample, passes: Sequence[Pass]) -> None:
        labels = np.asarray(sample.target)
        found = label_map(passes, (labels.shape[0], labels.shape[1]))
        if self.predictions is not None:
            self.predictions.add(index, found)
        with self.lock:
            self.matrix.update(found, labels)

    def compute(self) -> SegmentationScore:
        """Over all ranks."""
        while self.counting:
            self.counting.popleft().result()
        self.matrix.counts = distributed.total_counts(self.matrix.counts, self.ctx.device.ranks)
        self.pool.shutdown()
        return self.matrix.score(len(self.dataset))

    def save_predictions(self) -> None:
        """What all images make together; the label maps of each are there already. Called on every rank."""
        if self.predictions is not None and self.ctx.device.is_main:
            self.predictions.finish(self.matrix)

    def close(self) -> None:
        """Stop the threads."""
        self.pool.shutdown(cancel_futures=True)
