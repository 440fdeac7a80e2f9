"""Showing a run: progress bar or plain lines, the CSV of epochs, the final row. Nothing is computed here."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, Mapping, Optional, Sequence, TypeVar, Union

from tqdm import tqdm

from mindvit.errors import UserError
from mindvit.runtime import files
from mindvit.runtime.files import SPELT_OUT, printable

T = TypeVar("T")


def log_info(text: str) -> None:
    """One line that doesn't tear the progress bar."""
    tqdm.write(printable(text), file=sys.stdout)
    sys.stdout.flush()


@functools.cache
def log_once(text: str) -> None:
    """A line that a process prints once."""
    log_info(text)


class Progress(contextlib.AbstractContextManager):
    """A bar on a terminal; elsewhere a line every `interval` steps.

    Both show epoch, loss, lr, img/s and the time left. At the end of a `with` the bar is gone.
    """

    def __init__(self, steps: int, epochs: int, interval: int, shown: bool = True, done: int = 0):
        self.steps, self.epochs, self.interval, self.shown = steps, epochs, interval, shown
        self.started, self.start_time = time.monotonic(), time.time()
        self.first = self.done = done
        self.terminal = shown and sys.stderr.isatty()
        self.bar: Optional[tqdm] = None

    def update(self, epoch: int, values: Mapping[str, str]) -> None:
        """One step is done; `values` are shown as they are."""
        if self.terminal and self.bar is None:
            self.bar = tqdm(total=self.steps, initial=self.done, unit="step", dynamic_ncols=True, leave=False)
            # of all steps, not of those since the last validation
            self.bar.start_t, self.bar.initial = self.start_time, self.first
        self.done += 1
        if self.bar is not None:
            self.bar.set_description(f"epoch {epoch + 1}/{self.epochs}", refresh=False)
            self.bar.set_postfix(values, refresh=False)
            self.bar.update()
        elif self.shown and (self.done % self.interval == 0 or self.done == self.steps):
            left = (time.monotonic() - self.started) / (self.done - self.first) * (self.steps - self.done)
            text = "  ".join(f"{key} {value}" for key, value in values.items())
            log_info(f"epoch {epoch + 1}/{self.epochs}  step {self.done}/{self.steps}  {text}  ETA {duration(left)}")

    def hide(self) -> None:
        """Take the bar away until the next step."""
        if self.bar is not None:
            self.bar.close()
        self.bar = None

    def __exit__(self, *_: Any) -> None:
        self.hide()


def validating(
    batches: Iterable[T], total: int, images: int, what: str = "validating", interval: int = 100, shown: bool = True
) -> Iterator[T]:
    """The same `total` batches of `images` each (over all ranks), and how far they are.

    A bar on a terminal; elsewhere a line every `interval` batches and every half a minute. The first batch is left out
    of img/s: its graph is compiled.
    """
    if not shown:
        yield from batches
        return
    done, began = 0, time.perf_counter()

    def rate() -> float:
        return (done - 1) * images / (time.perf_counter() - began) if done > 1 else 0.0

    def text() -> str:
        return f"{what} {done}/{total}" + (f"  img/s {rate():.0f}" if done > 1 else "")

    terminal = sys.stderr.isatty()
    with (
        tqdm(total=total, desc=what, unit="batch", dynamic_ncols=True, leave=False, disable=not terminal) as bar,
        heartbeat(text, not terminal),
    ):
        for batch in batches:
            yield batch
            done += 1
            if done == 1:
                began = time.perf_counter()
            bar.set_postfix({"img/s": f"{rate():.0f}"}, refresh=False)
            bar.update()
            if not terminal and done % interval == 0 and done < total:
                log_info(text())


@contextlib.contextmanager
def heartbeat(text: Union[str, Callable[[], str]], shown: bool = True, seconds: float = 30) -> Iterator[None]:
    """Say `text` (or what it gives) and the seconds gone, every so many seconds, for as long as this lasts."""
    over, start = threading.Event(), time.monotonic()

    def beat() -> None:
        while not over.wait(seconds):
            log_info(f"{text if isinstance(text, str) else text()} ({time.monotonic() - start:.0f} s)")

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    if shown:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if shown:
            thread.join()


def first_line(error: BaseException) -> str:
    """What went wrong, in one line."""
    return str(getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "") or type(error).__name__)


def duration(seconds: float) -> str:
    """h:mm:ss."""
    whole = int(seconds + 0.5)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def csv_header(path: Path) -> list[str]:
    """The names of a CSV file's columns; none if it is empty or isn't there.

    OSError, or csv.Error where it is no text at all.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        return next(csv.reader(stream), [])


def check_csv(path: Path, key: str) -> None:
    """UserError, naming the recipe's `key`, unless rows can be added to a CSV file; leaves nothing but its folder."""
    if path.parent.exists() and not path.parent.is_dir():
        raise UserError(f"{key} {path} can't be written: {path.parent} is no folder (--{key} FILE: another place)")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        with path.open("ab"):
            csv_header(path)
        if new:
            path.unlink()
    except OSError as error:
        raise UserError(f"{key} {path} can't be written: {error.strerror} (--{key} FILE: another place)") from None
    except csv.Error as error:
        raise UserError(f"{key} {path} is no CSV file: {error} (--{key} FILE: another one)") from None


def append_csv(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line to a CSV file, whole or not at all; a file whose columns differ is kept aside under another name,
    never mixed. OSError where that fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    header, found = list(row), csv_header(path)
    if found and found != header:
        path.replace(_free(path))
        found = []
    text = io.StringIO()
    writer = csv.writer(text)
    if not found:
        writer.writerow(header)
    writer.writerow(row.values())
    torn = bool(found) and not path.read_bytes().endswith(b"\n")  # by a process that was killed
    files.append(path, b"\r\n" * torn + text.getvalue().encode("utf-8", SPELT_OUT))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows with the same columns as a CSV file, whole or not at all; none write nothing. OSError where that fails."""
    if rows:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        files.write_text(path, text.getvalue())


def _free(path: Path) -> Path:
    """A name beside `path` that nothing has yet."""
    number = int(time.time())
    while path.with_suffix(f".{number}.csv").exists():
        number += 1
    return path.with_suffix(f".{number}.csv")


def cut_csv(path: Path, epochs: int) -> None:
    """Remove from a run's CSV what a start that was cut off wrote after its last checkpoint: the rows beyond `epochs`.

    OSError where that fails.
    """
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    kept = [row for row in rows if not row or not row[0].isdigit() or int(row[0]) <= epochs]
    if kept != rows:
        text = io.StringIO()
        csv.writer(text).writerows(kept)
        files.write_text(path, text.getvalue())


def table(*rows: Mapping[str, Any]) -> str:
    """Result rows with the same columns as an aligned table in Markdown."""
    names = list(rows[0])
    lines = [["n/a" if value is None else str(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *lines)]
    cells = [[cell.ljust(width) for cell, width in zip(line, widths)] for line in (names, *lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (cells[0], ["-" * width for width in widths], *cells[1:]))


def write_json(path: Path, row: Any) -> None:
    """The row, or rows, as JSON. OSError where it can't be written; what stood there before then stays."""
    files.write_text(path, json.dumps(row, indent=2) + "\n")
