"""One file over HTTP: a server on the loopback plays what networks and servers do."""

from __future__ import annotations

import email.utils
import hashlib
import resource
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import Iterator

import pytest
from played_server import File, PlayedServer, one_after_another, redirect, serving, status

from mindvit.errors import UserError
from mindvit.hub.fetch import Limits, check_address, download

CONTENT = bytes(range(256)) * 1200
PATH = "/weights.pth"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[PlayedServer]:
    with serving() as server:
        yield server


class Trial:
    """Downloads from a played server into a folder, without waiting; `pauses` are those that would have been."""

    def __init__(self, server: PlayedServer, folder: Path):
        self.server, self.part, self.pauses = server, folder / ".weights.pth.part", []  # type: ignore[var-annotated]

    def __call__(self, path: str = PATH, **limits: object) -> bytes:
        wanted = {"plain_hosts": frozenset({self.server.host}), "sleep": self.pauses.append, **limits}
        digest, size = download(
            self.server.address + path,
            self.part,
            Limits(**wanted),  # type: ignore[arg-type]
            "weights.pth",
        )
        content = self.part.read_bytes()
        assert (digest, size) == (hashlib.sha256(content).hexdigest(), len(content))
        return content

    def left(self) -> list[str]:
        return sorted(path.name for path in self.part.parent.iterdir())


@pytest.fixture
def trial(server: PlayedServer, tmp_path: Path) -> Trial:
    return Trial(server, tmp_path)


def test_a_file_comes_whole(server: PlayedServer, trial: Trial, capsys: pytest.CaptureFixture) -> None:
    server.plays[PATH] = File(CONTENT)
    assert trial() == CONTENT and trial.pauses == []
    assert f"fetching weights.pth from {server.host} (0.3 MB)" in capsys.readouterr().err


def test_a_broken_connection_is_continued_where_it_ended(server: PlayedServer, trial: Trial) -> None:
    server.plays[PATH] = File(CONTENT, cuts=[1000, 2000])
    assert trial() == CONTENT and trial.pauses == [1.0, 1.0]
    assert server.ranges() == [None, "bytes=1000-", "bytes=3000-"]


def test_a_later_call_continues_what_was_left(server: PlayedServer, trial: Trial) -> None:
    server.plays[PATH] = File(CONTENT, cuts=[5000])
    with pytest.raises(UserError, match=r"ended after 5000 of 307200 bytes \(1 tries\)\. Try again later \(what came"):
        trial(tries=1)
    assert trial() == CONTENT and server.ranges() == [None, "bytes=5000-"]


def test_what_another_address_left_isn_t_continued(server: PlayedServer, trial: Trial) -> None:
    server.plays.update({PATH: File(CONTENT, cuts=[5000]), "/other": File(CONTENT[::-1])})
    with pytest.raises(UserError):
        trial(tries=1)
    assert trial("/other") == CONTENT[::-1] and server.ranges() == [None, None]


@pytest.mark.parametrize(
    ("changes", "asked"), [({"ranges": False}, "bytes=1000-"), ({"etag": 'W/"weak"'}, None)], ids=["parts", "tag"]
)
def test_without_parts_or_a_strong_tag_it_begins_anew(
    server: PlayedServer, trial: Trial, changes: dict, asked: str
) -> None:
    server.plays[PATH] = File(CONTENT, cuts=[1000], **changes)
    assert trial() == CONTENT and server.ranges() == [None, asked]


def test_another_file_in_the_middle_is_taken_from_its_start(server: PlayedServer, trial: Trial) -> None:
    server.plays[PATH] = one_after_another(File(CONTENT, cuts=[1000]), File(CONTENT[::-1], etag='"two"'))
    assert trial() == CONTENT[::-1]


def test_a_part_that_is_no_longer_there_or_at_the_wrong_place_begins_anew(server: PlayedServer, trial: Trial) -> None:
    server.plays[PATH] = one_after_another(File(CONTENT, cuts=[1000]), status(416), File(CONTENT))
    assert trial() == CONTENT and server.ranges() == [None, "bytes=1000-", None]
    server.plays["/shifted"] = one_after_another(File(CONTENT, cuts=[1000]), File(CONTENT, shift=7), File(CONTENT))
    assert trial("/shifted") == CONTENT


def test_silence_is_a_broken_connection(server: PlayedServer, trial: Trial) -> None:
    silence = threading.Event()
    server.plays[PATH] = File(CONTENT, cuts=[0] * 9, stall=silence)
    with pytest.raises(UserError, match=r"sent nothing for 0\.05 s \(2 tries\)"):
        trial(timeout=0.05, tries=2)
    silence.set()


