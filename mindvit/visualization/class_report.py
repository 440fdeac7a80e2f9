"""What an evaluation found, as files to look at: each class, what is taken for what, how far the network's confidence
can be trusted, and the mistakes that it is surest of.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Optional, Sequence

import numpy as np
from PIL import Image, ImageDraw

from mindvit.data.datasets.base import LabelledDataset
from mindvit.errors import UserError
from mindvit.runtime import console, files
from mindvit.runtime.files import SPELT_OUT, on_one_line
from mindvit.tasks.classification import per_class
from mindvit.tasks.classification.per_class import Said
from mindvit.tasks.classification.predictions import PREDICTIONS
from mindvit.visualization import confusion
from mindvit.visualization.attention_sheet import (
    ACCENT,
    FAINT,
    GAP,
    GREY,
    INK,
    LINE,
    MARGIN,
    PAPER,
    SMALL_LINE,
    TILE,
    Fonts,
    fitted,
    fonts,
)

CLASSES, PAIRS, MATRIX, CALIBRATION = "classes.csv", "confused.csv", "confusion.csv", "calibration.csv"
MOST_DRAWN = 40  # classes in a picture of the matrix; of more the worst pairs are shown
MOST_PAIRS, MOST_WRONG, MOST_PRINTED = 30, 24, 10
WRONG_COLUMNS = 6
NAMES, BAR = 300, 300  # px: room of a class's name, and of the longest bar
PLOT, STEP = 360, 5  # px: side of the plot; parts of its axes
RED = (200, 68, 47)


def write(folder: Path, dataset: LabelledDataset, font: Optional[Path] = None) -> list[str]:
    """Tables and pictures of the predictions that lie in a folder.

    Args:
        folder: with predictions.csv; the other files come beside it.
        dataset: that was evaluated.
        font: for names that aren't in Latin letters, a TrueType file.

    Returns:
        Lines for the user: the worst classes, the calibration error, where the files are.

    Raises:
        UserError: the folder can't be written.
    """
    said, letters = per_class.read_said(folder / PREDICTIONS, dataset.class_names), fonts(font)
    rows, pairs = per_class.per_class(said), per_class.confused_pairs(said)
    error, bins = per_class.calibration(said)
    places = per_class.confidently_wrong(said, MOST_WRONG)
    small, matrix = len(said.names) <= MOST_DRAWN, len(said.names) <= per_class.MOST_IN_A_MATRIX
    pictures = {
        "confusion.png": confusion.picture(per_class.confusion(said), said.names, letters)
        if small
        else pairs_picture(pairs, letters),
        "calibration.png": calibration_picture(error, bins, letters),
        "wrong.png": wrong_sheet(said, places, dataset, letters),
    }
    try:
        for name, table in ((CLASSES, rows), (PAIRS, pairs), (CALIBRATION, bins)):
            _write_rows(folder / name, table)
        if matrix:
            _write_matrix(folder / MATRIX, said)
        for name, picture in pictures.items():
            with files.atomic_write(folder / name) as unfinished:
                picture.save(unfinished)
    except OSError as failure:
        raise UserError(f"--out {folder} can't be written: {failure.strerror}") from None
    shown = per_class.worst(rows, MOST_PRINTED)
    known = len([row for row in rows if row["images"]])
    heading = f"the {len(shown)} of {known} classes that are found worst (%):" if known > len(shown) else "classes (%):"
    return [
        f"{heading}\n{console.table(*shown)}",
        f"calibration error (ECE, {per_class.BINS} bins) {error:.2f} %: confidence {100 * said.confidence.mean():.2f} "
        f"%, accuracy {100 * said.right.mean():.2f} %",
        f"{', '.join((PREDICTIONS, CLASSES, PAIRS, *[MATRIX] * matrix, CALIBRATION, *pictures))} are in {folder}",
    ]


def pairs_picture(pairs: Sequence[dict[str, Any]], letters: Fonts) -> Image.Image:
    """The most frequent mistakes as bars: readable whatever the number of classes."""
    shown = pairs[:MOST_PAIRS]
    height = 2 * MARGIN + 2 * LINE + max(len(shown), 1) * LINE + LINE
    result = Image.new("RGB", (2 * MARGIN + 2 * NAMES + BAR + 150, height), PAPER)
    pen, top = ImageDraw.Draw(result), MARGIN
    title = f"the {len(shown)} most frequent of {len(pairs)} kinds of mistakes" if shown else "no mistake"
    pen.text((MARGIN, top), title, INK, letters.heading)
    top += LINE + 6
    left = MARGIN + 2 * NAMES
    for x, text in ((MARGIN, "class"), (MARGIN + NAMES, "taken for"), (left, "images, and share of the class")):
        pen.text((x, top), text, GREY, letters.small)
    for pair in shown:
        top += LINE
        for x, name in ((MARGIN, pair["class"]), (MARGIN + NAMES, pair["taken_for"])):
            pen.text((x, top), fitted(name, letters.label, NAMES - GAP), INK, letters.label)
        width = round(BAR * pair["images"] / shown[0]["images"])
        pen.rectangle((left, top + 4, left + max(width, 1), top + LINE - 4), ACCENT)
        pen.text((left + width + 8, top), f"{pair['images']}  ({pair['share']:.0f} %)", INK, letters.small)
    return result


def calibration_picture(error: float, bins: Sequence[dict[str, Any]], letters: Fonts) -> Image.Image:
    """Accuracy by confidence: bars that reach the diagonal belong to a network that knows what it knows. Below them,
    how many images there are.
    """
    count = sum(row["images"] for row in bins)
    left, top, low = MARGIN + 44, MARGIN + 2 * LINE, 70
    result = Image.new("RGB", (left + PLOT + 2 * MARGIN, top + PLOT + LINE + low + 2 * LINE + MARGIN), PAPER)
    pen, bottom = ImageDraw.Draw(result), top + PLOT
    pen.text((MARGIN, MARGIN), f"calibration error (ECE) {error:.2f} %, {count} images", INK, letters.heading)
    for part in range(STEP + 1):
        place = part * PLOT // STEP
        text = f"{100 * part // STEP} %"
        pen.line((left, bottom - place, left + PLOT, bottom - place), FAINT)
        pen.text((left - 6, bottom - place), text, GREY, letters.small, anchor="rm")
        pen.text((left + place, bottom + low + LINE + 4), text, GREY, letters.small, anchor="ma")
    base, most = bottom + LINE + low, max(row["images"] for row in bins)
    for row in bins:
        start, end = (left + round(row[side] * PLOT) for side in ("from", "to"))
        reach = bottom - round(row["accuracy"] / 100 * PLOT)
        sure = bottom - round(row["confidence"] / 100 * PLOT)
        pen.rectangle((start + 1, min(reach, bottom), end - 1, bottom), ACCENT)
        pen.line((start + 1, sure, end - 1, sure), RED, 3)
        pen.rectangle((start + 1, base - max(1, round(low * row["images"] / most)), end - 1, base), GREY)
    pen.line((left, bottom, left + PLOT, top), GREY)
    pen.text((left, top - LINE), "bars: accuracy; red: confidence", GREY, letters.small)
    pen.text((left, bottom + 8), f"images a bin (the highest: {most})", GREY, letters.small)
    pen.text((left + PLOT // 2, base + 6 + SMALL_LINE), "confidence", INK, letters.small, anchor="ma")
    return result


def wrong_sheet(said: Said, places: Sequence[int], dataset: LabelledDataset, letters: Fonts) -> Image.Image:
    """The images of these places in the data set, as they are, with what they are and what they are taken for."""
    columns, high = min(WRONG_COLUMNS, max(len(places), 3)), TILE + 3 * SMALL_LINE + GAP
    rows = -(-len(places) // columns)
    size = (2 * MARGIN + columns * (TILE + GAP) - GAP, 2 * MARGIN + 2 * LINE + rows * high)
    result = Image.new("RGB", size, PAPER)
    pen, wrong = ImageDraw.Draw(result), int((~said.right).sum())
    title = f"wrong, the surest first ({len(places)} of {wrong} mistakes)" if wrong else "no mistake"
    pen.text((MARGIN, MARGIN), fitted(title, letters.heading, size[0] - 2 * MARGIN), INK, letters.heading)
    for number, place in enumerate(places):
        x = MARGIN + number % columns * (TILE + GAP)
        y = MARGIN + 2 * LINE + number // columns * high
        image = dataset.read(place)
        scale = TILE / max(image.size)
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
        pen.rectangle((x, y, x + TILE - 1, y + TILE - 1), FAINT)
        result.paste(image, (x + (TILE - image.width) // 2, y + (TILE - image.height) // 2))
        name = said.names[said.predicted[place]]
        texts = (
            (f"{100 * said.confidence[place]:.1f} % {name}", RED),
            (f"is {said.names[said.labels[place]]}", INK),
            (Path(said.images[place]).name, GREY),
        )
        for line, (text, colour) in enumerate(texts):
            pen.text((x, y + TILE + 2 + line * SMALL_LINE), fitted(text, letters.small, TILE), colour, letters.small)
    return result


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A table; one without a row is an empty file, so that none of an earlier evaluation stays."""
    console.write_csv(path, rows) if rows else files.write_text(path, "")


def _write_matrix(path: Path, said: Said) -> None:
    with path.open("w", newline="", encoding="utf-8", errors=SPELT_OUT) as stream:
        writer = csv.writer(stream)
        writer.writerow(["labelled", *map(on_one_line, said.names)])
        for name, row in zip(said.names, per_class.confusion(said)):
            writer.writerow([on_one_line(name), *np.asarray(row).tolist()])
