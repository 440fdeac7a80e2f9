"""What runs and files of tables say, as tables of a report."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any, Mapping, Sequence

from mindvit.errors import UserError
from mindvit.recipe.schema import FIELDS
from mindvit.visualization.report_page import Table
from mindvit.visualization.run_files import Run, number, read_json, read_text

MOST_CLASSES = 15  # in the table of the worst


def worst_classes(run: Run) -> Table:
    """The classes that are found worst in a run's last validation, by their first number; those not there left out."""
    name, first, *_ = run.classes[0]
    there = sorted(
        (row for row in run.classes if not math.isnan(number(row[first]))), key=lambda row: number(row[first])
    )
    shown = there[:MOST_CLASSES]
    title = f"Classes that are found worst, of {len(run.classes)}: {run.name}"
    return Table(title, [list(run.classes[0]), *(list(row.values()) for row in shown)])


def detection_errors(run: Run) -> Table:
    """A detector's errors by kind: of all classes, then of those of which most is not found."""
    whole, *classes = run.errors

    def share(row: Mapping[str, str]) -> float:
        return number(row["found"]) / max(number(row["objects"]), 1)

    shown = sorted((row for row in classes if number(row["objects"])), key=share)[:MOST_CLASSES]
    title = f"Objects found and missed, and false alarms by kind: {run.name}"
    return Table(title, [list(whole), *(list(row.values()) for row in (whole, *shown))])


def read_table(path: Path) -> list[Table]:
    """The tables of a CSV, a JSON (an object or a list of them) or a Markdown file. UserError if there is none."""
    if path.suffix == ".json":
        content = read_json(path)
        if content and isinstance(content, dict):  # a single row is easier to read upright
            return [Table(path.name, [["", ""], *([key, text(value)] for key, value in content.items())])]
        if not isinstance(content, list) or not content or not all(isinstance(item, dict) for item in content):
            raise UserError(f"{path}: must hold an object, or a list of them, to be a table")
        keys = list(dict.fromkeys(key for item in content for key in item))
        return [Table(path.name, [keys, *([text(item.get(key)) for key in keys] for item in content)])]
    if path.suffix == ".csv":
        rows = [row for row in csv.reader(io.StringIO(read_text(path))) if row]
        found = [Table(path.name, rows)] if rows else []
    else:
        found = markdown_tables(read_text(path), path.name)
    if not found:
        raise UserError(f"{path} holds no table")
    return found


def markdown_tables(content: str, title: str) -> list[Table]:
    """Each block of lines that begin with |, without the line of dashes below its head."""
    blocks: list[list[list[str]]] = [[]]
    for line in map(str.strip, content.splitlines()):
        if line.startswith("|"):
            blocks[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif blocks[-1]:
            blocks.append([])
    return [
        Table(title, block[:1] + block[2 if is_ruler(block[1]) else 1 :] if len(block) > 1 else block)
        for block in blocks
        if block
    ]


def is_ruler(cells: Sequence[str]) -> bool:
    """Whether a row only separates a table's head from its body."""
    return all(cell and set(cell) <= set("-:") for cell in cells)


def text(value: Any) -> str:
    """A value as a cell shows it."""
    return "" if value is None else str(value)


def differences(runs: Sequence[Run]) -> Table:
    """The recipe's keys that are not the same in all runs or, of a single run, not the default."""
    known = [run for run in runs if run.recipe]
    shown = []
    defaults = {
        key: text(list(item.default) if isinstance(item.default, tuple) else item.default)
        for key, (_, item, _) in FIELDS.items()
    }
    for key in dict.fromkeys(
        (*FIELDS, *(key for run in known for key in run.recipe))
    ):  # a run of another version has keys of its own
        default = defaults.get(key, "")
        values = [text(run.recipe[key]) if key in run.recipe else default for run in known]
        if len(set(values)) > 1 or (len(known) == 1 and values[0] != default):
            shown.append([key, *values] if len(known) > 1 else [key, *values, default])
    title = "What differs between the recipes" if len(known) > 1 else "What the recipe says beyond the defaults"
    return Table(title, [["key", *(run.name for run in known)] + (["default"] if len(known) == 1 else []), *shown])


def results(runs: Sequence[Run]) -> Table:
    """The final rows side by side, a run a column, without the values that no run has."""
    ended = [run for run in runs if run.result]
    keys = list(dict.fromkeys(key for run in ended for key, value in run.result.items() if text(value)))
    return Table(
        "Results",
        [["", *(run.name for run in ended)], *([key, *(text(run.result.get(key)) for run in ended)] for key in keys)],
    )


def last_rows(runs: Sequence[Run]) -> Table:
    """Where each run's log ends: the last number of every column that has one in any run."""
    keys = list(
        dict.fromkeys(key for run in runs for key, values in run.columns.items() if not all(map(math.isnan, values)))
    )
    rows = []
    for run in runs:
        values = [[value for value in run.columns.get(key, ()) if not math.isnan(value)] for key in keys]
        rows.append([run.name, *(f"{found[-1]:.6g}" if found else "" for found in values)])
    return Table("Where the logs end", [["run", *keys], *rows])
