"""Reading runs: their logs as curves, their recipes' differences and their result rows, on one page that needs no
other file.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence, Union

from mindvit.errors import UserError
from mindvit.recipe.files import read_yaml
from mindvit.recipe.schema import FIELDS
from mindvit.runtime.files import on_one_line, printable
from mindvit.tasks.metric import LOSS, METRICS

LOG, RECIPE, RESULT, CLASSES = "log.csv", "recipe.yaml", "result.json", "classes.csv"
MOST_CLASSES = 15  # in the table of the worst
PICTURES = {
    "confusion.png": "What is taken for what",
    "calibration.png": "Confidence and accuracy",
    "wrong.png": "Wrong, and sure of it",
}  # of validate.py --out: file and heading
TABLES = (".csv", ".json", ".md")
NAN = float("nan")


@dataclass(frozen=True)
class Chart:
    """Curves that share an axis: columns of the log with the words of the legend; usual: the value of a run in which
    nothing happened to them.
    """

    name: str
    title: str
    unit: str
    columns: Mapping[str, str]
    logarithmic: bool = False
    usual: Optional[float] = None


CHARTS = (
    Chart(
        "loss",
        "Loss",
        "",
        {"train_loss": "training", "val_loss": "validation", "ema_loss": "validation, EMA"},
    ),
    *(
        Chart(metric.key, metric.chart, metric.unit, {metric.key: "raw", f"ema_{metric.key}": "EMA"})
        for metrics in METRICS.values()
        for metric in metrics
        if metric is not LOSS
    ),
    Chart("lr", "Learning rate", "", {"lr": ""}),
    Chart("throughput", "Throughput", "img/s", {"img_s": ""}),
    Chart("scale", "Loss scale", "", {"loss_scale": ""}, logarithmic=True, usual=1.0),
    Chart("norm", "Gradient norm", "", {"norm": ""}),
    Chart("skipped", "Skipped steps", "steps", {"skipped": ""}, usual=0.0),
    Chart("wait", "Wait for data", "share of the time", {"data_wait": ""}),
)
LINES = ("solid", "dashed", "dotted")
COLOURS = ("#1f5fa8", "#c8442f", "#2d8a4e", "#8a5bb0", "#b8860b", "#2a9d9d", "#d0609a", "#6b6b6b")


@dataclass(frozen=True)
class Run:
    """A run's folder. columns: the log's, a number (nan: none) a row; recipe: every key, where there is a recipe;
    result: its final row, if it has ended; classes: a row for each class in the last validation, of tasks that measure
    them.
    """

    name: str
    columns: Mapping[str, Sequence[float]]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    classes: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True)
class Table:
    """A heading and rows of texts, the first of which are the columns' names."""

    title: str
    rows: Sequence[Sequence[str]]


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
    found = folder / CLASSES
    classes = list(csv.DictReader(io.StringIO(read_text(found)))) if found.is_file() else []
    return Run(name, columns, recipe, result, classes)


def worst_classes(run: Run) -> Table:
    """The classes that are found worst in a run's last validation, by their first number; those not there left out."""
    name, first, *_ = run.classes[0]
    there = sorted(
        (row for row in run.classes if not math.isnan(number(row[first]))), key=lambda row: number(row[first])
    )
    shown = there[:MOST_CLASSES]
    title = f"Classes that are found worst, of {len(run.classes)}: {run.name}"
    return Table(title, [list(run.classes[0]), *(list(row.values()) for row in shown)])


def seen(folder: Path) -> list[tuple[str, Path]]:
    """The pictures that `validate.py --out` has left in a run's folder, with their headings."""
    return [(title, folder / name) for name, title in PICTURES.items() if (folder / name).is_file()]


def names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the folders apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        found = ["/".join(part[-length:]) for part in parts]
        if len(set(found)) == len(set(parts)):
            break
    return [on_one_line(name) for name in found]


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


def axis(runs: Sequence[Run]) -> str:
    """'step' if a log has several rows an epoch and all logs count steps, or else 'epoch', or else 'row'."""

    def everywhere(key: str) -> bool:
        return all(key in run.columns and not any(map(math.isnan, run.columns[key])) for run in runs)

    several = any(len(set(run.columns.get("epoch", ()))) < len(run.columns.get("epoch", ())) for run in runs)
    if everywhere("step") and (several or not everywhere("epoch")):
        return "step"
    return "epoch" if everywhere("epoch") else "row"


def points(run: Run, column: str, along: str) -> tuple[list[float], list[float]]:
    """Places and values of a curve, empty cells left out."""
    values = run.columns.get(column, ())
    places = run.columns.get(along) or range(1, len(values) + 1)
    kept = [(place, value) for place, value in zip(places, values) if not math.isnan(value)]
    return [place for place, _ in kept], [value for _, value in kept]


