"""Showing a run: progress bar or plain lines, the CSV of epochs, the final row. Nothing is computed here."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Optional

from tqdm import tqdm

from mindvit.errors import UserError
from mindvit.files import SPELT_OUT, printable


def say(text: str) -> None:
    """One line that doesn't tear the progress bar."""
    tqdm.write(printable(text), file=sys.stdout)
    sys.stdout.flush()


class Progress:
    """A bar on a terminal; elsewhere a line every `interval` steps. Both show epoch, loss, lr, img/s and the time left."""

    def __init__(self, steps: int, epochs: int, interval: int, shown: bool = True, done: int = 0):
        self.steps, self.epochs, self.interval, self.shown = steps, epochs, interval, shown
        self.started = time.monotonic()
        self.first = self.done = done
        terminal = shown and sys.stderr.isatty()
        self.bar: Optional[tqdm] = tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True, leave=False) if terminal else None

    def update(self, epoch: int, values: Mapping[str, str]) -> None:
        """One step is done; `values` are shown as they are."""
        self.done += 1
        if self.bar is not None:
            self.bar.set_description(f"epoch {epoch + 1}/{self.epochs}", refresh=False)
            self.bar.set_postfix(values, refresh=False)
            self.bar.update()
        elif self.shown and (self.done % self.interval == 0 or self.done == self.steps):
            left = (time.monotonic() - self.started) / (self.done - self.first) * (self.steps - self.done)
            text = "  ".join(f"{key} {value}" for key, value in values.items())
            say(f"epoch {epoch + 1}/{self.epochs}  step {self.done}/{self.steps}  {text}  ETA {duration(left)}")

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()


@contextlib.contextmanager
def heartbeat(text: str, shown: bool = True, seconds: float = 30) -> Iterator[None]:
    """Say `text` and the seconds gone, every so many seconds, for as long as this lasts."""
    over, start = threading.Event(), time.monotonic()

    def beat() -> None:
        while not over.wait(seconds):
            say(f"{text} ({time.monotonic() - start:.0f} s)")

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    if shown:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if shown:
            thread.join()


@contextlib.contextmanager
def summary(kind: str, folder: Path) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """A function (step, values by name) that writes files for a viewer into `folder`/summary; for kind 'none' it writes nothing.

    kind: mindspore (MindInsight's files) or tensorboard. UserError if the package for the latter is missing.
    """
    if kind == "none":
        yield lambda step, values: None
    elif kind == "mindspore":
        from mindspore import SummaryRecord, Tensor  # starts processes of its own: only for those who want it

        with SummaryRecord(str(folder / "summary")) as record:

            def write(step: int, values: Mapping[str, float]) -> None:
                for name, value in values.items():
                    record.add_value("scalar", name, Tensor(float(value)))
                record.record(step)

            yield write
    else:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise UserError("summary is tensorboard, but the package tensorboardX is missing: pip install tensorboardX, or summary: mindspore") from None
        with SummaryWriter(str(folder / "summary")) as writer:

            def add(step: int, values: Mapping[str, float]) -> None:
                for name, value in values.items():
                    writer.add_scalar(name, value, step)

            yield add


def duration(seconds: float) -> str:
    """h:mm:ss."""
    whole = int(seconds + 0.5)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def append_csv(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line to a CSV file; one whose columns differ is kept aside under another name, never mixed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = list(row)
    if path.exists():
        with path.open(newline="", encoding="utf-8", errors="replace") as stream:
            if next(csv.reader(stream), None) != header:
                path.replace(path.with_suffix(f".{int(time.time())}.csv"))
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8", errors=SPELT_OUT) as stream:
        writer = csv.writer(stream)
        if new:
            writer.writerow(header)
        writer.writerow(row.values())


def cut_csv(path: Path, epochs: int) -> None:
    """Leave out of a run's CSV what a start that was cut off wrote after its last checkpoint: the rows beyond `epochs`."""
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    kept = [row for row in rows if not row or not row[0].isdigit() or int(row[0]) <= epochs]
    if kept != rows:
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(kept)


def table(*rows: Mapping[str, Any]) -> str:
    """Result rows with the same columns as an aligned table in Markdown."""
    names = list(rows[0])
    lines = [["n/a" if value is None else str(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *lines)]
    cells = [[cell.ljust(width) for cell, width in zip(line, widths)] for line in (names, *lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (cells[0], ["-" * width for width in widths], *cells[1:]))


def write_json(path: Path, row: Any) -> None:
    """The row, or rows, as JSON."""
    path.write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
