"""A web server on the loopback that plays whatever a test needs: files with ranges, cuts, delays, redirects, refusals,
and the part of a hub that its library asks for files.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Iterator, Optional

Play = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers by the play of the path; every request is noted."""

    protocol_version = "HTTP/1.1"
    server: PlayedServer

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        play = self.server.plays.get(self.path, status(404))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client has enough
            play(self)

    do_HEAD = do_GET

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""

    def head(self, code: int, **headers: object) -> None:
        """The answer's first lines; `_` in a header's name stands for `-`."""
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def hang_up(self) -> None:
        """End the connection here."""
        self.close_connection = True


class PlayedServer(ThreadingHTTPServer):
    """plays: what is answered, by path. requests: method, path and headers of what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plays: dict[str, Play] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def address(self) -> str:
        return f"http://{self.host}"

    def ranges(self) -> list[Optional[str]]:
        """The Range header of each GET."""
        return [headers.get("Range") for method, _, headers in self.requests if method == "GET"]


@contextlib.contextmanager
def serving() -> Iterator[PlayedServer]:
    """A server until the block ends."""
    with PlayedServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@dataclass
class File:
    """A file.

    cuts: after how many bytes of the body each of the first answers breaks off. ranges: whether parts are given.
    announced: the length that is told instead of the true one. chunked: none is told. stall: what is waited for after
    the cut, before the connection ends. shift: how far off a part begins.
    """

    content: bytes
    etag: str = '"one"'
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    kind: str = "application/octet-stream"
    announced: Optional[int] = None
    chunked: bool = False
    stall: Optional[threading.Event] = None
    shift: int = 0

    def __call__(self, handler: Handler) -> None:
        start = self.start(handler.headers)
        body, headers = self.content[start and start + self.shift :], {"ETag": self.etag, "Content_Type": self.kind}
        if start >= len(self.content) > 0:
            handler.head(416, Content_Length=0)
            return
        if self.chunked:
            handler.head(200, Transfer_Encoding="chunked", **headers)
            handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
            return
        length = len(body) if self.announced is None else self.announced
        if start:
            first = start + self.shift
            headers["Content_Range"] = f"bytes {first}-{len(self.content) - 1}/{len(self.content)}"
        handler.head(206 if start else 200, Content_Length=length, **headers)
        if self.cuts and handler.command == "GET":
            handler.wfile.write(body[: self.cuts.pop(0)])
            handler.wfile.flush()
            if self.stall:
                self.stall.wait(5)
            handler.hang_up()
        elif handler.command == "GET":
            handler.wfile.write(body)
            if self.announced is not None:
                handler.hang_up()

    def start(self, headers: Any) -> int:
        """The first byte that is asked for, if parts are given and the file is still the same."""
        asked = headers.get("Range")
        if not asked or not self.ranges or headers.get("If-Range") not in (None, self.etag):
            return 0
        return int(asked.removeprefix("bytes=").split("-")[0])


def status(code: int, **headers: object) -> Play:
    """An answer without a body."""
    return lambda handler: handler.head(code, Content_Length=0, **headers)


def redirect(to: str) -> Play:
    """Somewhere else."""
    return status(302, Location=to)


def one_after_another(*plays: Play) -> Play:
    """A play for each request; the last one for all that follow."""
    waiting = list(plays)

    def play(handler: Handler) -> None:
        (waiting.pop(0) if len(waiting) > 1 else waiting[0])(handler)

    return play


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def play_hub(server: PlayedServer, repository: str, files: dict[str, bytes], revision: str = "main") -> None:
    """A repository as a hub gives it: large files have their SHA-256 as tag. Other files aren't there."""
    for name, content in files.items():
        tag = hashlib.sha256(content).hexdigest()

        def play(handler: Handler, content: bytes = content, tag: str = tag) -> None:
            headers = {"X_Repo_Commit": COMMIT, "X_Linked_Etag": f'"{tag}"', "X_Linked_Size": len(content)}
            handler.head(200, Content_Length=len(content), ETag=f'"{tag}"', **headers)
            if handler.command == "GET":
                handler.wfile.write(content)

        server.plays[f"/{repository}/resolve/{revision}/{name}"] = play


def hub_refusal(code: int, error: str) -> Play:
    """A hub's refusal, with the word that tells its library which."""
    return status(code, X_Error_Code=error, X_Error_Message=error, X_Repo_Commit=COMMIT)
