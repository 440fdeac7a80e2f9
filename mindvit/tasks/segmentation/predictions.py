"""What a segmentor said of every image of an evaluation, as files in a folder."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from mindvit.data.classes import numbered
from mindvit.data.datasets.base import Dataset
from mindvit.data.label_maps import write_label_map
from mindvit.errors import UserError
from mindvit.tasks.segmentation.metrics import ConfusionMatrix

CONFUSION = "confusion.csv"


class LabelMaps:
    """Writes a label map, KEY.png, for each image into `folder`, and the confusion matrix of all of them.

    UserError if the folder can't be written.
    """

    def __init__(self, folder: str, dataset: Dataset):
        self.folder, self.dataset = Path(folder), dataset
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(
                f"predictions can't be written to {folder}: it is a file, and label maps need a folder, one an image"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._told(error) from None

    def add(self, index: int, labels: np.ndarray) -> None:
        """The label map (H, W) of one image."""
        path = self.folder / f"{self.dataset.key(index)}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_label_map(path, labels)
        except OSError as error:
            raise self._told(error) from None

    def finish(self, matrix: ConfusionMatrix) -> None:
        """The matrix, a row for each labelled class, a column for each predicted one, in pixels."""
        names = numbered(self.dataset.class_names, matrix.num_classes)
        try:
            with (self.folder / CONFUSION).open("w", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream)
                writer.writerow(["labelled", *names])
                writer.writerows([name, *row] for name, row in zip(names, matrix.counts.tolist()))
        except OSError as error:
            raise self._told(error) from None

    def _told(self, error: OSError) -> UserError:
        return UserError(f"predictions can't be written to {self.folder}: {error.strerror}")
