"""Images of training batches as the network gets them, side by side with what it is to learn of them."""

from __future__ import annotations

from typing import Optional, Sequence

from PIL import Image, ImageDraw

from mindvit.tasks.inspection import PreviewImage
from mindvit.visualization.attention_sheet import GAP, INK, LINE, MARGIN, PAPER, SMALL_LINE, TILE, Fonts, fitted, fonts

COLUMNS = 6


def batch_sheet(images: Sequence[PreviewImage], title: str, letters: Optional[Fonts] = None) -> Image.Image:
    """A tile for each image, its target below it on up to two lines."""
    letters = letters or fonts()
    columns, high = min(COLUMNS, len(images)), TILE + 2 * SMALL_LINE + GAP
    rows = -(-len(images) // columns)
    size = (2 * MARGIN + columns * (TILE + GAP) - GAP, 2 * MARGIN + 2 * LINE + rows * high)
    result = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(result)
    pen.text((MARGIN, MARGIN), fitted(title, letters.heading, size[0] - 2 * MARGIN), INK, letters.heading)
    for number, item in enumerate(images):
        x = MARGIN + number % columns * (TILE + GAP)
        y = MARGIN + 2 * LINE + number // columns * high
        tile = Image.fromarray(item.pixels)
        tile.thumbnail((TILE, TILE), Image.Resampling.BICUBIC)
        if max(tile.size) < TILE // 2:  # small images are enlarged by a whole number, and stay as they are
            times = TILE // max(tile.size)
            tile = tile.resize((tile.width * times, tile.height * times), Image.Resampling.NEAREST)
        result.paste(tile, (x, y))
        for line, part in enumerate(item.target.split(", ", 1)):
            place = (x, y + TILE + 2 + line * SMALL_LINE)
            pen.text(place, fitted(part, letters.small, TILE), INK, letters.small)
    return result
