"""mIoU over every validation image, each at its own size and counted once."""

from __future__ import annotations

from typing import Optional, Sequence

import numpy as np

from mindvit.data.datasets.base import Dataset, Sample
from mindvit.runtime import distributed
from mindvit.tasks.base import RunContext
from mindvit.tasks.one_by_one import ImageEvaluator
from mindvit.tasks.segmentation.inference import Pass, label_map
from mindvit.tasks.segmentation.metrics import ConfusionMatrix, SegmentationScore
from mindvit.tasks.segmentation.predictions import LabelMaps


class SegmentationEvaluator(ImageEvaluator):
    """Counts pixels of each class that are taken for each class.

    A batch is one image, (H, W, 3) uint8. Threads bring what the network says to the image's own size and count, while
    the network looks at the next.
    """

    def __init__(self, ctx: RunContext, dataset: Dataset, folder: Optional[str] = None):
        super().__init__(ctx, dataset)
        self.predictions = LabelMaps(folder, dataset) if folder else None
        self.matrix = ConfusionMatrix(ctx.num_classes)

    def take(self, index: int, sample: Sample, outputs: Sequence[Pass]) -> None:
        """outputs: ImageInference's for the image."""
        labels = np.asarray(sample.target)
        found = label_map(outputs, (labels.shape[0], labels.shape[1]))
        if self.predictions is not None:
            self.predictions.add(index, found)
        self.keep(index, sample, lambda: (labels, found))
        with self.lock:
            self.matrix.update(found, labels)

    def compute(self) -> SegmentationScore:
        """Over all ranks."""
        self.finish()
        self.matrix.counts = distributed.total_counts(self.matrix.counts, self.ctx.device.ranks)
        return self.matrix.score(len(self.dataset))

    def save_predictions(self) -> None:
        """What all images make together; the label maps of each are there already. Called on every rank."""
        if self.predictions is not None and self.ctx.device.is_main:
            self.predictions.finish(self.matrix)
