"""What an evaluation says of classes, pairs and confidence, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mindvit.tasks.classification.per_class import (
    Said,
    calibration,
    confidently_wrong,
    confused_pairs,
    confusion,
    per_class,
    read_said,
    worst,
)

NAMES = ("cat", "dog", "cow", "emu")  # no emu among the images
LABELS = (0, 0, 0, 0, 1, 1, 2, 2)
PREDICTED = (0, 0, 1, 1, 1, 0, 2, 1)
CONFIDENCE = (0.9, 0.8, 0.95, 0.6, 0.99, 0.97, 0.5, 0.4)


@pytest.fixture
def said() -> Said:
    images = tuple(f"{number}.jpg" for number in range(len(LABELS)))
    return Said(NAMES, np.array(LABELS), np.array(PREDICTED), np.array(CONFIDENCE), images)


def test_a_row_for_each_class(said: Said) -> None:
    cat, dog, cow, emu = per_class(said)
    assert cat == {"class": "cat", "recall": 50, "precision": 66.67, "f1": 57.14, "images": 4, "taken_for": "dog"}
    assert dog == {"class": "dog", "recall": 50, "precision": 25, "f1": 33.33, "images": 2, "taken_for": "cat"}
    assert (cow["recall"], cow["precision"], cow["taken_for"]) == (50, 100, "dog")
    assert (emu["recall"], emu["precision"], emu["f1"], emu["images"]) == (None, None, None, 0)


def test_the_worst_are_those_with_images(said: Said) -> None:
    rows = per_class(said)
    rows[2]["recall"] = 10
    assert [row["class"] for row in worst(rows, 2)] == ["cow", "cat"]


def test_the_matrix_and_its_mistakes(said: Said) -> None:
    assert confusion(said).tolist() == [[2, 2, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    first, *others = confused_pairs(said)
    assert first == {"class": "cat", "taken_for": "dog", "images": 2, "share": 50}
    assert [(row["class"], row["taken_for"]) for row in others] == [("dog", "cat"), ("cow", "dog")]


def test_the_surest_mistakes_come_first(said: Said) -> None:
    assert confidently_wrong(said, 3) == [5, 2, 3]


def test_calibration_weighs_bins_by_their_images(said: Said) -> None:
    """0.95, 0.99 and 0.97 share a bin, of which a third is right; each other image has one for itself."""
    error, rows = calibration(said)
    alone = 0.1 + 0.2 + 0.6 + 0.5 + 0.4
    assert error == pytest.approx(100 * (alone + 3 * (0.97 - 1 / 3)) / 8)
    assert rows[-1] == {"from": 0.9333, "to": 1.0, "images": 3, "confidence": 97.0, "accuracy": 33.33}
    assert sum(row["images"] for row in rows) == 8


def test_the_file_of_predictions_is_read(tmp_path: Path) -> None:
    file = tmp_path / "predictions.csv"
    file.write_text(
        "image,label,loss,class1,probability1\na.jpg,dog,0.1,dog,0.9\nb.jpg,cat,2,7,0.5\nc.jpg,cat,nan,cat,nan\n"
    )
    said = read_said(file, ("cat", "dog"))
    assert said.names == ("cat", "dog", "7")
    assert said.labels.tolist() == [1, 0, 0]
    assert said.predicted.tolist() == [1, 2, 0]
    assert said.confidence.tolist() == [0.9, 0.5, 0]
    assert said.images == ("a.jpg", "b.jpg", "c.jpg")


def test_classes_of_one_name_do_not_shift_the_others(tmp_path: Path) -> None:
    """ImageNet has two cranes."""
    (tmp_path / "a.csv").write_text("image,label,class1,probability1\na,emu,crane,0.5\nb,crane,yak,0.5\n", "utf-8")
    found = read_said(tmp_path / "a.csv", ("crane", "cow", "crane", "emu"))
    assert found.names == ("crane", "cow", "crane", "emu", "yak")
    assert [found.names[label] for label in found.labels] == ["emu", "crane"]
    assert [found.names[label] for label in found.predicted] == ["crane", "yak"]
