"""Answers as lines of text."""

from __future__ import annotations

import csv
import io
import json
from typing import Any, Iterable, Iterator


def csv_line(values: Iterable[Any]) -> str:
    """One line, without its end."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()[:-1]


def json_list(items: Iterable[Any]) -> Iterator[str]:
    """A list with an item a line, each as soon as it is there."""
    before = "["
    for item in items:
        yield before + json.dumps(item, ensure_ascii=False)
        before = ","
    yield "]" if before == "," else "[]"
