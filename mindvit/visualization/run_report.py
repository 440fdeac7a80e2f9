"""Reading runs: their logs as curves, their recipes' differences and their result rows, on one page that needs no
other file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Sequence, Union

from mindvit.errors import UserError
from mindvit.runtime.files import on_one_line, printable
from mindvit.visualization.charts import CHARTS, axis, draw
from mindvit.visualization.report_page import page
from mindvit.visualization.report_tables import (
    detection_errors,
    differences,
    last_rows,
    read_table,
    results,
    worst_classes,
)
from mindvit.visualization.run_files import RECIPE, names, read_run

PICTURES = {
    "confusion.png": "What is taken for what",
    "calibration.png": "Confidence and accuracy",
    "wrong.png": "Wrong, and sure of it",
    "examples.png": "Found, beside what is there",
    "errors.png": "False alarms and missed objects",
}  # of validate.py --out, and of a segmentor's or detector's run: file and heading
TABLES = (".csv", ".json", ".md")


def seen(folder: Path) -> list[tuple[str, Path]]:
    """The pictures that `validate.py --out` has left in a run's folder, with their headings."""
    return [(title, folder / name) for name, title in PICTURES.items() if (folder / name).is_file()]


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
    classes = [worst_classes(run) for run in runs if run.classes]
    classes += [detection_errors(run) for run in runs if run.errors]
    tables += [table for path in paths if path not in folders for table in read_table(path)]
    along = axis(runs)
    drawn = [(chart, draw(chart, runs, along)) for chart in CHARTS] if runs else []
    images = [(chart, image) for chart, image in drawn if image is not None]
    pictures = {f"{title}: {run.name}": file for run, folder in zip(runs, folders) for title, file in seen(folder)}
    without = [run.name for run in runs if not run.recipe]
    title = ", ".join([run.name for run in runs] or [on_one_line(path.name) for path in paths])
    note = f"No {RECIPE} in: {', '.join(without)}." if without else ""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for chart, image in images:
            (out / f"{chart.name}.png").write_bytes(image)
        charts = {chart.title: image for chart, image in images}
        seen_by = {heading: file.read_bytes() for heading, file in pictures.items()}
        (out / "report.html").write_text(
            printable(page(title, charts, seen_by, [*classes, *tables], note)), encoding="utf-8"
        )
    except OSError as error:
        raise UserError(f"--out {out} can't be written: {error.strerror}") from None
    return [out / "report.html", *(out / f"{chart.name}.png" for chart, _ in images)]
