"""A confusion matrix as a picture: which classes are taken for which."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Sequence

import numpy as np
from PIL import Image, ImageDraw

from mindvit.runtime.files import on_one_line
from mindvit.visualization.attention_sheet import FAINT, GREY, INK, PAPER, Fonts, colours, fonts

MARGIN, TITLE = 16, 30  # px
CELLS = (8, 36)  # px: sides of a cell with many and with few classes
ACROSS = 640  # px that the cells share, if that is possible
NUMBERED = 26  # px: cells with numbers in them
MOST_LETTERS = 18  # of a name


def picture(counts: np.ndarray, names: Sequence[str], letters: Fonts | None = None) -> Image.Image:
    """Each labelled class is a row, each predicted one a column; the colour is the share of the row.

    Args:
        counts: (classes, classes) pixels.
        names: of the classes.
        letters: by default Pillow's own.

    Returns:
        An RGB image.
    """
    letters = letters or fonts()
    total = counts.sum(1, keepdims=True)
    shares = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    side = int(np.clip(ACROSS // len(names), *CELLS))
    texts = [on_one_line(name)[:MOST_LETTERS] for name in names]
    room = max(int(letters.small.getlength(text)) for text in texts) + 8
    size = side * len(names)
    title = "share of each labelled class (rows) that is predicted as (columns), %"
    wide = max(room + size, int(letters.label.getlength(title)) + 1)
    result = Image.new("RGB", (2 * MARGIN + wide, 2 * MARGIN + TITLE + size + room), PAPER)
    draw = ImageDraw.Draw(result)
    draw.text((MARGIN, MARGIN), title, INK, letters.label)
    left, top = MARGIN + room, MARGIN + TITLE
    result.paste(Image.fromarray(np.kron(colours(shares), np.ones((side, side, 1), np.uint8))), (left, top))
    step = max(1, -(-14 // side))  # a name every so many rows, where rows are narrower than letters
    below = Image.new("RGB", (room, size), PAPER)  # the columns' names, on their side
    for number in range(0, len(names), step):
        middle = number * side + side // 2 - 7
        draw.text((left - 6 - letters.small.getlength(texts[number]), top + middle), texts[number], INK, letters.small)
        width = letters.small.getlength(texts[number])
        ImageDraw.Draw(below).text((room - 4 - width, middle), texts[number], INK, letters.small)
    result.paste(below.rotate(90, expand=True), (left, top + size))
    if side >= NUMBERED:
        for row, column in np.argwhere(shares >= 0.005):
            text = f"{100 * shares[row, column]:.0f}"
            dark = colours(shares[row : row + 1, column]).mean() < 128
            place = (left + column * side + (side - letters.small.getlength(text)) / 2, top + row * side + side / 2 - 7)
            draw.text(place, text, PAPER if dark else INK, letters.small)
    draw.rectangle((left - 1, top - 1, left + size, top + size), outline=GREY if side > CELLS[0] else FAINT)
    return result


def draw_file(table: Path) -> Path:
    """The picture of a confusion matrix in a CSV file, beside it as PNG; where it is."""
    with table.open(newline="", encoding="utf-8") as stream:
        (_, *names), *rows = csv.reader(stream)
    target = table.with_suffix(".png")
    picture(np.array([row[1:] for row in rows], np.int64), names).save(target)
    return target
