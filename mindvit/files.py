"""Files that are whole or not there, and text that can be written whatever it holds."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
from pathlib import Path
from typing import Iterator

CONTROL = re.compile(r"[\x00-\x1f\x7f]")
ESCAPED_BYTE = re.compile(r"\\udc([89a-f][0-9a-f])")  # how Python keeps a byte of a name that is no UTF-8


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


def printable(text: str) -> str:
    r"""`text` with what UTF-8 can't hold spelt out: bytes of a file's name as \xe8, other surrogates as \ud800."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", SPELT_OUT).decode("utf-8")
    return text


def on_one_line(text: str) -> str:
    r"""The same for a name that stands in a line: line breaks and other control characters are spelt out, as \x0a."""
    return printable(CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text))


def _spelt_out(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    spelt, resume = codecs.backslashreplace_errors(error)
    return ESCAPED_BYTE.sub(r"\\x\1", str(spelt)), resume


# For the `errors` of a file or stream: any text can then be written to it, whatever its encoding.
SPELT_OUT = "mindvit.spelt_out"
codecs.register_error(SPELT_OUT, _spelt_out)


def spell_out(*streams: object) -> None:
    """Let `streams` (stdout, stderr) take any text: what their encoding lacks is spelt out, and ends no process."""
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=SPELT_OUT)
