"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Iterator


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, with the same ending; when all went well it is synced and becomes `path`, and otherwise it is gone.

    What stood at `path` stays until then. OSError where that is impossible.
    """
    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.unlink(missing_ok=True)  # of a process that was killed; it may be a second name of another file
        yield unfinished
        with unfinished.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
