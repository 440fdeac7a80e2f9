"""What a segmentor says of an image, drawn over it: the classes' colours, and a legend beside."""

from __future__ import annotations

from typing import Sequence

import numpy as np
from PIL import Image, ImageDraw

from mindvit.data.label_maps import overlaid, palette
from mindvit.runtime.files import on_one_line
from mindvit.visualization.attention_sheet import FAINT, GREY, INK, PAPER, SMALL_LINE, Fonts, fonts

MARGIN, SWATCH, GAP = 12, 12, 8  # px
LEAST_SIDE = 256  # px: a smaller image is enlarged by a whole number
MOST_NAMED = 24  # classes in a legend


def legend(labels: np.ndarray, names: Sequence[str]) -> list[tuple[int, str, float]]:
    """The classes that are there, the largest share first: number, name, share in 0..1."""
    counts = np.bincount(labels.ravel(), minlength=len(names))
    order = [int(number) for number in np.argsort(-counts, kind="stable") if counts[number]]
    return [(number, on_one_line(names[number]), counts[number] / labels.size) for number in order]


def sheet(image: Image.Image, labels: np.ndarray, names: Sequence[str], letters: Fonts | None = None) -> Image.Image:
    """The image, the image under the label map's colours, and the legend, side by side.

    Args:
        image: RGB.
        labels: (H, W) class numbers.
        names: of the classes.
        letters: by default Pillow's own.

    Returns:
        An RGB image.
    """
    letters = letters or fonts()
    pixels = np.asarray(image)
    times = max(1, -(-LEAST_SIDE // max(pixels.shape[:2])))
    parts = [np.kron(part, np.ones((times, times, 1), np.uint8)) for part in (pixels, overlaid(pixels, labels))]
    height, width = parts[0].shape[:2]
    rows = legend(labels, names)
    hidden, rows = len(rows) - MOST_NAMED, rows[:MOST_NAMED]
    texts = [f"{name}  {100 * share:.1f} %" for _, name, share in rows]
    texts += [f"and {hidden} more"] * (hidden > 0)
    room = max(int(letters.small.getlength(text)) for text in texts) + SWATCH + GAP
    tall = max(height, len(texts) * SMALL_LINE)
    result = Image.new("RGB", (4 * MARGIN + 2 * width + room, 2 * MARGIN + tall), PAPER)
    for place, part in enumerate(parts):
        result.paste(Image.fromarray(part), (MARGIN + place * (MARGIN + width), MARGIN))
    draw, left = ImageDraw.Draw(result), 3 * MARGIN + 2 * width
    for row, text in enumerate(texts):
        top = MARGIN + row * SMALL_LINE
        if row < len(rows):
            number = rows[row][0]
            fill = tuple(int(value) for value in palette()[number]) if number else FAINT
            draw.rectangle((left, top + 2, left + SWATCH, top + 2 + SWATCH), fill=fill, outline=GREY)
        draw.text((left + SWATCH + GAP, top), text, INK, letters.small)
    return result
