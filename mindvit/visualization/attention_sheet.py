"""Attention maps as images: a colour map, overlays, and the sheet that has them all beside the image and its
classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence, Union

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mindvit.errors import UserError
from mindvit.runtime.files import on_one_line
from mindvit.visualization.attention import AttentionMap, ChannelMatrix, Row
from mindvit.visualization.grids import sampled

# From none to much, lighter all the way (L* 8 to 95 in even steps), so that it reads in grey and for the colour-blind
# too.
ANCHORS = np.array(
    [(22, 17, 48), (77, 24, 103), (139, 34, 113), (199, 57, 92), (238, 104, 61), (250, 162, 56), (247, 232, 141)],
    np.float64,
)
TILE, GAP, MARGIN, COLUMNS = 168, 12, 24, 6  # px; tiles side by side
IMAGE = 2 * TILE + GAP  # px, side of the image at the left
OPACITY = 0.75  # of the colours over the image
LINE, SMALL_LINE = 20, 16  # px between base lines
INK, GREY, FAINT, PAPER, ACCENT = (28, 28, 32), (105, 105, 115), (225, 225, 230), (255, 255, 255), (40, 110, 190)
Font = Union[ImageFont.FreeTypeFont, ImageFont.ImageFont]


@dataclass(frozen=True)
class Fonts:
    """A heading's, a label's and a remark's."""

    heading: Font
    label: Font
    small: Font


def fonts(file: Optional[Path] = None, sizes: tuple[int, int, int] = (16, 14, 12)) -> Fonts:
    """Pillow's own font, which has Latin letters, or a TrueType file for other scripts, in px. UserError if that can't
    be read.
    """
    try:
        found = [ImageFont.truetype(str(file), size) if file else ImageFont.load_default(size) for size in sizes]
    except OSError as error:
        raise UserError(f"--font {file} can't be read as a TrueType or OpenType font: {error}") from None
    return Fonts(*found)


def colours(values: np.ndarray) -> np.ndarray:
    """0..1 -> uint8 (..., 3)."""
    places = np.clip(values, 0, 1) * (len(ANCHORS) - 1)
    low = np.minimum(places.astype(int), len(ANCHORS) - 2)
    share = (places - low)[..., None]
    return np.rint(ANCHORS[low] * (1 - share) + ANCHORS[low + 1] * share).astype(np.uint8)


def spread(item: AttentionMap, size: tuple[int, int], pixels: int) -> np.ndarray:
    """A map's mean over heads at each of pixels x pixels places of an image of size (height, width) px; nan where no
    key is.
    """
    values = item.values.mean(0)
    values = sampled(values, item.first[0], item.step[0], size[0], pixels)
    return sampled(values.T, item.first[1], item.step[1], size[1], pixels).T


def limits(item: Union[AttentionMap, ChannelMatrix]) -> tuple[float, float]:
    """The least and the most of what a tile shows."""
    values = item.values.mean(0) if isinstance(item, AttentionMap) else item.values
    return float(np.nanmin(values)), float(np.nanmax(values))


def shown(item: Union[AttentionMap, ChannelMatrix]) -> tuple[float, float]:
    """What the darkest and the lightest colour stand for: the least and the most, but never nearer to one another than
    the mean is to 0, so that a map that is nearly even looks even and not like its rounding.
    """
    low, high = limits(item)
    values = item.values.mean(0) if isinstance(item, AttentionMap) else item.values
    missing = max(0.0, float(np.nanmean(values)) - (high - low)) / 2
    return low - missing, high + missing


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 at `low`, 1 at `high`; 0 where there is nothing."""
    return np.nan_to_num((values - low) / (high - low) if high > low else 0 * values)


def overlay(image: Image.Image, item: AttentionMap, side: int = TILE, opacity: float = OPACITY) -> Image.Image:
    """side x side px: the image in grey, shining through the map's colours, and paler where no key is; the query as
    a ring.
    """
    values = spread(item, (image.height, image.width), side)
    grey = np.asarray(image.convert("L").resize((side, side), Image.Resampling.BICUBIC), np.float64)[..., None]
    coloured = (1 - opacity) * grey + opacity * colours(scaled(values, *shown(item)))
    tile = Image.fromarray(np.rint(np.where(np.isnan(values)[..., None], 0.4 * grey + 140, coloured)).astype(np.uint8))
    if item.query is not None:
        y, x = (place * side / own for place, own in zip(item.query, (image.height, image.width)))
        pen = ImageDraw.Draw(tile)
        for radius, colour, width in ((6, INK, 4), (5, PAPER, 2)):
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=width)
    return tile


def drawn_matrix(item: ChannelMatrix) -> Image.Image:
    """TILE x TILE px."""
    return Image.fromarray(colours(scaled(item.values, *shown(item)))).resize((TILE, TILE), Image.Resampling.NEAREST)


def remark(item: Union[AttentionMap, ChannelMatrix]) -> str:
    """The scale of a tile in a few words."""
    factor, unit = (1, item.unit) if isinstance(item, AttentionMap) and item.unit != "%" else (100, "%")
    low, high = (number(factor * value) for value in limits(item))
    rest = (
        f", itself {100 * float(item.rest.mean()):.0f} %"
        if isinstance(item, AttentionMap) and item.rest is not None
        else ""
    )
    return f"{low if low == high else f'{low} to {high}'} {unit}{rest}"


def number(value: float) -> str:
    """Two digits, three before the point, and none beyond the hundredths."""
    return f"{value:.{0 if value >= 9.95 else 1 if value >= 0.995 else 2}f}"


def fitted(text: str, font: Font, width: float) -> str:
    """As much of a text as is `width` px wide, on one line, with dots where it is cut."""
    text = on_one_line(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def side_of(number: int) -> int:
    """Of the tiles of a row, px: the first row's are as large as the image."""
    return IMAGE if number == 0 else TILE


