"""What a detector says of an image, drawn over it: boxes and masks with names and scores, readable on any ground."""

from __future__ import annotations

import colorsys
from typing import Optional, Sequence, Tuple

import numpy as np
from PIL import Image, ImageDraw

from mindvit.data.label_maps import OPACITY
from mindvit.runtime.files import on_one_line
from mindvit.visualization.attention_sheet import INK, PAPER, SMALL_LINE, Fonts, fonts
from mindvit.visualization.overlay import LEAST_SIDE

Colour = Tuple[int, int, int]
PAD, LINE = 2, 2  # px, around a name and of a box's frame
SATURATIONS = (0.9, 0.5, 0.7)


def colour(label: int) -> Colour:
    """A class's: bright, so that a mask shows on what is dark; ten hues, and others of other strength for more."""
    tens = label // 10
    hue, saturation = (0.3 * label + 0.0125 * tens) % 1, SATURATIONS[tens % len(SATURATIONS)]
    red, green, blue = (round(255 * value) for value in colorsys.hsv_to_rgb(hue, saturation, 1))
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
    pixels = np.asarray(image.convert("RGB"))
    if masks is not None:
        pixels = painted(pixels, masks, labels)
    times = max(1, -(-LEAST_SIDE // max(pixels.shape[:2])))
    result = Image.fromarray(np.kron(pixels, np.ones((times, times, 1), np.uint8)))
    frame(result, boxes * times, [colour(int(label)) for label in labels], texts, letters or fonts())
    return result


def drawn_at(
    image: Image.Image,
    size: tuple[int, int],
    boxes: np.ndarray,
    labels: Sequence[int],
    texts: Sequence[str],
    masks: Optional[np.ndarray] = None,
) -> Image.Image:
    """The same on the image resized to a width and height, px."""
    scale = np.array([size[0] / image.width, size[1] / image.height] * 2)
    if masks is not None:
        resized = [np.asarray(Image.fromarray(mask).resize(size)) for mask in masks]
        masks = np.array(resized, bool).reshape(-1, size[1], size[0])
    return drawn(image.resize(size), boxes * scale, labels, texts, masks)


def painted(pixels: np.ndarray, masks: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """(H, W, 3) uint8 under the masks (n, H, W) bool, the surest, which come first, in front."""
    result = pixels.astype(np.float32)
    for own, label in zip(masks[::-1], labels[::-1]):
        result[own] = result[own] * (1 - OPACITY) + np.array(colour(int(label)), np.float32) * OPACITY
    return np.rint(result).astype(np.uint8)


def frame(
    image: Image.Image, boxes: np.ndarray, colours: Sequence[Colour], texts: Sequence[str], letters: Fonts
) -> None:
    """Draw boxes and what stands at them over an image."""
    draw = ImageDraw.Draw(image)
    for number in range(len(boxes) - 1, -1, -1):
        left, top, right, bottom = (float(side) for side in boxes[number])
        corners = (left, top, max(right - 1, left), max(bottom - 1, top))
        draw.rectangle(corners, outline=PAPER, width=LINE + 2)  # which shows on dark grounds
        draw.rectangle(corners, outline=colours[number], width=LINE)
        text = on_one_line(texts[number])
        if not text:
            continue
        width = int(letters.small.getlength(text)) + 2 * PAD
        x = min(max(left, 0), max(image.width - width, 0))
        y = min(max(top, 0), max(image.height - SMALL_LINE, 0))
        draw.rectangle((x, y, x + width, y + SMALL_LINE), fill=PAPER, outline=colours[number])
        draw.text((x + PAD, y + PAD), text, INK, letters.small)
