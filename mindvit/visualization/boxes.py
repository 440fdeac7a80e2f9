"""What a detector says of an image, drawn over it: boxes and masks with names and scores, readable on any ground."""

from __future__ import annotations

from typing import Optional, Sequence

import numpy as np
from PIL import Image, ImageDraw

from mindvit.data.label_maps import OPACITY, palette
from mindvit.runtime.files import on_one_line
from mindvit.visualization.attention_sheet import INK, PAPER, SMALL_LINE, Fonts, fonts
from mindvit.visualization.overlay import LEAST_SIDE

PAD, LINE = 2, 2  # px, around a name and of a box's frame


def colour(label: int) -> tuple[int, int, int]:
    """A class's; class 0, which the palette shows as the ground, has one too."""
    red, green, blue = (int(value) for value in palette()[label % 255 + 1])
    return red, green, blue


def drawn(
    image: Image.Image,
    boxes: np.ndarray,
    labels: Sequence[int],
    texts: Sequence[str],
    masks: Optional[np.ndarray] = None,
    letters: Fonts | None = None,
) -> Image.Image:
    """The image with its objects, the surest in front.

    Args:
        image: RGB.
        boxes: (n, 4) left, top, right, bottom, px, the surest first.
        labels: (n,) class numbers.
        texts: what stands at each box, n.
        masks: (n, H, W) bool, or None.
        letters: by default Pillow's own.

    Returns:
        An RGB image, a whole number of times as large if the image is small.
    """
    letters = letters or fonts()
    pixels = np.asarray(image.convert("RGB")).astype(np.float32)
    order = range(len(boxes) - 1, -1, -1)
    for number in order if masks is not None else ():
        own = masks[number] if masks is not None else np.zeros(pixels.shape[:2], bool)
        pixels[own] = pixels[own] * (1 - OPACITY) + np.array(colour(int(labels[number])), np.float32) * OPACITY
    times = max(1, -(-LEAST_SIDE // max(pixels.shape[:2])))
    result = Image.fromarray(np.kron(np.rint(pixels).astype(np.uint8), np.ones((times, times, 1), np.uint8)))
    draw = ImageDraw.Draw(result)
    for number in order:
        left, top, right, bottom = (float(side) * times for side in boxes[number])
        corners = (left, top, max(right - 1, left), max(bottom - 1, top))
        draw.rectangle(corners, outline=PAPER, width=LINE + 2)  # which shows on dark grounds
        draw.rectangle(corners, outline=colour(int(labels[number])), width=LINE)
        text = on_one_line(texts[number])
        width = int(letters.small.getlength(text)) + 2 * PAD
        x = min(max(left, 0), max(result.width - width, 0))
        y = min(max(top, 0), max(result.height - SMALL_LINE, 0))
        draw.rectangle((x, y, x + width, y + SMALL_LINE), fill=PAPER, outline=colour(int(labels[number])))
        draw.text((x + PAD, y + PAD), text, INK, letters.small)
    return result