def draw(chart: Chart, runs: Sequence[Run], along: str) -> Optional[bytes]:
    """A chart of all runs as PNG; None if no run has anything to show in it, or nothing but the usual value.
    UserError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise UserError(
            "the report draws with matplotlib, which is not installed: pip install -r requirements-report.txt"
        ) from None
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.subplots()
    shown: set[float] = set()
    labelled = False
    for run, colour in zip(runs, COLOURS * (len(runs) // len(COLOURS) + 1)):
        for (column, words), style in zip(chart.columns.items(), LINES):
            places, values = points(run, column, along)
            if values:
                label = ", ".join(part for part in (run.name if len(runs) > 1 else "", words) if part)
                shown, labelled = shown | set(values), labelled or bool(label)
                axes.plot(
                    places,
                    values,
                    color=colour,
                    linestyle=style,
                    marker="o" if len(values) < 30 else "",
                    markersize=4,
                    markerfacecolor=colour if style == LINES[0] else "white",
                    label=escaped(label),
                )
    if not shown or shown == {chart.usual}:
        return None
    axes.set(title=chart.title, xlabel=along, ylabel=chart.unit)
    if chart.logarithmic and min(shown) > 0:
        axes.set_yscale("log", base=2)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if labelled:  # matplotlib names a line without a label itself, and warns of a legend that has nothing to show
        axes.legend(frameon=False, fontsize="small")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()


def escaped(label: str) -> str:
    """A legend's text as matplotlib shows it as it is: $ would begin a formula, and a first _ would hide it."""
    return label.replace("$", r"\$").replace("_", "\u200b_", 1) if label.startswith("_") else label.replace("$", r"\$")


CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c20; background: #fff; }
body { max-width: 1180px; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 1rem; }
.charts img { width: 100%; }
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


def page(title: str, images: Mapping[str, bytes], tables: Sequence[Table], note: str = "") -> str:
    """One HTML page with its images inside: no script, no other file, nothing from the network."""
    charts = "".join(
        f'<img alt="{html.escape(name)}" src="data:image/png;base64,{base64.b64encode(image).decode()}">\n'
        for name, image in images.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{CSS}</style></head><body>\n<h1>{html.escape(title)}</h1>\n"
        + (f"<p>{html.escape(note)}</p>\n" if note else "")
        + (f'<div class="charts">\n{charts}</div>\n' if charts else "")
        + "".join(map(as_html, tables))
        + "</body></html>\n"
    )


def write_report(places: Sequence[Union[str, Path]], out: Path) -> list[Path]:
    """Report on runs' folders and table files: report.html and a PNG for each chart in the folder `out`; the files
    written.

    UserError for a place that is neither, a folder without a log, or a folder that can't be written.
    """
    paths = list(dict.fromkeys(map(Path, places)))
    folders = [path for path in paths if path.is_dir()]
    for path in paths:
        if path not in folders and not (path.is_file() and path.suffix in TABLES):
            raise UserError(
                f"{path} is neither a run's folder nor a table ({' '.join(TABLES)})"
                if path.exists()
                else f"no folder or file {path}"
            )
    runs = [read_run(folder, name) for folder, name in zip(folders, names(folders))] if folders else []
    tables = [differences(runs)] if any(run.recipe for run in runs) else []
    tables = ([results(runs)] if any(run.result for run in runs) else []) + ([last_rows(runs)] if runs else []) + tables
    tables += [worst_classes(run) for run in runs if run.classes]
    tables += [table for path in paths if path not in folders for table in read_table(path)]
    along = axis(runs)
    drawn = [(chart, draw(chart, runs, along)) for chart in CHARTS] if runs else []
    images = [(chart, image) for chart, image in drawn if image is not None]
    pictures = {f"{run.name}: {title}": file for run, folder in zip(runs, folders) for title, file in seen(folder)}
    without = [run.name for run in runs if not run.recipe]
    title = ", ".join([run.name for run in runs] or [on_one_line(path.name) for path in paths])
    note = f"No {RECIPE} in: {', '.join(without)}." if without else ""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for chart, image in images:
            (out / f"{chart.name}.png").write_bytes(image)
        inside = {chart.title: image for chart, image in images}
        inside.update((heading, file.read_bytes()) for heading, file in pictures.items())
        (out / "report.html").write_text(printable(page(title, inside, tables, note)), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {out} can't be written: {error.strerror}") from None
    return [out / "report.html", *(out / f"{chart.name}.png" for chart, _ in images)]
