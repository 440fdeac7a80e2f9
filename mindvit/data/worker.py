"""What a worker process does: see `workers`, which starts it."""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import signal
import traceback
from multiprocessing import connection, reduction
from typing import Any, Optional

from mindvit.data import decoding
from mindvit.data.shared_memory import Layout
from mindvit.data.workers import Bad, Rows
from mindvit.errors import UserError

LOOK = 5.0  # seconds after which an idle worker looks whether it is still wanted


class Server:
    """Readers and memory that this process was given, by number."""

    def __init__(self) -> None:
        self.readers: dict[int, Any] = {}
        self.memories: dict[int, tuple[mmap.mmap, Layout]] = {}

    def take_job(self, file: int, number: int, forgotten: Optional[int], pieces: list[tuple[int, int]]) -> Any:
        """Take in a reader; the answer. Its arrays stay in the memory that all workers have in common."""
        self.readers.pop(forgotten, None)  # type: ignore[arg-type]
        size = os.fstat(file).st_size
        content = memoryview(mmap.mmap(file, size, flags=mmap.MAP_PRIVATE))
        views = [content[first : first + length] for first, length in pieces]
        try:
            reader = pickle.loads(views[0], buffers=views[1:])
            decoding.allow(reader.dataset.max_pixels)
        except Exception as error:  # whatever a module of a user's does when it is imported
            return ("job", f"{type(error).__name__}: {error}")
        self.readers[number] = reader
        return ("job", None)

    def make(self, rows: Rows) -> Any:
        """Make rows of a batch; the answer."""
        reader, (memory, layout) = self.readers[rows.job], self.memories[rows.memory]
        _, arrays = layout.arrays(memory, rows.slot, rows.group)
        bad: list[Bad] = []
        blank = tuple(item.fill for item in layout.spec)
        for number, index in enumerate(rows.indices):
            if memory[0]:  # nobody waits for it any more
                break
            words = (*rows.words[0], int(rows.words[1][number])) if rows.words else None
            try:
                made = reader.row(int(index), words, lambda error: bad.append((error.name, error.reason, error.what)))
                for array, value in zip(arrays, made or blank):
                    array[rows.first + number] = value
            except Exception as error:
                return ("rows", rows.task, bad, portable(error))
        return ("rows", rows.task, bad, None)


def portable(error: Exception) -> tuple[Exception, str]:
    """An error as it can be sent, and its traceback."""
    told = traceback.format_exc()
    try:
        return pickle.loads(pickle.dumps(error)), told
    except Exception:  # a class that wants other arguments than it keeps
        kind = UserError if isinstance(error, UserError) else RuntimeError
        return kind(str(error) if kind is UserError else f"{type(error).__name__}: {error}"), told


def serve(link: connection.Connection, parent: int) -> None:
    """Do what `link` asks for until it ends, or the `parent` has."""
    server = Server()
    while True:
        while not link.poll(LOOK):
            if os.getppid() != parent:  # a copy of the parent's may keep the link open
                return
        kind, *message = link.recv()
        if kind == "rows":
            link.send(server.make(*message))
        elif kind == "forget":
            server.memories.pop(message[0], None)
        else:
            file = reduction.recv_handle(link)
            try:
                if kind == "job":
                    link.send(server.take_job(file, *message))
                else:
                    number, size, layout = message
                    server.memories[number] = mmap.mmap(file, size), layout
            finally:
                os.close(file)


def main(file: int, parent: int) -> None:
    """Serve the socket `file` of the process `parent`, which alone ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(EOFError, ConnectionError), connection.Connection(file) as link:
        serve(link, parent)
