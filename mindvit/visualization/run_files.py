"""What runs leave in their folders: the log, the recipe, the result, the classes of the last validation."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from mindvit.errors import UserError
from mindvit.recipe.files import read_yaml
from mindvit.runtime.files import on_one_line

LOG, RECIPE, RESULT, CLASSES = "log.csv", "recipe.yaml", "result.json", "classes.csv"
ERRORS = "errors.csv"  # of a detector, by validate.py --out: a row for all classes, then one for each
NAN = float("nan")


@dataclass(frozen=True)
class Run:
    """A run's folder. columns: the log's, a number (nan: none) a row; recipe: every key, where there is a recipe;
    result: its final row, if it has ended; classes: a row for each class in the last validation, of tasks that measure
    them; errors: of a detector, see ERRORS.
    """

    name: str
    columns: Mapping[str, Sequence[float]]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    classes: Sequence[Mapping[str, str]] = ()
    errors: Sequence[Mapping[str, str]] = ()


def number(text: Optional[str]) -> float:
    """A cell's number; nan for an empty one, or one that is no number."""
    try:
        value = float(text or "nan")
    except ValueError:
        return NAN
    return value if math.isfinite(value) else NAN


def read_text(path: Path) -> str:
    """A file's text. UserError if it can't be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: can't be read: {error.strerror if isinstance(error, OSError) else 'not UTF-8'}"
        ) from None


def read_json(path: Path) -> Any:
    """A file's JSON. UserError if it is none."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None


def read_rows(path: Path) -> list[dict[str, str]]:
    """A CSV file's rows; none if it isn't there. UserError if it can't be read."""
    return list(csv.DictReader(io.StringIO(read_text(path)))) if path.is_file() else []


def read_run(folder: Path, name: str) -> Run:
    """What a run left in its folder. UserError if there is no log, or nothing in it."""
    log = folder / LOG
    if not log.is_file():
        raise UserError(f"{folder} has no {LOG}: give the folder of a run that has validated once, its ckpt_save_dir")
    rows = list(csv.DictReader(io.StringIO(read_text(log))))
    columns = {key: [number(row.get(key)) for row in rows] for key in (rows[0] if rows else ()) if key}
    if not rows or not columns:
        raise UserError(f"{log} has no row yet: the run has not validated once")
    recipe = read_yaml(folder / RECIPE) if (folder / RECIPE).is_file() else {}
    result = read_json(folder / RESULT) if (folder / RESULT).is_file() else {}
    if not isinstance(result, dict):
        raise UserError(f"{folder / RESULT}: must hold one object")
    return Run(name, columns, recipe, result, read_rows(folder / CLASSES), read_rows(folder / ERRORS))


def names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the folders apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        found = ["/".join(part[-length:]) for part in parts]
        if len(set(found)) == len(set(parts)):
            break
    return [on_one_line(name) for name in found]
