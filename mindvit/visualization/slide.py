"""One map over one image for a slide: 16 : 9, with the class, its probability and a colour scale."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import numpy as np
from PIL import Image, ImageDraw

from mindvit.visualization.attention import AttentionMap
from mindvit.visualization.attention_sheet import ACCENT, FAINT, GREY, INK, PAPER, Font, colours, fitted, fonts, overlay

WIDTH, HEIGHT, EDGE = 1600, 900, 60  # px
SIDE = HEIGHT - 2 * EDGE  # of the map
SMALL = 320  # of the image beside it
OPACITY = 0.6  # of the colours: at this size the image is to be recognised
SIZES = (60, 34, 24)  # of letters


def slide(
    image: Image.Image,
    item: AttentionMap,
    answer: tuple[str, float],
    title: str,
    foot: str,
    font: Optional[Path] = None,
) -> Image.Image:
    """The map over the image at the left; class, probability, the image and the scale at the right.

    Args:
        image: as the network sees it.
        item: the map.
        answer: the class and its probability.
        title: of the slide, such as the image's name.
        foot: what the map is, and of which network.
        font: a TrueType file for class names that aren't in Latin letters.

    Returns:
        An RGB image of 1600 x 900 px.
    """
    large, middle, small = (letters := fonts(font, SIZES)).heading, letters.label, letters.small
    canvas = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    pen = ImageDraw.Draw(canvas)
    canvas.paste(overlay(image, item, SIDE, OPACITY), (EDGE, EDGE))
    left = 2 * EDGE + SIDE
    room = WIDTH - EDGE - left
    name, probability = answer
    pen.text((left, EDGE), fitted(title, small, room), GREY, small)
    bottom = written(pen, (left, EDGE + 44), name, large, room)
    pen.text((left, bottom + 8), f"{100 * probability:.1f} %", ACCENT, middle)
    bar = bottom + 62
    pen.rectangle((left, bar, left + room, bar + 10), FAINT)
    pen.rectangle((left, bar, left + round(room * probability), bar + 10), ACCENT)
    low = HEIGHT - EDGE - SMALL
    canvas.paste(image.resize((SMALL, SMALL), Image.Resampling.BICUBIC), (left, low))
    beside = left + SMALL + EDGE // 2
    scale = np.broadcast_to(np.linspace(0, 1, WIDTH - EDGE - beside), (24, WIDTH - EDGE - beside))
    canvas.paste(Image.fromarray(colours(scale)), (beside, HEIGHT - EDGE - 24))
    pen.text((beside, HEIGHT - EDGE - 60), "less", GREY, small)
    pen.text((WIDTH - EDGE - small.getlength("more"), HEIGHT - EDGE - 60), "more", GREY, small)
    for line, text in enumerate(foot.split("\n")):
        pen.text((left, low - 90 + line * 34), fitted(text, small, room), GREY if line else INK, small)
    return canvas


def written(pen: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, font: Font, width: float) -> float:
    """A text over at most two lines; where it ends, y."""
    lines, words = [""], text.split()
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width and len(lines) < 2:
            lines.append(word)
        else:
            lines[-1] = longer
    y = corner[1]
    for line in lines:
        pen.text((corner[0], y), fitted(line, font, width), INK, font)
        y += SIZES[0] * 1.15
    return y
