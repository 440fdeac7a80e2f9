"""What validation measures of a segmentor: counts over the whole data set, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Sequence

import numpy as np

from mindvit.data.transforms.dense import IGNORED
from mindvit.errors import UserError


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

    def score(self, images: int) -> SegmentationScore:
        """What follows from the counts over `images` images."""
        found, predicted, labelled = (
            tuple(map(int, item)) for item in (np.diag(self.counts), self.counts.sum(0), self.counts.sum(1))
        )
        return SegmentationScore(found, predicted, labelled, images)


@dataclass(frozen=True)
class SegmentationScore:
    """Pixels of each class over `count` images: those that were found, that were predicted, that are labelled so."""

    found: tuple[int, ...]
    predicted: tuple[int, ...]
    labelled: tuple[int, ...]
    count: int

    def iou(self) -> np.ndarray:
        """Each class's intersection over union; NaN for one that is neither there nor predicted."""
        found, predicted, labelled = map(np.array, (self.found, self.predicted, self.labelled))
        return _ratio(found, predicted + labelled - found)

    def accuracy(self) -> np.ndarray:
        """The share of each class's pixels that were found; NaN for a class that is not there."""
        return _ratio(np.array(self.found), np.array(self.labelled))

    def dice(self) -> np.ndarray:
        """Each class's 2 intersection / (predicted + labelled); NaN for one that is neither."""
        return _ratio(2 * np.array(self.found), np.array(self.predicted) + np.array(self.labelled))

    def metrics(self) -> dict[str, float]:
        """mIoU and mAcc, means over the classes that are not NaN, and aAcc, all pixels' share, per cent; NaN without
        any.
        """
        return {
            "mIoU": 100 * _mean(self.iou()),
            "mAcc": 100 * _mean(self.accuracy()),
            "aAcc": 100 * float(_ratio(np.array(sum(self.found)), np.array(sum(self.labelled)))),
        }

    @property
    def primary(self) -> float:
        """mIoU, per cent."""
        return self.metrics()["mIoU"]

    def is_guessing(self) -> bool:
        """Whether mIoU is no more than calling every pixel the commonest class would give."""
        there = sum(count > 0 for count in self.labelled)
        always = 100 * max(self.labelled) / max(sum(self.labelled), 1) / max(there, 1)
        return there > 1 and not self.primary > always

    def per_class(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """A row for each class: IoU, accuracy and its share of the labelled pixels, per cent; None: not there."""
        shares = _ratio(np.array(self.labelled), np.full(len(self.labelled), sum(self.labelled)))
        columns = {"IoU": self.iou(), "accuracy": self.accuracy(), "share": shares}
        return [
            {
                "class": names[number] if number < len(names) else str(number),
                **{
                    key: None if np.isnan(values[number]) else round(100 * float(values[number]), 2)
                    for key, values in columns.items()
                },
            }
            for number in range(len(self.labelled))
        ]

    def __str__(self) -> str:
        return "  ".join(f"{key} {value:.2f} %" for key, value in self.metrics().items())


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else float("nan")
