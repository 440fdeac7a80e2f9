"""What a network said of every image of an evaluation, as a CSV file."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from mindvit.data.datasets.base import LabelledDataset
from mindvit.data.samplers import Shard, val_order
from mindvit.errors import UserError
from mindvit.runtime import distributed
from mindvit.runtime.files import SPELT_OUT

MOST = 5  # classes an image
PREDICTIONS = "predictions.csv"  # in a folder for an evaluation


def likeliest(logits: np.ndarray, names: Sequence[str], count: int) -> list[tuple[str, float]]:
    """The `count` classes with the largest of these logits (num_classes,), by name (or number, where there is none),
    with their probabilities.

    Ties are resolved by class number.
    """
    values = np.exp(logits.astype(np.float64) - logits.max())
    values /= values.sum()
    return [
        (names[index] if index < len(names) else str(index), float(values[index]))
        for index in np.argsort(-logits, kind="stable")[:count]
    ]


class Predictions:
    """Collects the rows of one rank's images; `write` puts all ranks' rows into `file`, in the order of the data set.

    Columns: image, label, loss, then class1, probability1, ... for the five most probable classes. UserError if the
    file can't be written.
    """

    def __init__(self, file: str, dataset: LabelledDataset, shard: Shard):
        self.file, self.dataset = Path(os.path.realpath(file)), dataset
        self.ranks, self.rank = shard.ranks, shard.rank
        if self.file.exists() and not self.file.is_file():
            raise UserError(
                f"predictions can't be written to {file}: it is a folder or a device; give the name of a file"
            )
        self.order = val_order(len(dataset), self.ranks, self.rank)
        self.rows: list[list[Any]] = []
        self._write(self._part(self.rank), [])  # what can't be written is better known before an hour of work

    def add(self, logits: np.ndarray, losses: np.ndarray) -> None:
        """A batch: logits (B, classes) and losses (B,) of the next images, those that fill up the last batch among
        them.
        """
        names = self.dataset.class_names
        for row, loss, index in zip(logits, losses, self.order[len(self.rows) : len(self.rows) + len(losses)]):
            said = [text for name, probability in likeliest(row, names, MOST) for text in (name, f"{probability:.6f}")]
            self.rows.append([index, self.dataset.name(index), names[self.dataset.labels[index]], f"{loss:.6f}", *said])

    def write(self) -> None:
        """All ranks' rows, in order; called on every rank."""
        self._write(self._part(self.rank), self.rows)
        distributed.total([1], self.ranks)  # every rank's part is there
        if self.rank == 0:
            parts = [self._part(rank) for rank in range(self.ranks)]
            rows = [row for part in parts for row in csv.reader(part.open(newline="", encoding="utf-8"))]
            columns = (max(map(len, rows), default=4) - 4) // 2
            header = [
                "image",
                "label",
                "loss",
                *(f"{what}{place}" for place in range(1, columns + 1) for what in ("class", "probability")),
            ]
            self._write(parts[0], [header, *(row[1:] for row in sorted(rows, key=lambda row: int(row[0])))])
            os.replace(parts[0], self.file)
            for part in parts[1:]:
                part.unlink()

    def clean(self) -> None:
        """Take away this rank's part, where an evaluation that failed has left it."""
        self._part(self.rank).unlink(missing_ok=True)

    def _part(self, rank: int) -> Path:
        return self.file.with_name(f".{self.file.name}.{rank}")

    def _write(self, path: Path, rows: list[list[Any]]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", newline="", encoding="utf-8", errors=SPELT_OUT) as stream:
                csv.writer(stream).writerows(rows)
        except OSError as error:
            raise UserError(f"predictions can't be written to {self.file}: {error.strerror}") from None
