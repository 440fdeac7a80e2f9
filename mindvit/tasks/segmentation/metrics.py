"""What validation measures of a segmentor: counts over the whole data set, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional, Sequence

import numpy as np

from mindvit.errors import UserError
from mindvit.tasks.segmentation.losses import IGNORED


@dataclass
class ConfusionMatrix:
    """How many pixels of each class (row) were taken for which class (column), int64, summed over images.

    It is all that is kept of a data set, and ranks' matrices add up, so that every image counts once on any number of
    ranks.
    """

    num_classes: int
    counts: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    def __post_init__(self) -> None:
        if self.counts.shape != (self.num_classes, self.num_classes):
            self.counts = np.zeros((self.num_classes, self.num_classes), np.int64)

    def update(self, predicted: np.ndarray, labels: np.ndarray) -> None:
        """Count an image's pixels. predicted, labels: (H, W) integers; IGNORED labels count nowhere.

        UserError for another size, and for a label that is no class.
        """
        if predicted.shape != labels.shape:
            raise UserError(f"a label map of {labels.shape} pixels for an image of {predicted.shape}")
        counted = labels != IGNORED
        rows, columns = labels[counted].astype(np.int64), predicted[counted].astype(np.int64)
        if rows.size and not 0 <= rows.min() <= rows.max() < self.num_classes:
            raise UserError(
                f"a label map has values {rows.min()} to {rows.max()}, but there are {self.num_classes} classes: "
                f"labels are 0 to {self.num_classes - 1}, and {IGNORED} where nothing counts"
            )
        cells = np.bincount(rows * self.num_classes + columns, minlength=self.num_classes**2)
        self.counts += cells.reshape(self.num_classes, self.num_classes)

    def merge(self, other: ConfusionMatrix) -> None:
        """Add another rank's counts."""
        self.counts += other.counts

    @property
    def intersection(self) -> np.ndarray:
        """Pixels of each class that were found."""
        return np.diag(self.counts)

    def iou(self) -> np.ndarray:
        """Each class's intersection over union; NaN for one that is neither there nor predicted."""
        return _ratio(self.intersection, self.counts.sum(0) + self.counts.sum(1) - self.intersection)

    def accuracy(self) -> np.ndarray:
        """The share of each class's pixels that were found; NaN for a class that is not there."""
        return _ratio(self.intersection, self.counts.sum(1))

    def dice(self) -> np.ndarray:
        """Each class's 2 intersection / (predicted + labelled); NaN for one that is neither."""
        return _ratio(2 * self.intersection, self.counts.sum(0) + self.counts.sum(1))

    def summary(self) -> dict[str, float]:
        """mIoU and mAcc, means over the classes that are not NaN, and aAcc, all pixels' share; NaN without any."""
        return {
            "mIoU": _mean(self.iou()),
            "mAcc": _mean(self.accuracy()),
            "aAcc": float(_ratio(self.intersection.sum(), self.counts.sum())),
        }

    def table(self, names: Optional[Sequence[str]] = None) -> list[tuple[str, float, float]]:
        """(class, IoU, accuracy) of each class."""
        names = [str(index) for index in range(self.num_classes)] if names is None else names
        return list(zip(names, map(float, self.iou()), map(float, self.accuracy())))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else float("nan")
