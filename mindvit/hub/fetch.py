"""One file over HTTP, however the network behaves: resumed, retried, bounded, and never taken for what it isn't.

The bytes go to a partial file, which a later call continues where the server allows it. Only https is spoken, also
after redirects, except with hosts that the caller names.
"""

from __future__ import annotations

import contextlib
import email.utils
import errno
import hashlib
import http.client
import io
import json
import re
import shutil
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, NoReturn, Optional
from urllib.parse import urlsplit

from mindvit.errors import UserError
from mindvit.runtime import files
from mindvit.version import __version__

BLOCK = 1 << 18  # bytes at a time
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # answers after which another try may succeed
REFUSED = (401, 403, 407)
GONE = (404, 410)
RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
PAGES = (b"<!doctype", b"<html", b"<?xml")
ROOM = 64 << 20  # bytes that stay free on a disk
TIMEOUTS = (TimeoutError, socket.timeout)  # one and the same from Python 3.10 on
TRANSPORT = (OSError, http.client.HTTPException)  # what reading from a connection raises
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Limits:
    """How patient a transfer is and what it takes.

    timeout: seconds without a byte. tries: how often in a row nothing new may come. longest_wait: seconds that a
    server may ask for. largest: bytes. plain_hosts: HOST:PORT that may be spoken to without encryption.
    """

    timeout: float = 20.0
    tries: int = 4
    longest_wait: float = 120.0
    largest: int = 4 << 30
    plain_hosts: frozenset[str] = frozenset()
    sleep: Callable[[float], None] = time.sleep


class Interrupted(Exception):
    """A transfer ended before its time, and another try may succeed. wait: seconds that the server asked for."""

    def __init__(self, why: str, wait: Optional[float] = None):
        super().__init__(why)
        self.wait = wait


