"""Where fetched weights are kept: once a machine, whole, and the same bytes for ever.

    $MINDVIT_CACHE, or ~/.cache/mindvit/weights
        pytorch/xcit_nano_12_p16_224.pth            a plain address's file, by origin
        pytorch/xcit_nano_12_p16_224.pth.sha256     JSON: digest, size, address and date of its first fetch
        hub/timm--crossvit_9_240.in1k/...           what `mindvit download --to` brought of a hub's repository

MINDVIT_OFFLINE=1 takes nothing from anywhere else. MINDVIT_MIRROR is put before every plain address.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Optional

from mindvit.errors import UserError
from mindvit.hub import huggingface
from mindvit.hub.fetch import FULL, Limits, Partial, download, host_of
from mindvit.hub.sources import Source
from mindvit.runtime import files

CACHE, OFFLINE, MIRROR = "MINDVIT_CACHE", "MINDVIT_OFFLINE", "MINDVIT_MIRROR"
NO = ("", "0", "false", "no", "off")
POLL = 0.1  # seconds between two looks at a lock


@dataclass(frozen=True)
class Record:
    """What a file was when it came first."""

    sha256: str
    size: int
    address: str
    fetched: str

    @staticmethod
    def place(path: Path) -> Path:
        """Where the record of a file is."""
        return path.with_name(f"{path.name}.sha256")

    @classmethod
    def of(cls, path: Path) -> Optional[Record]:
        """The record of a file, if there is one. UserError for one that can't be read."""
        place = cls.place(path)
        try:
            return cls(**json.loads(place.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{place} is damaged ({error}): remove it and {path.name}, and both come anew") from None


def folder() -> Path:
    """Where fetched weights are kept."""
    given = os.environ.get(CACHE)
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mindvit" / "weights"


def is_offline() -> bool:
    """Whether nothing is to be fetched."""
    return os.environ.get(OFFLINE, "").lower() not in NO


def place_of(source: Source, root: Path) -> Path:
    """Where a source's file is kept under `root`."""
    if source.repository:
        return root / "hub" / source.repository.replace("/", "--") / source.file
    return root / source.origin / source.file


def mirrored(address: str, limits: Limits) -> tuple[str, Limits]:
    """The address to ask, and how: the user's mirror, if there is one, may be without encryption. UserError if it is
    no address.
    """
    mirror = os.environ.get(MIRROR, "").rstrip("/")
    if not mirror:
        return address, limits
    if not mirror.startswith(("https://", "http://")):
        raise UserError(f"{MIRROR} is {mirror!r}, but must be an address: https://HOST/...")
    hosts = {host_of(mirror)} if mirror.startswith("http://") else set()
    return f"{mirror}/{address}", dataclasses.replace(limits, plain_hosts=limits.plain_hosts | hosts)


def locate(source: Source, root: Optional[Path] = None, limits: Optional[Limits] = None) -> Path:
    """A source's file on this machine, fetched if it isn't here; processes that ask at once fetch it once.

    Args:
        source: of the table.
        root: the folder; None: the cache.
        limits: how patient, how much.

    Returns:
        The file, whose bytes are those of its first fetch, and those that were published where a digest was.

    Raises:
        UserError: it can't be had, has changed, or the folder can't be written.
    """
    own, root = root is None, root or folder()
    path = place_of(source, root)
    if path.is_file():
        check(path, source)
        return path
    if is_offline() and not source.repository:
        raise UserError(
            f"{path} isn't there, and {OFFLINE} is set: on a machine with a network, mindvit download NAME --to DIR; "
            f"then here, {CACHE}=DIR"
        )
    with told(root), locked(path) as alone:
        if path.is_file():  # another process fetched it
            check(path, source)
        elif not source.repository:
            partial = path.with_name(f".{path.name}{'' if alone else f'.{os.getpid()}'}.part")
            _fetch(source, path, partial, limits or Limits())
        else:
            found = huggingface.fetch(source.repository, source.file, offline=is_offline(), is_fixed=True)
            _record(path, source, found)
            if own:
                return found
            with files.atomic_write(path) as unfinished:
                shutil.copyfile(found, unfinished)
    return path


@contextlib.contextmanager
def told(root: Path) -> Iterator[None]:
    """What the system refuses of a folder, as a line for the user."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        advice = "make room" if error.errno in FULL else "give yourself the right to write there"
        raise UserError(f"{root} can't be written: {why} ({advice}, or {CACHE}=DIR names another folder)") from None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Only one process at a time comes in for this path; the others wait. False where a file system has no locks, and
    all come in.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("ab") as stream:
        held = files.try_lock(stream)
        if held is False:
            print(f"another process fetches {path.name}: waiting for it", file=sys.stderr, flush=True)
        while held is False:
            time.sleep(POLL)
            held = files.try_lock(stream)
        yield bool(held)


def _fetch(source: Source, path: Path, partial: Path, limits: Limits) -> None:
    """Download into `path`, by way of `partial`, whole or not at all."""
    address, limits = mirrored(source.place, limits)
    digest, size = download(address, partial, limits, source.file)
    try:
        _compare(source, Record.of(path), digest, size)
    except UserError:
        Partial(partial, address).discard()
        raise
    _write_record(path, Record(digest, size, source.place, _today()))
    with partial.open("rb+") as stream:
        os.fsync(stream.fileno())
    os.replace(partial, path)
    Partial(partial, address).discard()


def check(path: Path, source: Source) -> None:
    """UserError unless a kept file is what it was when it came. One without a record was put there by hand."""
    record = Record.of(path)
    if record is None and not source.sha256:
        return
    size, digest = path.stat().st_size, files.sha256(path)
    if record is not None and (size, digest) != (record.size, record.sha256):
        raise UserError(
            f"{path} isn't the file that was fetched on {record.fetched} ({size} bytes instead of {record.size}, or "
            "other ones): remove it, and it comes anew"
        )
    _compare(source, record, digest, size)


def _compare(source: Source, record: Optional[Record], digest: str, size: int) -> None:
    """UserError if a file isn't the published one, or the one that came at first."""
    if not digest.startswith(source.sha256):
        raise UserError(
            f"{source.file} from {source.link} has SHA-256 {digest}, but {source.sha256} was published "
            f"({source.read_in}): it isn't taken"
        )
    if record is not None and digest != record.sha256:
        raise UserError(
            f"{source.file} from {source.link} has changed since {record.fetched}: SHA-256 {digest} ({size} bytes) "
            f"instead of {record.sha256}. If that is meant, remove the record of the first one"
        )


def _record(path: Path, source: Source, found: Path) -> None:
    """Compare a hub's file, which stays in the hub's cache, with the first one, and keep its digest if it is that."""
    record, digest, size = Record.of(path), files.sha256(found), found.stat().st_size
    _compare(source, record, digest, size)
    if record is None:
        _write_record(path, Record(digest, size, source.place, _today()))


def _write_record(path: Path, record: Record) -> None:
    files.write_text(Record.place(path), json.dumps(dataclasses.asdict(record), indent=1) + "\n")


def _today() -> str:
    return datetime.date.today().isoformat()
