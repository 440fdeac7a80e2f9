"""What is kept of fetched weights: the same bytes for ever, fetched once however many processes ask."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from played_server import File, Handler, PlayedServer, serving, status

from mindvit.errors import UserError
from mindvit.hub import cache
from mindvit.hub.cache import Record, folder, locate, place_of
from mindvit.hub.sources import Source, source_of
from mindvit.runtime import files

CONTENT = b"weights" * 5000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
ADDRESS = "https://somewhere.org/net_224.pth"
SOURCE = Source("pytorch", ADDRESS, "net_224.pth", "PyTorch", "a README")
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv(cache.CACHE, str(tmp_path / "cache"))
    for name in (cache.OFFLINE, cache.MIRROR):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[PlayedServer]:
    """A mirror that has the file."""
    with serving() as server:
        monkeypatch.setenv(cache.MIRROR, server.address + "/")
        server.plays[f"/{ADDRESS}"] = File(CONTENT)
        yield server


def names(path: Path) -> list[str]:
    return sorted(item.name for item in path.iterdir() if not item.name.endswith(".lock"))


def test_a_file_is_fetched_once_and_noted(server: PlayedServer) -> None:
    path = locate(SOURCE)
    assert path == folder() / "pytorch" / "net_224.pth" and path.read_bytes() == CONTENT
    assert locate(SOURCE) == path and len(server.requests) == 1
    assert names(path.parent) == ["net_224.pth", "net_224.pth.sha256"]
    record = Record.of(path)
    assert record is not None and (record.sha256, record.size, record.address) == (DIGEST, len(CONTENT), ADDRESS)


def test_the_folder_is_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(cache.CACHE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folder() == tmp_path / "mindvit" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert folder() == Path.home() / ".cache" / "mindvit" / "weights"
    repository = source_of("crossvit_9", "timm")
    assert place_of(repository, tmp_path) == tmp_path / "hub" / "timm--crossvit_9_240.in1k" / "model.safetensors"


@pytest.mark.parametrize("published", [DIGEST, DIGEST[:8]])
def test_a_published_digest_is_kept_to(server: PlayedServer, published: str) -> None:
    assert locate(dataclasses.replace(SOURCE, sha256=published)).read_bytes() == CONTENT


def test_another_file_than_the_published_one_isn_t_taken(server: PlayedServer) -> None:
    with pytest.raises(UserError, match=f"has SHA-256 {DIGEST}, but 00000000 was published .a README.: it isn't taken"):
        locate(dataclasses.replace(SOURCE, sha256="00000000"))
    assert names(folder() / "pytorch") == []


def test_a_file_that_has_changed_at_its_source_isn_t_taken(server: PlayedServer) -> None:
    path = locate(SOURCE)
    path.unlink()
    server.plays[f"/{ADDRESS}"] = File(CONTENT + b".")
    with pytest.raises(UserError, match=f"has changed since 20.*instead of {DIGEST}. If that is meant, remove the rec"):
        locate(SOURCE)
    assert names(path.parent) == ["net_224.pth.sha256"]
    server.plays[f"/{ADDRESS}"] = File(CONTENT)
    assert locate(SOURCE).read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1], b"W" + CONTENT[1:]])
def test_a_file_that_has_changed_here_is_told(server: PlayedServer, content: bytes) -> None:
    path = locate(SOURCE)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"net_224.pth isn't the file that was fetched on 20.*remove it, and it comes"):
        locate(SOURCE)
    Record.place(path).write_text("{")
    with pytest.raises(UserError, match=r"net_224.pth.sha256 is damaged .*: remove it and net_224.pth"):
        locate(SOURCE)


def test_a_file_that_was_put_there_is_taken_as_it_is(own_folder: Path) -> None:
    path = place_of(SOURCE, own_folder)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    assert locate(SOURCE) == path and names(path.parent) == ["net_224.pth"]
    with pytest.raises(UserError, match="was published"):
        locate(dataclasses.replace(SOURCE, sha256=DIGEST))


def test_offline_takes_what_is_there_and_asks_nobody(
    server: PlayedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    locate(SOURCE, tmp_path / "usb")
    monkeypatch.setenv(cache.OFFLINE, "1")
    with pytest.raises(UserError, match="MINDVIT_OFFLINE is set: on a machine with a network, mindvit download NAME"):
        locate(SOURCE)
    monkeypatch.setenv(cache.CACHE, str(tmp_path / "usb"))
    assert locate(SOURCE).read_bytes() == CONTENT and len(server.requests) == 1
    monkeypatch.setenv(cache.OFFLINE, "no")
    assert not cache.is_offline()


def test_a_mirror_must_be_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.MIRROR, "mirror.org")
    with pytest.raises(UserError, match="MINDVIT_MIRROR is 'mirror.org', but must be an address: https://HOST/"):
        locate(SOURCE)


def test_what_isn_t_there_leaves_nothing(server: PlayedServer) -> None:
    server.plays[f"/{ADDRESS}"] = status(404)
    with pytest.raises(UserError, match="net_224.pth isn't at http"):
        locate(SOURCE)
    assert names(folder() / "pytorch") == []


def test_a_folder_that_can_t_be_written_is_one_line(
    server: PlayedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/cache can't be written: Not a directory \(.*MINDVIT_CACHE=DIR names an"):
        locate(SOURCE, tmp_path / "file" / "cache")
    monkeypatch.setattr("mindvit.hub.fetch.ROOM", 1 << 60)
    with pytest.raises(UserError, match=r"can't be written: no room: .* bytes more, and \d+ are free \(make room, or"):
        locate(SOURCE)


def test_without_locks_each_process_has_its_own_partial_file(
    server: PlayedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "try_lock", lambda stream: None)
    server.plays[f"/{ADDRESS}"] = File(CONTENT, cuts=[9])
    with pytest.raises(UserError, match="ended after 9 of"):
        locate(SOURCE, limits=dataclasses.replace(cache.Limits(), tries=1))
    assert f".net_224.pth.{os.getpid()}.part" in names(folder() / "pytorch")


ASKS = """
import json, sys
from pathlib import Path
from mindvit.hub.cache import locate
from mindvit.hub.sources import Source
Path(sys.argv[2]).touch()
print(locate(Source(**json.loads(sys.argv[1]))))
"""


def test_four_processes_at_once_fetch_once(server: PlayedServer, tmp_path: Path) -> None:
    """As ranks do, and jobs that start together."""
    marks = [tmp_path / f"begun-{number}" for number in range(4)]
    whole = File(CONTENT * 100, cuts=[1000])

    def when_all_have_begun(handler: Handler) -> None:
        for _ in range(3000):
            if not all(mark.exists() for mark in marks):
                time.sleep(0.01)
        whole(handler)

    server.plays[f"/{ADDRESS}"] = when_all_have_begun
    words = [sys.executable, "-c", ASKS, json.dumps(dataclasses.asdict(SOURCE))]
    pipes: dict[str, Any] = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    jobs = [subprocess.Popen([*words, str(mark)], **pipes) for mark in marks]
    said = [job.communicate(timeout=60) for job in jobs]
    assert [job.returncode for job in jobs] == [0] * 4, said
    assert {out.decode().strip() for out, _ in said} == {str(place_of(SOURCE, folder()))}
    assert server.ranges() == [None, "bytes=1000-"]
    assert any(b"another process fetches net_224.pth: waiting for it" in told for _, told in said)
    assert locate(SOURCE).read_bytes() == CONTENT * 100