@dataclass
class Partial:
    """What has come of a file so far, and what tells whether the server still has the same."""

    path: Path
    address: str
    validator: str = ""  # an entity tag or a date of change
    size: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    @classmethod
    def found(cls, path: Path, address: str) -> Partial:
        """What an earlier try left, or nothing."""
        state = cls(path, address)
        with contextlib.suppress(OSError, ValueError, KeyError):  # none, or a torn one: from the start then
            told = json.loads(state.note.read_text(encoding="utf-8"))
            if told["address"] == address and told["validator"] and path.is_file():
                state.validator = told["validator"]
                state.digest, state.size = files.digest_of(path), path.stat().st_size
        return state

    @property
    def note(self) -> Path:
        """Where address and validator are kept."""
        return self.path.with_name(f"{self.path.name}.json")

    def restart(self, validator: str) -> None:
        """From the first byte."""
        self.discard()
        self.validator, self.size, self.digest = validator, 0, hashlib.sha256()
        self.path.touch()
        files.write_text(self.note, json.dumps({"address": self.address, "validator": validator}))

    def discard(self) -> None:
        """Remove it."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)
        self.validator, self.size = "", 0


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Only to where the first address could have been."""

    def __init__(self, limits: Limits):
        self.limits = limits

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        check_address(newurl, self.limits, f"{host_of(req.full_url)} redirects to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def host_of(address: str) -> str:
    """HOST, or HOST:PORT."""
    return urlsplit(address).netloc.rpartition("@")[2]


def check_address(address: str, limits: Limits, what: str) -> None:
    """UserError for an address that may not be spoken to; `what` begins the message."""
    scheme = urlsplit(address).scheme
    if scheme == "https" or (scheme == "http" and host_of(address) in limits.plain_hosts):
        return
    raise UserError(f"{what}, which is not https: it isn't followed")


def download(address: str, path: Path, limits: Limits, what: str) -> tuple[str, int]:
    """Bring what is at an address into a file, continuing what an earlier call left there.

    Args:
        address: https.
        path: the partial file; the caller renames it.
        limits: how patient, how much.
        what: how messages call it.

    Returns:
        SHA-256 in hexadecimal digits, and the size in bytes.

    Raises:
        UserError: it can't be had; what came stays for the next call, unless it is of no use.
        OSError: `path` can't be written.
    """
    check_address(address, limits, f"{what} is at {address}")
    failures = 0
    while True:
        state = Partial.found(path, address)
        before = state.size
        try:
            return _attempt(state, limits, what)
        except Interrupted as problem:
            failures = 1 if state.size > before else failures + 1
            if failures >= limits.tries:
                raise UserError(
                    f"{what} can't be fetched from {host_of(address)}: {problem} ({limits.tries} tries). Try again "
                    "later (what came is kept), or fetch it elsewhere: mindvit download --help"
                ) from None
            pause = problem.wait if problem.wait is not None else 0.5 * 2**failures
            if pause > limits.longest_wait:
                raise UserError(
                    f"{what} can't be fetched from {host_of(address)}: {problem}; it asks to be left alone for "
                    f"{pause:.0f} s. Try again then"
                ) from None
            print(f"{what}: {problem}; trying again in {pause:.0f} s", file=sys.stderr, flush=True)
            limits.sleep(pause)


def _attempt(state: Partial, limits: Limits, what: str) -> tuple[str, int]:
    """One request and what comes of it. Interrupted if another one may do better."""
    headers = {"User-Agent": f"mindvit/{__version__}", "Accept-Encoding": "identity"}
    if state.size:
        headers.update({"Range": f"bytes={state.size}-", "If-Range": state.validator})
    with _open(urllib.request.Request(state.address, headers=headers), state, limits, what) as answer:
        total = _begin(answer, state)
        if total is not None and total > limits.largest:
            state.discard()
            raise UserError(
                f"{what} would be {total} bytes, and more than {limits.largest} aren't taken: {state.address}"
            )
        if not state.size and answer.headers.get_content_type() == "text/html":
            _refuse_page(state, what)
        _check_room(state, total, what)
        _receive(answer, state, total, limits, what)
    if total is not None and state.size < total:
        raise Interrupted(f"the connection ended after {state.size} of {total} bytes")
    return state.digest.hexdigest(), state.size


def _open(request: urllib.request.Request, state: Partial, limits: Limits, what: str) -> Any:
    """The server's answer, if it is a file's."""
    host = host_of(request.full_url)
    try:
        return urllib.request.build_opener(_Redirects(limits)).open(request, timeout=limits.timeout)
    except urllib.error.HTTPError as error:
        with error:
            _raise_for(error, state, what)
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise UserError(
                f"{what}: {host} shows a certificate that isn't trusted here ({error.reason.verify_message}); "
                "behind a proxy with a certificate of its own, name its file in SSL_CERT_FILE"
            ) from None
        raise Interrupted(f"no connection to {host} ({_reason(error.reason)})") from None
    except TRANSPORT as error:
        raise _broken(error, host, limits) from None


def _broken(error: BaseException, host: str, limits: Limits) -> Interrupted:
    if isinstance(error, TIMEOUTS):
        return Interrupted(f"{host} sent nothing for {limits.timeout:g} s")
    return Interrupted(f"the connection to {host} broke ({_reason(error)})")


def _raise_for(error: urllib.error.HTTPError, state: Partial, what: str) -> NoReturn:
    """What an answer that is no file means."""
    host = host_of(error.url or "") or host_of(state.address)
    if error.code == 416 and state.size:
        state.discard()
        raise Interrupted(f"{host} has another file than the one that was begun", 0.0)
    if error.code in TRANSIENT:
        raise Interrupted(
            f"{host} answered {error.code} {error.reason}", _retry_after(error.headers.get("Retry-After"))
        )
    if error.code in GONE:
        raise UserError(
            f"{what} isn't at {state.address} any more ({error.code}): choose another source (docs/weights.md), or "
            "give a file"
        )
    why = "asks for a login or lets nobody in" if error.code in REFUSED else f"answered {error.reason}"
    raise UserError(f"{what}: {host} {why} ({error.code}): {state.address}")


def _retry_after(value: Optional[str]) -> Optional[float]:
    """Seconds that a server asks to wait: a number, or until a date; None if it asks for none."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


def _reason(error: object) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _begin(answer: Any, state: Partial) -> Optional[int]:
    """Set the partial file to where the answer begins; the whole file's size, None if the server doesn't say."""
    length = answer.headers.get("Content-Length")
    if answer.status == http.client.PARTIAL_CONTENT:
        told = RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if not told or int(told[1]) != state.size:
            state.discard()
            raise Interrupted("the server continued at another place than was asked for", 0.0)
        return int(told[2]) if told[2] != "*" else state.size + int(length) if length else None
    tag = answer.headers.get("ETag", "")
    state.restart(tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", ""))
    return int(length) if length is not None and length.isdigit() else None


def _check_room(state: Partial, total: Optional[int], what: str) -> None:
    free = shutil.disk_usage(state.path.parent).free
    if total is not None and total - state.size > free - ROOM:
        raise OSError(errno.ENOSPC, f"no room: {what} needs {total - state.size} bytes more, and {free} are free")


def _receive(answer: Any, state: Partial, total: Optional[int], limits: Limits, what: str) -> None:
    """Append what comes, under a progress bar where stderr is a terminal. A full disk leaves nothing."""
    from tqdm import tqdm

    print(f"fetching {what} from {host_of(answer.url)}{_megabytes(total)}", file=sys.stderr, flush=True)
    with tqdm(
        total=total, initial=state.size, unit="B", unit_scale=True, dynamic_ncols=True, leave=False, disable=None
    ) as bar:
        try:
            with state.path.open("ab", buffering=0) as stream:
                while block := _read(answer, limits):
                    if not state.size and block.lstrip()[:9].lower().startswith(PAGES):
                        _refuse_page(state, what)
                    _write(stream, block)
                    state.digest.update(block)
                    state.size += len(block)
                    bar.update(len(block))
                    if state.size > (limits.largest if total is None else total):
                        state.discard()
                        raise UserError(f"{what}: more bytes came than were announced or are taken: {state.address}")
        except OSError as error:
            if error.errno in FULL:
                state.discard()
            raise


def _read(answer: Any, limits: Limits) -> bytes:
    try:
        return bytes(answer.read1(BLOCK))
    except TRANSPORT as error:
        raise _broken(error, host_of(answer.url), limits) from None


def _write(stream: io.RawIOBase, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[stream.write(rest) :]


def _refuse_page(state: Partial, what: str) -> NoReturn:
    state.discard()
    raise UserError(
        f"{what}: {state.address} gave a web page instead of a file (a login, a proxy's notice?): open it in a "
        "browser to see why"
    )


def _megabytes(total: Optional[int]) -> str:
    return "" if total is None else f" ({total / 1e6:.1f} MB)"
