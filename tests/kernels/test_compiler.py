"""C++ of our own: built once, and done without, in one line, where it can't be built."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from mindvit.kernels import build, compiler
from mindvit.runtime import platform

SWITCH, LOSS = "MINDVIT_NOTHING", "nothing works"


@pytest.fixture(name="cache")
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    return tmp_path / "cache" / "mindvit"


@pytest.fixture(name="source")
def _source(tmp_path: Path) -> Path:
    file = tmp_path / "few.cpp"
    file.write_text('extern "C" int answer() { return 42; }')
    return file


def test_it_is_built_once_for_a_source_its_flags_and_a_compiler(
    cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compiler.build(source, ())
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", None)
        assert compiler.build(source, ()) == first and list(cache.iterdir()) == [first]
    assert compiler.build(source, ("-O2",)) != first
    source.write_text(source.read_text().replace("42", "43"))
    assert compiler.build(source, ()) != first and len(list(cache.iterdir())) == 3


def test_it_is_built_anew_when_an_included_file_changes(cache: Path, source: Path) -> None:
    (source.parent / "number.h").write_text("#define NUMBER 42\n")
    (source.parent / "more.h").write_text('#include "number.h"\n#include "number.h"\n')
    source.write_text('#include <cmath>\n#include "more.h"\nextern "C" int answer() { return NUMBER; }')
    assert compiler.sources(source) == [source, source.parent / "more.h", source.parent / "number.h"]
    first = compiler.build(source, ())
    (source.parent / "number.h").write_text("#define NUMBER 43\n")
    assert compiler.build(source, ()) != first


def test_the_kernels_are_made_of_all_their_files() -> None:
    assert {file.name for file in compiler.sources(build.SOURCE)} == {
        file.name for file in build.SOURCE.parent.iterdir()
    }


@pytest.mark.parametrize(
    "trouble, says",
    [
        ("none", "no C++ compiler (g++, clang++, c++) found"),
        ("broken", "few.cpp:1: error: what is this?"),
        ("no folder", "File exists"),
        ("wrong", "No such file or directory: 'nothing'"),
    ],
)
def test_without_a_library_one_line_says_so(
    cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, trouble: str, says: str
) -> None:
    def refuse(command: list[str], **_: object) -> None:
        raise subprocess.CalledProcessError(1, command, stderr="few.cpp:1: error: what is this?\nand more\n")

    if trouble == "none":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    elif trouble == "broken":
        monkeypatch.setattr(subprocess, "run", refuse)
    elif trouble == "wrong":
        monkeypatch.setenv("CXX", "nothing")
    else:
        cache.parent.mkdir()
        cache.write_text("")
    assert compiler.library(source, (), SWITCH, LOSS) is None
    told = capsys.readouterr().err
    assert says in told and told.startswith("note: nothing works: ") and told.count("\n") == 1
    assert trouble == "no folder" or not cache.exists() or not list(cache.iterdir())


def test_it_can_be_switched_off_quietly(
    cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv(SWITCH, "0")
    assert compiler.library(source, (), SWITCH, LOSS) is None and not capsys.readouterr().err and not cache.exists()


def test_networks_do_without_kernels_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "library", lambda: None)
    monkeypatch.setattr(build, "has_products", build.has_products.__wrapped__)
    found = platform.of.__wrapped__("CPU")
    assert not found.kernels and not found.product_kernels and found.slow_broadcasting


def test_kernels_keep_to_avx2_where_the_framework_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "-mno-avx512f" not in build.flags()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert "-mno-avx512f" in build.flags()
