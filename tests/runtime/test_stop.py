"""Commands that are asked to end, by a real signal or by Ctrl-C in a real terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import train_small
from image_files import make_data_dir

from mindvit.weights import read_weights

TESTS = Path(__file__).parents[1]
OPTIONS = [
    "--model",
    "nano",
    "--device_target",
    "CPU",
    "--warmup_epochs",
    "0",
    "--batch_size",
    "4",
    "--epoch_size",
    "100000",
    "--val_interval",
    "100000",
    "--ckpt_save_interval",
    "100000",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images to train and 4 to validate."""
    return make_data_dir(tmp_path_factory.mktemp("images"), classes=2, train=12, val=2, modes=("jpeg_rgb",))


def command(folder: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, *train_small.command(folder, out, *OPTIONS, *more)]


def saved_step(out: Path) -> int:
    return int(read_weights(out / "nano-within.ckpt")[1]["step"])


@pytest.mark.parametrize("number, name", [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_during_steps_is_called_by_its_name(
    folder: Path, tmp_path: Path, number: signal.Signals, name: str
) -> None:
    process = subprocess.Popen(
        command(folder, tmp_path, "--log_interval", "20"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while "step 40/" not in (line := process.stdout.readline()):
        assert line, "the run has ended"
    process.send_signal(number)
    text, errors = process.communicate(timeout=200)
    assert process.returncode == 128 + number and "error" not in errors
    last = text.splitlines()[-1]
    path = tmp_path / "nano-within.ckpt"
    assert last in (
        f"stopped by {name} after {moment}; saved in {path}: the same command resumes"
        for moment in (f"step {saved_step(tmp_path)}", f"epoch {saved_step(tmp_path) // 6}")
    )


def in_terminal(arguments: list[str]) -> tuple[int, int]:
    """Start a program in a terminal of 100 columns; its process and the terminal."""
    process, terminal = pty.fork()
    if process == 0:
        fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        os.execv(arguments[0], arguments)
    return process, terminal


def read_until(terminal: int, words: bytes, seconds: float = 240) -> bytes:
    """What a terminal shows up to `words`; with none, up to its end."""
    said, end = b"", time.monotonic() + seconds
    while not words or words not in said:
        ready, _, _ = select.select([terminal], [], [], max(0, end - time.monotonic()))
        assert ready, said
        try:
            said += os.read(terminal, 4096)
        except OSError:  # nobody writes to it any more
            assert not words, said
            break
    return said


def exit_code(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_ctrl_c_in_a_terminal_begins_a_line_of_its_own_and_ends_a_compilation_at_once(
    folder: Path, tmp_path: Path
) -> None:
    # Ctrl-C is for worker processes too: they are of the same group
    process, terminal = in_terminal(command(folder, tmp_path, "--resume", "none", "--python_multiprocessing", "True"))
    said = read_until(terminal, b"step/s")
    os.write(terminal, b"\x03")
    said += read_until(terminal, b"")
    assert exit_code(process) == 130 and b"error" not in said
    before, _, after = said.partition(b"stopped by Ctrl-C after ")
    assert before[-1:] in (b"\r", b"\n")
    assert f"the same command with --resume {tmp_path / 'nano-within.ckpt'} resumes" in after.decode()

    process, terminal = in_terminal(command(folder, tmp_path / "second"))
    read_until(terminal, b"compiling the training step")
    os.write(terminal, b"\x03")
    last = read_until(terminal, b"")
    assert exit_code(process) == 130 and last.split()[-1] in (b"interrupted", b"^Cinterrupted")
