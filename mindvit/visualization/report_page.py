"""Tables and pictures on one HTML page that needs no other file."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from typing import Mapping, Sequence


@dataclass(frozen=True)
class Table:
    """A heading and rows of texts, the first of which are the columns' names."""

    title: str
    rows: Sequence[Sequence[str]]


CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c20; background: #fff; }
body { max-width: 1180px; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 1rem; }
.charts img { width: 100%; } figure { margin: 0; } figure img { max-width: 100%; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #e4e4ea; }
th { color: #696973; font-weight: 600; }
p { color: #696973; }
"""


def as_html(table: Table) -> str:
    """A table's HTML, every text escaped."""
    head, *body = [[html.escape(cell) for cell in row] for row in table.rows]
    rows = ["".join(f"<td>{cell}</td>" for cell in row) for row in body]
    inside = "".join(f"<th>{cell}</th>" for cell in head)
    return (
        f'<h2>{html.escape(table.title)}</h2>\n<div class="wide"><table>\n<thead><tr>{inside}</tr></thead>\n<tbody>\n'
        + "".join(f"<tr>{row}</tr>\n" for row in rows)
        + "</tbody></table></div>\n"
    )


def img(name: str, image: bytes) -> str:
    """A PNG as part of the page."""
    return f'<img alt="{html.escape(name)}" src="data:image/png;base64,{base64.b64encode(image).decode()}">\n'


def page(
    title: str, charts: Mapping[str, bytes], pictures: Mapping[str, bytes], tables: Sequence[Table], note: str = ""
) -> str:
    """One HTML page with its images inside: no script, no other file, nothing from the network.

    Args:
        title: the heading.
        charts: PNGs by name, which are shown side by side.
        pictures: PNGs by heading, which are shown in their own size, as the letters in them want it.
        tables: below all images.
        note: below the heading.

    Returns:
        HTML.
    """
    curves = "".join(img(name, image) for name, image in charts.items())
    figures = "".join(
        f"<h2>{html.escape(name)}</h2>\n<figure>{img(name, image)}</figure>\n" for name, image in pictures.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{CSS}</style></head><body>\n<h1>{html.escape(title)}</h1>\n"
        + (f"<p>{html.escape(note)}</p>\n" if note else "")
        + (f'<div class="charts">\n{curves}</div>\n' if curves else "")
        + figures
        + "".join(map(as_html, tables))
        + "</body></html>\n"
    )
