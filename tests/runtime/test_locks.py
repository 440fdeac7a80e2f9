"""Locks: a busy one keeps a second process out, and a file system that has none keeps nobody from working."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mindvit.engine import checkpoint, compile_cache
from mindvit.errors import UserError
from mindvit.kernels import compiler
from mindvit.runtime import files

ROOT = Path(__file__).parents[2]
NONE = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


def fail_with(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let every lock fail as the system does with this error."""

    def flock(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize(
    "number, held", [(errno.EWOULDBLOCK, False), (errno.EACCES, False), *((number, None) for number in NONE)]
)
def test_a_busy_lock_and_none_at_all_are_two_things(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, held: bool
) -> None:
    with (tmp_path / "lock").open("w") as first, (tmp_path / "lock").open("w") as second:
        assert files.try_lock(first) is True and files.try_lock(second) is False
        fail_with(monkeypatch, number)
        assert files.try_lock(second) is held


@pytest.mark.parametrize("number", NONE)
def test_a_run_goes_without_locks_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    fail_with(monkeypatch, number)
    told: list[str] = []
    with checkpoint.run_lock(tmp_path / "run", told.append):
        assert (tmp_path / "run" / ".lock").read_text() == str(os.getpid())
    assert len(told) == 1 and told[0].startswith("WARNING: ") and "has no locks" in told[0]


def test_a_busy_folder_is_refused(tmp_path: Path) -> None:
    with (
        checkpoint.run_lock(tmp_path, pytest.fail),
        pytest.raises(
            UserError,
            match=rf"in use by another run "
            rf"\(process {os.getpid()}\)",
        ),
        checkpoint.run_lock(tmp_path, pytest.fail),
    ):
        pytest.fail("two runs in one folder")


@pytest.mark.parametrize("number", NONE)
def test_graphs_are_not_kept_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, number: int
) -> None:
    fail_with(monkeypatch, number)
    with compile_cache._held(tmp_path / "key" / "0") as held:
        assert held is False
    assert "compiled graphs are not kept" in capsys.readouterr().out


def test_a_real_system_call_that_is_not_there(tmp_path: Path) -> None:
    found = next(filter(None, map(shutil.which, ("cc", *compiler.COMPILERS))))
    library = tmp_path / "noflock.so"
    subprocess.run(
        [found, "-shared", "-fPIC", "-o", str(library), "-x", "c", str(ROOT / "tests" / "helpers" / "noflock.c")],
        check=True,
    )
    code = "import sys; from mindvit.runtime import files; print(files.try_lock(open(sys.argv[1], 'w')))"
    for preloaded, answer in (("", "True"), (str(library), "None")):
        said = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "lock")],
            cwd=ROOT,
            env={**os.environ, "LD_PRELOAD": preloaded},
            check=True,
            capture_output=True,
            text=True,
        )
        assert said.stdout.strip() == answer
