"""Files that are whole or not there, their checksums, locks where a file system has them, and text that can be written
whatever it holds.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import fcntl
import glob
import hashlib
import io
import os
import re
from pathlib import Path
from typing import IO, Any, Iterator, Optional

# somebody else has the lock; any other error: there are no locks to be had
BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)

CONTROL = re.compile(r"[\x00-\x1f\x7f]")
ESCAPED_BYTE = re.compile(r"\\udc([89a-f][0-9a-f])")  # how Python keeps a byte of a name that is no UTF-8


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, with the same ending; when all went well it is synced and becomes `path`, and
    otherwise it is gone.

    What stood at `path` stays until then. OSError where that is impossible.
    """
    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path)  # of a process that was killed; it may be a second name of another file
        yield unfinished
        with unfinished.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(unfinished, path)
    finally:
        remove_unfinished(path)


def remove_unfinished(path: Path) -> None:
    """Remove what an `atomic_write(path)` left behind, whatever its ending: MindSpore writes a .tmp first, and leaves
    it when the disk is full.
    """
    _remove(path.parent, f".{glob.escape(path.stem)}.unfinished*")


def clear(folder: Path) -> None:
    """Remove what processes that were killed in an `atomic_write` left in `folder`."""
    _remove(folder, ".*.unfinished*")


def _remove(folder: Path, pattern: str) -> None:
    with contextlib.suppress(OSError):  # no folder, or one that can't be written: what is done there next says so
        for left in folder.glob(pattern):
            left.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `path` as a whole, in UTF-8. OSError where that is impossible; what stood there before then stays."""
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(text.encode("utf-8", SPELT_OUT))


def append(path: Path, data: bytes) -> None:
    """Add `data` to the end of a file, all of it or nothing. OSError where that is impossible."""
    with path.open("ab", buffering=0) as stream:
        before = os.fstat(stream.fileno()).st_size
        try:
            written = stream.write(data)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(stream.fileno(), before)
            raise


def sha256(path: Path) -> str:
    """A file's checksum, in hexadecimal digits."""
    return digest_of(path).hexdigest()


def digest_of(path: Path) -> hashlib._Hash:
    """SHA-256 of what is in a file so far, to which more can be added."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest


def try_lock(stream: IO[Any]) -> Optional[bool]:
    """Whether this process now holds the lock of an open file, until it closes it or ends, however it ends; None: the
    file system has no locks.
    """
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in BUSY else None
    return True


def printable(text: str) -> str:
    r"""`text` with what can't be written as UTF-8 spelt out: the bytes of a file's name that is none as \xe8, other
    surrogates as \udce8.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", SPELT_OUT).decode("utf-8")
    return text


def on_one_line(text: str) -> str:
    r"""The same for a name that stands in a line: its line breaks, escapes and other control characters are spelt out
    too, as \x0a.
    """
    return printable(CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text))


def _spelt_out(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    spelt, resume = codecs.backslashreplace_errors(error)
    return ESCAPED_BYTE.sub(r"\\x\1", str(spelt)), resume


# for the `errors` of a file or stream: any text can then be written to it, whatever its encoding
SPELT_OUT = "mindvit.spelt_out"
codecs.register_error(SPELT_OUT, _spelt_out)


def spell_out(*streams: object) -> None:
    """Let `streams` (stdout, stderr) take any text: what their encoding lacks is spelt out, where it would end the
    process.
    """
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=SPELT_OUT)
