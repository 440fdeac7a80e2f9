"""What a detector's evaluation found, as files to look at: its errors by kind and class, and the surest false alarms
and the largest missed objects drawn.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, Optional, Sequence

import numpy as np
from PIL import Image, ImageDraw

from mindvit.data.datasets.base import Dataset
from mindvit.data.objects import Numbered, Objects
from mindvit.errors import UserError
from mindvit.runtime import console, files
from mindvit.runtime.files import on_one_line
from mindvit.tasks.base import Asked
from mindvit.tasks.detection.errors import KINDS, ImageErrors, errors_of, rows
from mindvit.tasks.detection.inference import Detections
from mindvit.visualization.attention_sheet import (
    ACCENT,
    GAP,
    GREY,
    IMAGE,
    INK,
    LINE,
    MARGIN,
    PAPER,
    SMALL_LINE,
    Fonts,
    fitted,
    fonts,
)
from mindvit.visualization.boxes import frame
from mindvit.visualization.run_files import ERRORS

PICTURE, LEAST = "errors.png", Asked.score_thr
COLUMNS, MOST = 3, 9  # tiles side by side, and of false alarms and of missed objects
CONTEXT, LEAST_SHARE = 2.5, 0.35  # a tile shows so much more than the box, and at least this share of the image
RED, GREEN = (200, 68, 47), (45, 138, 78)


class Shown(NamedTuple):
    """A tile: the image's number, the box that it is about (4,), which is framed in a colour under a text, and the box
    (4,) of the object that is there, or None.
    """

    image: int
    box: np.ndarray
    text: str
    colour: tuple[int, int, int]
    other: Optional[np.ndarray]


def write(folder: Path, file: Path, dataset: Dataset, font: Optional[Path] = None) -> list[str]:
    """errors.csv and errors.png.

    Args:
        folder: for them.
        file: the detections, of which those with a score of at least LEAST count.
        dataset: that was evaluated.
        font: for names that aren't in Latin letters, a TrueType file.

    Returns:
        Lines for the user.

    Raises:
        UserError: the folder can't be written.
    """
    letters = fonts(font)
    detected = read_detections(file, dataset)
    images = [(objects := dataset.target(index), found, errors_of(objects, found)) for index, found in detected]
    table = list(rows(images, dataset.class_names))
    try:
        console.write_csv(folder / ERRORS, table)
        with files.atomic_write(folder / PICTURE) as unfinished:
            sheet(sections(images, dataset.class_names), dataset, letters).save(unfinished)
    except OSError as failure:
        raise UserError(f"--out {folder} can't be written: {failure.strerror}") from None
    whole = table[0]
    kinds = ", ".join(f"{whole[kind]} {kind}" for kind in KINDS)
    return [
        f"with a score of at least {LEAST}: {whole['found']} of {whole['objects']} objects found, {whole['missed']} "
        f"missed; false alarms: {kinds}",
        f"{file.name}, {ERRORS} and {PICTURE} are in {folder}",
    ]


def read_detections(file: Path, dataset: Dataset) -> list[tuple[int, Detections]]:
    """Each image's number with its detections of a score of at least LEAST, the surest first."""
    images: dict[Any, int] = {index: index for index in range(len(dataset))}
    classes: dict[Any, int] = {number + 1: number for number in range(len(dataset.class_names))}
    if isinstance(dataset, Numbered):
        own, kinds = dataset.ids()
        images = {key: index for index, key in enumerate(own)}
        classes = {key: number for number, key in enumerate(kinds)}
    items_of: dict[int, list[dict[str, Any]]] = {index: [] for index in range(len(dataset))}
    for item in json.loads(file.read_text(encoding="utf-8")):
        if item["score"] >= LEAST and item["category_id"] in classes:
            items_of[images[item["image_id"]]].append(item)
    result = []
    for index, items in items_of.items():
        items.sort(key=lambda item: -item["score"])
        boxes = np.array([item["bbox"] for item in items], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        scores = np.array([item["score"] for item in items], np.float32)
        labels = np.array([classes[item["category_id"]] for item in items], np.int32)
        result.append((index, Detections(boxes, scores, labels, None)))
    return result


def sections(
    images: Sequence[tuple[Objects, Detections, ImageErrors]], names: Sequence[str]
) -> list[tuple[str, list[Shown]]]:
    """The surest false alarms and the largest missed objects, under their headings."""
    alarms: list[tuple[float, Shown]] = []
    lost: list[tuple[float, Shown]] = []
    for index, (objects, found, errors) in enumerate(images):
        for number, (kind, place) in enumerate(zip(errors.kinds, errors.nearest)):
            if kind in KINDS:
                score = float(found.scores[number])
                text = f"{names[found.labels[number]]} {score:.2f}: {kind}"
                if place >= 0 and objects.labels[place] != found.labels[number]:
                    text += f", {names[objects.labels[place]]}"
                other = objects.boxes[place] if place >= 0 else None
                alarms.append((score, Shown(index, found.boxes[number], text, RED, other)))
        for number in np.flatnonzero(errors.missed):
            box = objects.boxes[number]
            shown = Shown(index, box, f"missed: {names[objects.labels[number]]}", ACCENT, None)
            lost.append((float((box[2:] - box[:2]).prod()), shown))
    found_parts = []
    for title, items in (("false alarms, the surest first", alarms), ("missed objects, the largest first", lost)):
        chosen = [shown for _, shown in sorted(items, key=lambda item: -item[0])[:MOST]]
        found_parts.append((f"{title} ({len(chosen)} of {len(items)})", chosen))
    return found_parts


def sheet(parts: Sequence[tuple[str, list[Shown]]], dataset: Dataset, letters: Fonts) -> Image.Image:
    """Each section's boxes, with what lies around them."""
    rows_of = [
        (title, [chosen[first : first + COLUMNS] for first in range(0, len(chosen), COLUMNS)])
        for title, chosen in parts
    ]
    tiles = [[[tile(shown, dataset, letters) for shown in row] for row in section] for _, section in rows_of]
    talls = [[max(one.height for one in row) for row in section] for section in tiles]
    high = sum(2 * LINE + sum(tall + SMALL_LINE + GAP for tall in section) for section in talls)
    result = Image.new("RGB", (2 * MARGIN + COLUMNS * (IMAGE + GAP) - GAP, 2 * MARGIN + high), PAPER)
    pen, y = ImageDraw.Draw(result), MARGIN
    for (title, section), drawn, heights in zip(rows_of, tiles, talls):
        pen.text((MARGIN, y), title, INK, letters.heading)
        y += 2 * LINE
        for row, pictures, tall in zip(section, drawn, heights):
            for column, (shown, one) in enumerate(zip(row, pictures)):
                x = MARGIN + column * (IMAGE + GAP)
                result.paste(one, (x, y))
                name = on_one_line(Path(dataset.name(shown.image)).name)
                pen.text((x, y + tall + 1), fitted(name, letters.small, IMAGE), GREY, letters.small)
            y += tall + SMALL_LINE + GAP
    return result


def tile(shown: Shown, dataset: Dataset, letters: Fonts) -> Image.Image:
    """What lies around a box, IMAGE px wide or high, with the box and what it is about."""
    image = dataset.read(shown.image)
    left, top, right, bottom = (float(side) for side in shown.box)
    side = max(CONTEXT * max(right - left, bottom - top), LEAST_SHARE * max(image.size))
    middle = (left + right) / 2, (top + bottom) / 2
    low = [int(min(max(place - side / 2, 0), length - 1)) for place, length in zip(middle, image.size)]
    high = [int(max(min(place + side / 2, length), first + 1)) for place, length, first in zip(middle, image.size, low)]
    part = image.crop((low[0], low[1], high[0], high[1]))
    factor = IMAGE / max(part.size)
    part = part.resize((max(round(part.width * factor), 1), max(round(part.height * factor), 1)))
    about = [(shown.box, shown.text, shown.colour)]
    if shown.other is not None:
        about.append((shown.other, "", GREEN))
    boxes = (np.array([box for box, _, _ in about]) - [*low, *low]) * factor
    frame(part, boxes, [colour for _, _, colour in about], [text for _, text, _ in about], letters)
    return part
