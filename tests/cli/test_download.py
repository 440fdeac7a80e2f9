"""mindvit download: names and patterns, and a folder that a machine without a network takes as its cache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest
from played_server import File, PlayedServer, serving

from mindvit.cli import download
from mindvit.errors import UserError
from mindvit.hub import cache
from mindvit.hub.resolve import weights_file
from mindvit.hub.sources import SOURCES, source_of

NAMES = ("xcit_nano_12_p16_224", "xcit_nano_12_p8_224")


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[PlayedServer]:
    """A mirror that has something under the address of every plain source of NAMES."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv(cache.CACHE, str(tmp_path / "cache"))
    monkeypatch.delenv(cache.OFFLINE, raising=False)
    with serving() as server:
        monkeypatch.setenv(cache.MIRROR, server.address)
        for name in NAMES:
            place = source_of(name).place
            server.plays[f"/{place}"] = File(place.encode())
        yield server


def test_a_pattern_s_files_are_brought_to_a_folder(
    server: PlayedServer, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    usb = tmp_path / "usb"
    download.main(["xcit_nano_12_p*_224", "--to", str(usb)])
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [f"{name}: {usb}/pytorch/{name}.pth" for name in NAMES]
    assert f"on a machine without a network: MINDVIT_CACHE={usb} MINDVIT_OFFLINE=1" in printed.err
    assert not (tmp_path / "cache").exists()
    monkeypatch.setenv(cache.CACHE, str(usb))
    monkeypatch.setenv(cache.OFFLINE, "1")
    asked = len(server.requests)
    assert Path(weights_file(True, NAMES[0])).read_bytes() == source_of(NAMES[0]).place.encode()
    assert len(server.requests) == asked == 2


def test_without_a_folder_the_cache_gets_them(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    download.main([NAMES[0]])
    assert capsys.readouterr().out == f"{NAMES[0]}: {tmp_path}/cache/pytorch/{NAMES[0]}.pth\n"


def test_what_would_be_fetched_is_listed(server: PlayedServer, capsys: pytest.CaptureFixture) -> None:
    download.main(["*", "--list"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == sum(1 for found in SOURCES.values() if found) == 60 and server.requests == []
    assert "cvt_13_224: https://huggingface.co/microsoft/cvt-13 (model.safetensors)" in lines
    download.main(["xcit_nano_12_p8_384*", "--list", "--pretrained", "mmpretrain"])
    assert capsys.readouterr().out.endswith("-384px_20230213-09d925ef.pth)\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["crossvit_10"], "no network is called 'crossvit_10'; did you mean crossvit_1"),
        (["vit_*"], "no network's name matches 'vit_\\*' \\(mindvit download '\\*' --list shows all\\)"),
        (["crossformer_*"], "nothing that matches 'crossformer_\\*' can be fetched$"),
        (["cvt_*", "--pretrained", "timm"], "nothing that matches 'cvt_\\*' can be fetched from timm"),
        (["crossformer_tiny"], "crossformer_tiny has no weights that can be fetched: .*https://drive"),
        (["cvt_13_224", "--pretrained", "mindcv"], "argument --pretrained: invalid choice"),
    ],
)
def test_what_can_t_be_fetched_is_one_line(words: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        download.main(words)


def test_no_mindspore_is_needed() -> None:
    code = """
import sys
from mindvit.cli import main
main.main(["download", "crossvit_*", "--list"])
assert not {"mindspore", "numpy"} & set(sys.modules), "a login node has neither"
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ran.returncode == 0 and len(ran.stdout.splitlines()) == 11, ran.stderr
