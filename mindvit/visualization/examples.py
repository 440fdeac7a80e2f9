"""What a segmentor or a detector finds in images beside what is there, on one sheet."""

from __future__ import annotations

from typing import Any, Callable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from mindvit.data.label_maps import overlaid, palette
from mindvit.tasks.base import Example
from mindvit.tasks.detection.prediction import Found
from mindvit.visualization import boxes
from mindvit.visualization.attention_sheet import GAP, GREY, INK, LINE, MARGIN, PAPER, SMALL_LINE, Fonts, fitted, fonts
from mindvit.visualization.overlay import LEAST_SIDE, MOST_NAMED, SWATCH

FILE = "examples.png"  # in the folder of a run
PAIRS = 2  # side by side
MOST_SIDE = 448  # px: larger images are made smaller
COLUMN = 120  # px for a class in the legend
Size = tuple[int, int]  # width, height
Painter = Callable[[Image.Image, Any, Size], Image.Image]


def labels_over(image: Image.Image, labels: np.ndarray, size: Size) -> Image.Image:
    """The classes' colours over an image, resized to `size`."""
    nearest = Image.fromarray(labels.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
    return Image.fromarray(overlaid(np.asarray(image.resize(size)), np.asarray(nearest)))


def objects_over(image: Image.Image, found: Found, size: Size) -> Image.Image:
    """Boxes and masks over an image, resized to `size`."""
    texts = [name if score == 1 else f"{name} {score:.2f}" for name, score in zip(found.names, found.scores)]
    return boxes.drawn_at(image, size, found.boxes, found.labels.tolist(), texts, found.masks)


PAINTERS: Mapping[str, Painter] = {"segmentation": labels_over, "detection": objects_over}


def colours_and_names(examples: Sequence[Example], names: Sequence[str], width: int, letters: Fonts) -> Image.Image:
    """A legend of the classes in label maps, but for class 0, which keeps the image's colours."""
    maps = [labels.ravel() for example in examples for labels in (example.truth, example.found)]
    there = [number for number in np.unique(np.concatenate(maps)) if 0 < number < len(names)][:MOST_NAMED]
    across = max(width // COLUMN, 1)
    result = Image.new("RGB", (width, SMALL_LINE * -(-len(there) // across)), PAPER)
    pen = ImageDraw.Draw(result)
    for place, number in enumerate(there):
        x, y = place % across * COLUMN, place // across * SMALL_LINE
        fill = tuple(int(value) for value in palette()[number])
        pen.rectangle((x, y + 2, x + SWATCH, y + 2 + SWATCH), fill=fill, outline=GREY)
        text = fitted(names[number], letters.small, COLUMN - 2 * SWATCH)
        pen.text((x + SWATCH + 6, y), text, INK, letters.small)
    return result


def sheet(
    task: str, examples: Sequence[Example], names: Sequence[str], title: str, letters: Fonts | None = None
) -> Image.Image:
    """A pair for each example: what is there at the left, what was found at the right.

    Args:
        task: one of PAINTERS.
        examples: at least one.
        names: of all classes.
        title: above all.
        letters: by default Pillow's own.

    Returns:
        An RGB image.
    """
    letters = letters or fonts()
    pairs = []
    for example in examples:
        image = Image.fromarray(example.pixels)
        factor = min(MOST_SIDE / max(image.size), max(1, -(-LEAST_SIDE // max(image.size))))
        size = (max(round(image.width * factor), 1), max(round(image.height * factor), 1))
        pairs.append([PAINTERS[task](image, answer, size) for answer in (example.truth, example.found)])
    wide, high = (max(pair[0].size[axis] for pair in pairs) for axis in (0, 1))
    columns, rows = min(PAIRS, len(pairs)), -(-len(pairs) // PAIRS)
    step, top = 2 * (wide + GAP) + MARGIN, MARGIN + LINE + GAP + SMALL_LINE
    width, bottom = MARGIN + columns * step, top + rows * (high + GAP)
    legend = None
    if task == "segmentation":
        legend = colours_and_names(examples, names, width - 2 * MARGIN, letters)
    result = Image.new("RGB", (width, bottom + (legend.height if legend else 0) + MARGIN), PAPER)
    pen = ImageDraw.Draw(result)
    pen.text((MARGIN, MARGIN), fitted(title, letters.heading, width - 2 * MARGIN), INK, letters.heading)
    for number, pair in enumerate(pairs):
        x, y = MARGIN + number % columns * step, top + number // columns * (high + GAP)
        for place, (part, said) in enumerate(zip(pair, ("labelled", "found"))):
            result.paste(part, (x + place * (wide + GAP), y))
            if number < columns:
                pen.text((x + place * (wide + GAP), top - SMALL_LINE - 2), said, GREY, letters.small)
    if legend is not None:
        result.paste(legend, (MARGIN, bottom))
    return result