def sheet(
    image: Image.Image, name: str, answer: Sequence[tuple[str, float]], rows: Sequence[Row], foot: str, font: Fonts
) -> Image.Image:
    """The image, as the network sees it, with its classes at the left, and a row of tiles for each kind of
    attention at the right, the first in the image's size.
    """
    columns = min(COLUMNS, max(len(row.tiles) for row in rows))
    columns = max(columns, 4)  # room for the headings, and for two tiles of the image's size
    width = columns * (TILE + GAP) - GAP
    heights = []
    for number, row in enumerate(rows):
        lines = -(-len(row.tiles) // max(1, (width + GAP) // (side_of(number) + GAP)))
        heights.append(LINE + 6 + lines * (side_of(number) + 2 * SMALL_LINE + GAP))
    left = MARGIN + IMAGE + 2 * MARGIN
    body = max(sum(heights), LINE + IMAGE + (len(answer) + 3) * 2 * LINE)
    canvas = Image.new("RGB", (left + width + MARGIN, 2 * MARGIN + body + 2 * LINE), PAPER)
    pen = ImageDraw.Draw(canvas)
    draw_answer(canvas, pen, image, name, answer, font)
    top = MARGIN
    for number, (row, height) in enumerate(zip(rows, heights)):
        pen.text((left, top), fitted(row.title, font.heading, width), INK, font.heading)
        draw_tiles(canvas, image, row, (left, top + LINE + 6), side_of(number), font)
        top += height
    own = any(isinstance(tile, AttentionMap) and tile.rest is not None for row in rows for tile in row.tiles)
    draw_foot(canvas, pen, f"{'itself: what the class token gives to itself   |   ' if own else ''}{foot}", font)
    return canvas


def draw_tiles(
    canvas: Image.Image, image: Image.Image, row: Row, corner: tuple[int, int], side: int, font: Fonts
) -> None:
    """A row's tiles, as many side by side as the canvas has room for, with their titles and scales."""
    pen = ImageDraw.Draw(canvas)
    columns = max(1, (canvas.width - MARGIN - corner[0] + GAP) // (side + GAP))
    for number, tile in enumerate(row.tiles):
        x = corner[0] + number % columns * (side + GAP)
        y = corner[1] + number // columns * (side + 2 * SMALL_LINE + GAP)
        drawn = overlay(image, tile, side) if isinstance(tile, AttentionMap) else drawn_matrix(tile)
        canvas.paste(drawn, (x, y))
        pen.text((x, y + side + 2), fitted(tile.title, font.small, side), INK, font.small)
        pen.text((x, y + side + 2 + SMALL_LINE), fitted(remark(tile), font.small, side), GREY, font.small)


def draw_answer(
    canvas: Image.Image,
    pen: ImageDraw.ImageDraw,
    image: Image.Image,
    name: str,
    answer: Sequence[tuple[str, float]],
    font: Fonts,
) -> None:
    """The left column: the image's name, the image, and its classes with bars."""
    pen.text((MARGIN, MARGIN), fitted(name, font.heading, IMAGE), INK, font.heading)
    y = MARGIN + LINE + 6
    canvas.paste(image.resize((IMAGE, IMAGE), Image.Resampling.BICUBIC), (MARGIN, y))
    y += IMAGE + LINE
    for label, probability in answer:
        percent = f"{100 * probability:.1f} %"
        width = font.label.getlength(percent)
        pen.text((MARGIN, y), fitted(label, font.label, IMAGE - width - 2 * GAP), INK, font.label)
        pen.text((MARGIN + IMAGE - width, y), percent, INK, font.label)
        y += LINE
        pen.rectangle((MARGIN, y, MARGIN + IMAGE, y + 5), FAINT)
        pen.rectangle((MARGIN, y, MARGIN + round(probability * IMAGE), y + 5), ACCENT)
        y += LINE


def draw_foot(canvas: Image.Image, pen: ImageDraw.ImageDraw, foot: str, font: Fonts) -> None:
    """The colour scale and a line below everything."""
    y = canvas.height - MARGIN - LINE
    bar = np.broadcast_to(np.linspace(0, 1, TILE), (12, TILE))
    canvas.paste(Image.fromarray(colours(bar)), (MARGIN, y + 2))
    text = f"from the least to the most of each tile, even maps in one colour   |   {foot}"
    pen.text(
        (MARGIN + TILE + GAP, y), fitted(text, font.small, canvas.width - 2 * MARGIN - TILE - GAP), GREY, font.small
    )