def test_fewer_bytes_than_announced_are_no_file(server: PlayedServer, trial: Trial) -> None:
    server.plays[PATH] = File(b"", announced=10)
    with pytest.raises(UserError, match="the connection ended after 0 of 10 bytes"):
        trial()
    assert trial.pauses == [1.0, 2.0, 4.0]


@pytest.mark.parametrize("chunked", [False, True])
def test_more_bytes_than_are_taken_end_it_and_leave_nothing(server: PlayedServer, trial: Trial, chunked: bool) -> None:
    server.plays[PATH] = File(CONTENT, chunked=chunked)
    with pytest.raises(UserError, match="more (than 1000 aren't|bytes came than were announced or are) taken"):
        trial(largest=1000)
    assert trial.left() == []


@pytest.mark.parametrize("page", [File(b"x" * 999, kind="text/html; charset=utf-8"), File(b" <!DOCTYPE html><p>")])
def test_a_web_page_is_no_file(server: PlayedServer, trial: Trial, page: File) -> None:
    server.plays[PATH] = page
    with pytest.raises(UserError, match="gave a web page instead of a file .*open it in a browser"):
        trial()
    assert trial.left() == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (404, r"isn't at http://\S+/weights.pth any more \(404\): choose another source"),
        (403, r"asks for a login or lets nobody in \(403\)"),
        (418, r"answered I'm a Teapot \(418\)"),
    ],
)
def test_a_refusal_is_told_at_once(server: PlayedServer, trial: Trial, code: int, words: str) -> None:
    server.plays[PATH] = status(code)
    with pytest.raises(UserError, match=words) as caught:
        trial()
    assert len(server.requests) == 1 and "\n" not in str(caught.value) and trial.left() == []


def test_a_busy_server_is_left_alone_as_long_as_it_asks(server: PlayedServer, trial: Trial) -> None:
    in_a_minute = email.utils.formatdate(time.time() + 60, usegmt=True)
    server.plays[PATH] = one_after_another(
        status(429, Retry_After=7), status(503, Retry_After=in_a_minute), status(500), File(CONTENT)
    )
    assert trial() == CONTENT
    assert trial.pauses[0] == 7 and 50 < trial.pauses[1] <= 60 and trial.pauses[2] == 4.0


def test_a_server_that_asks_for_an_hour_is_believed(server: PlayedServer, trial: Trial) -> None:
    server.plays[PATH] = status(429, Retry_After=3600)
    with pytest.raises(UserError, match=r"answered 429 Too Many Requests; it asks to be left alone for 3600 s\. Try"):
        trial()
    assert trial.pauses == []


def test_redirects_stay_with_https_and_the_hosts_that_were_named(server: PlayedServer, trial: Trial) -> None:
    server.plays.update({"/there": redirect(PATH), PATH: File(CONTENT, cuts=[1000])})
    assert trial("/there") == CONTENT and "bytes=1000-" in server.ranges()  # ranges survive them
    port = server.host.split(":")[1]
    server.plays["/elsewhere"] = redirect(f"http://localhost:{port}{PATH}")
    with pytest.raises(UserError, match=rf"redirects to http://localhost:{port}/weights\.pth, which is not https"):
        trial("/elsewhere")
    server.plays["/file"] = redirect("file:///etc/passwd")
    with pytest.raises(UserError, match="Redirection to url 'file:///etc/passwd' is not allowed"):
        trial("/file")
    server.plays["/round"] = redirect("/round")
    with pytest.raises(UserError, match=r"\(302\)"):
        trial("/round")


def test_only_https_is_spoken_unless_the_host_is_named() -> None:
    check_address("https://somewhere/file", Limits(), "x")
    check_address("http://here:80/file", Limits(plain_hosts=frozenset({"here:80"})), "x")
    for address in ("http://127.0.0.1/file", "http://here:80@there/file", "ftp://here:80/file", "/etc/passwd"):
        with pytest.raises(UserError, match="^x, which is not https: it isn't followed$"):
            check_address(address, Limits(plain_hosts=frozenset({"here:80"})), "x")


def test_no_connection_is_told_after_some_tries(trial: Trial) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            UserError, match=rf"from {host}: no connection to {host} \(Connection refused\) \(4 tries\)"
        ):
            download(f"http://{host}/x", trial.part, Limits(plain_hosts=frozenset({host}), sleep=lambda _: None), "x")


def test_a_full_disk_leaves_nothing(server: PlayedServer, trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    server.plays[PATH] = File(CONTENT)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            trial()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert trial.left() == []
    usage = shutil.disk_usage(trial.part.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match="no room: weights.pth needs 307200 bytes more, and 1000 are free"):
        trial()
