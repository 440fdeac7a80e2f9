"""Tables and pictures of an evaluation: what they show, and that few and many classes can be read."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mindvit.data.datasets.base import LabelledDataset
from mindvit.errors import UserError
from mindvit.visualization import class_report, examples
from mindvit.visualization.attention_sheet import ACCENT, MARGIN, TILE
from mindvit.visualization.run_report import PICTURES


class Colours(LabelledDataset):
    """Images of one colour, that of their number."""

    def name(self, index: int) -> str:
        return f"images/{index}.png"

    def read(self, index: int) -> Image.Image:
        return Image.new("RGB", (30, 20), (10 * index, 0, 200))


def evaluated(folder: Path, classes: int, predicted: list[int]) -> list[str]:
    """Lines of a report on one image a class, image k taken for predicted[k], each surer than the one before."""
    dataset = Colours(range(classes), [f"class {number}" for number in range(classes)])
    with (folder / "predictions.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "label", "loss", "class1", "probability1"])
        for number, other in enumerate(predicted):
            name = f"class {other}"
            writer.writerow([dataset.name(number), f"class {number}", 1, name, 0.5 + number / (3 * classes)])
    return class_report.write(folder, dataset)


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as stream:
        return list(csv.reader(stream))


def test_files_and_lines(tmp_path: Path) -> None:
    classes, calibration, files = evaluated(tmp_path, 4, [0, 1, 1, 0])
    assert classes.splitlines()[3].startswith("| class 2 | 0.0 ")
    assert "accuracy 50.00 %" in calibration and str(tmp_path) in files and "confusion.csv" in files
    assert rows(tmp_path / "classes.csv")[3] == ["class 2", "0.0", "", "0.0", "1", "class 1"]
    assert rows(tmp_path / "confused.csv")[1:] == [
        ["class 2", "class 1", "1", "100.0"],
        ["class 3", "class 0", "1", "100.0"],
    ]
    assert rows(tmp_path / "confusion.csv")[4] == ["class 3", "1", "0", "0", "0"]
    others = {examples.FILE, "errors.png"}  # which dense tasks draw
    assert {path.name for path in tmp_path.glob("*.png")} == {*PICTURES} - others
    assert sum(int(row[2]) for row in rows(tmp_path / "calibration.csv")[1:]) == 4


def test_the_surest_mistake_is_drawn_first(tmp_path: Path) -> None:
    evaluated(tmp_path, 4, [0, 1, 1, 0])
    sheet = Image.open(tmp_path / "wrong.png")
    top = MARGIN + 40 + TILE // 2
    assert sheet.getpixel((MARGIN + TILE // 2, top)) == (30, 0, 200)
    assert sheet.getpixel((MARGIN + TILE + 12 + TILE // 2, top)) == (20, 0, 200)


def test_of_many_classes_the_worst_pairs_are_drawn(tmp_path: Path) -> None:
    evaluated(tmp_path, 1000, [*range(1, 1000), 0])
    picture = np.asarray(Image.open(tmp_path / "confusion.png"))
    assert picture.shape[0] < 1000 and picture.shape[1] < 1200
    column = (picture[:, MARGIN + 2 * class_report.NAMES + 5] == ACCENT).all(1).astype(int)
    assert (np.diff(column) == 1).sum() == class_report.MOST_PAIRS


def test_no_mistake_is_said_and_none_of_before_stays(tmp_path: Path) -> None:
    evaluated(tmp_path, 3, [1, 1, 2])
    assert len(rows(tmp_path / "confused.csv")) == 2
    evaluated(tmp_path, 3, [0, 1, 2])
    assert rows(tmp_path / "confused.csv") == []
    assert Image.open(tmp_path / "wrong.png").height < TILE


def test_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "classes.csv").mkdir()
    with pytest.raises(UserError, match="--out .* can't be written"):
        evaluated(tmp_path, 3, [0, 1, 2])
