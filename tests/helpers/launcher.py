"""MindSpore's launcher on this machine."""

from __future__ import annotations

import socket
from pathlib import Path


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def msrun(workers: int, logs: Path) -> tuple[str, ...]:
    """Its command line up to the program, for so many processes here; their output goes to `logs`."""
    count = str(workers)
    return (
        "msrun",
        "--worker_num",
        count,
        "--local_worker_num",
        count,
        "--master_port",
        str(free_port()),
        "--join",
        "True",
        "--log_dir",
        str(logs),
    )
