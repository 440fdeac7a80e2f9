"""Images of training batches as the network gets them, side by side with what it is to learn of them."""

from __future__ import annotations

from typing import Optional, Sequence

import numpy as np
from PIL import Image, ImageDraw

from mindvit.data.objects import Objects
from mindvit.tasks.inspection import PreviewImage
from mindvit.visualization.attention_sheet import (
    GAP,
    IMAGE,
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
from mindvit.visualization.boxes import colour, frame, painted

COLUMNS = 6


def batch_sheet(images: Sequence[PreviewImage], title: str, letters: Optional[Fonts] = None) -> Image.Image:
    """A tile for each image, its target below it on up to two lines; with objects, tiles are four times as large."""
    letters = letters or fonts()
    boxes = any(item.objects is not None for item in images)
    side, most = (IMAGE, COLUMNS // 2) if boxes else (TILE, COLUMNS)
    tiles = [tile_of(item, side, letters) for item in images]
    tall = max(tile.height for tile in tiles)
    columns, high = min(most, len(images)), tall + 2 * SMALL_LINE + GAP
    rows = -(-len(images) // columns)
    size = (2 * MARGIN + columns * (side + GAP) - GAP, 2 * MARGIN + 2 * LINE + rows * high)
    result = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(result)
    pen.text((MARGIN, MARGIN), fitted(title, letters.heading, size[0] - 2 * MARGIN), INK, letters.heading)
    for number, (item, tile) in enumerate(zip(images, tiles)):
        x = MARGIN + number % columns * (side + GAP)
        y = MARGIN + 2 * LINE + number // columns * high
        result.paste(tile, (x, y))
        for line, part in enumerate(item.target.split(", ", 1)):
            place = (x, y + tall + 2 + line * SMALL_LINE)
            pen.text(place, fitted(part, letters.small, side), INK, letters.small)
    return result


def tile_of(item: PreviewImage, side: int, letters: Fonts) -> Image.Image:
    """An image within `side` px, small ones enlarged by a whole number, so that they stay as they are; one with objects
    as large as that, and its objects over it.
    """
    if item.objects is not None:
        return with_objects(item.pixels, item.objects, item.names, side, letters)
    tile = Image.fromarray(item.pixels)
    tile.thumbnail((side, side), Image.Resampling.BICUBIC)
    if max(tile.size) < side // 2:
        times = side // max(tile.size)
        tile = tile.resize((tile.width * times, tile.height * times), Image.Resampling.NEAREST)
    return tile


def with_objects(pixels: np.ndarray, found: Objects, names: Sequence[str], side: int, letters: Fonts) -> Image.Image:
    """(H, W, 3) uint8 with its objects, each called by its name, `side` px wide or high."""
    if found.masks is not None:
        pixels = painted(pixels, found.masks, list(found.labels))
    factor = side / max(pixels.shape[:2])
    height, width = (max(round(length * factor), 1) for length in pixels.shape[:2])
    tile = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    frame(tile, found.boxes * factor, [colour(int(label)) for label in found.labels], names, letters)
    return tile
