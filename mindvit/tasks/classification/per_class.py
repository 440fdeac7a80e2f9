"""What an evaluation says of each class, of pairs of classes and of the network's confidence: from the file of
predictions that it wrote.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Sequence

import numpy as np

BINS = 15  # of confidence (Guo et al. 2017, arXiv:1706.04599)
MOST_IN_A_MATRIX = 2000  # classes: a table of more has gigabytes


@dataclass(frozen=True)
class Said:
    """An evaluation's images in the data set's order.

    names: of the classes; labels, predicted: (images,) int64 class numbers; confidence: (images,) float64, the
    probability of the predicted class in 0..1, 0 where the network gave no number; images: their paths.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    images: tuple[str, ...]

    @property
    def right(self) -> np.ndarray:
        """(images,) bool."""
        return self.labels == self.predicted


def read_said(file: Path, class_names: Sequence[str]) -> Said:
    """From a CSV file of `predictions.Predictions`.

    Args:
        file: with the columns image, label, class1, probability1.
        class_names: of the data set, by class number; what the network names beyond them comes after.

    Returns:
        All of its rows.
    """
    names, numbers = list(class_names), dict[str, int]()
    for number, name in enumerate(class_names):
        numbers.setdefault(name, number)  # of two classes of one name the first
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for name in (row[column] for row in rows for column in ("label", "class1")):
        if name not in numbers:
            numbers[name] = len(names)
            names.append(name)
    pairs = [[numbers[row[column]] for column in ("label", "class1")] for row in rows]
    labels, predicted = np.array(pairs, np.int64).reshape(-1, 2).T
    confidence = np.nan_to_num(np.array([float(row["probability1"]) for row in rows]))
    return Said(tuple(names), labels, predicted, confidence, tuple(row["image"] for row in rows))


def confusion(said: Said) -> np.ndarray:
    """(classes, classes) int64: images of the row's class that were taken for the column's."""
    count = len(said.names)
    return np.bincount(said.labels * count + said.predicted, minlength=count**2).reshape(count, count)


def confused_pairs(said: Said) -> list[dict[str, Any]]:
    """A row for each two classes of which images of one were taken for the other, the most frequent mistake first."""
    wrong, count = ~said.right, len(said.names)
    found, times = np.unique(said.labels[wrong] * count + said.predicted[wrong], return_counts=True)
    images = np.bincount(said.labels, minlength=count)
    return [
        {
            "class": said.names[pair // count],
            "taken_for": said.names[pair % count],
            "images": int(number),
            "share": round(100 * number / images[pair // count], 2),
        }
        for pair, number in sorted(zip(found.tolist(), times.tolist()), key=lambda item: (-item[1], item[0]))
    ]


def per_class(said: Said) -> list[dict[str, Any]]:
    """A row for each class in their order: recall (a class's own accuracy), precision and F1 in per cent, None where
    there is nothing to count.
    """
    count = len(said.names)
    images, taken = (np.bincount(numbers, minlength=count) for numbers in (said.labels, said.predicted))
    right = np.bincount(said.labels[said.right], minlength=count)
    most: dict[str, str] = {}
    for pair in confused_pairs(said):
        most.setdefault(pair["class"], pair["taken_for"])
    return [
        {
            "class": name,
            "recall": _share(right[number], images[number]),
            "precision": _share(right[number], taken[number]),
            "f1": _share(2 * right[number], images[number] + taken[number]),
            "images": int(images[number]),
            "taken_for": most.get(name, ""),
        }
        for number, name in enumerate(said.names)
    ]


def worst(rows: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """The classes of `per_class` with the least recall, those without an image left out."""
    there = [row for row in rows if row["recall"] is not None]
    return sorted(there, key=lambda row: (row["recall"], -row["images"]))[:most]


def calibration(said: Said) -> tuple[float, list[dict[str, Any]]]:
    """The expected calibration error in per cent, and a row for each bin of confidence that has images.

    ECE is the mean distance between confidence and accuracy over BINS bins of the same width, weighted by their images
    (Guo et al. 2017, equation 3).
    """
    bins = np.clip(np.ceil(said.confidence * BINS).astype(int) - 1, 0, BINS - 1)
    rows, error = [], 0.0
    for number in np.unique(bins):
        inside = bins == number
        confidence, accuracy = said.confidence[inside].mean(), said.right[inside].mean()
        error += abs(confidence - accuracy) * inside.mean()
        rows.append(
            {
                "from": round(number / BINS, 4),
                "to": round((number + 1) / BINS, 4),
                "images": int(inside.sum()),
                "confidence": round(100 * float(confidence), 2),
                "accuracy": round(100 * float(accuracy), 2),
            }
        )
    return 100 * float(error), rows


def confidently_wrong(said: Said, most: int) -> list[int]:
    """The places of the mistakes that the network is surest of."""
    wrong = np.flatnonzero(~said.right)
    return wrong[np.argsort(-said.confidence[wrong], kind="stable")][:most].tolist()


def _share(part: int, whole: int) -> float | None:
    return round(100 * int(part) / int(whole), 2) if whole else None
