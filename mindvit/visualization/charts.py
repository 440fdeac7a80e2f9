"""The columns of runs' logs as curves."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Mapping, Optional, Sequence

from mindvit.errors import UserError
from mindvit.tasks.metric import LOSS, METRICS
from mindvit.visualization.run_files import Run


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
