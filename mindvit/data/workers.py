"""Worker processes: what threads do for the loader, where one lock of Python's is not enough for all of a rank's cores.

A worker is a new interpreter, in which nothing imports MindSpore. It is told by a socket which rows of which batch to
make, and writes them straight into memory that both processes see; the process that trains only sends and reads a few
bytes for every handful of images. That memory has no name, so nothing can be left of it, and a worker ends when its
socket does: however the training ends, by SIGKILL too, neither stays.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, reduction
from typing import Any, Optional, Union

import numpy as np

from mindvit.data import native
from mindvit.data.arrays import ArraySpec
from mindvit.data.decoding import DecodeError
from mindvit.data.shared_memory import INSTEAD, Layout, Unavailable, shared_memory, starts_of
from mindvit.errors import UserError

AHEAD = 3  # batches in the making beyond the one in use
HELD = 3  # batches that the user may keep, one that is computed and one that comes next, before others are copied
SLOTS = AHEAD + 1 + HELD
TASKS = 4  # of a worker in every batch, at most: more share the work out evenly, fewer cost less
IMAGES = 4  # of a task, at least, if that leaves every worker one
JOBS = 2  # that workers keep: training's and validation's
PATIENCE = 5.0  # seconds that a worker has to end by itself
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # a worker's NumPy needs no more
START = "import sys; sys.path[:] = {path!r}; from mindvit.data.worker import main; main({file}, {parent})"

Words = tuple[int, ...]
Bad = tuple[str, str, str]  # of a DecodeError: name, reason, what


class FromWorker(Exception):
    """The traceback of an error in a worker, in its own words."""


@dataclass(frozen=True)
class Rows:
    """Rows of a batch of a group that one worker makes: those of `slot` from `first` on, for these indices of the data
    set.
    """

    task: int
    job: int
    memory: int
    slot: int
    group: int
    first: int
    indices: np.ndarray
    words: Optional[tuple[Words, np.ndarray]]  # what images' generators begin with, and the last word of each


@dataclass
class Making:
    """A batch in the making: its slot, the tasks that are not yet done, and what is known of it."""

    slot: int
    group: int
    tasks: dict[int, int] = field(default_factory=dict)  # number -> first row
    bad: list[tuple[int, list[Bad]]] = field(default_factory=list)
    errors: list[tuple[int, BaseException, str]] = field(default_factory=list)

    def note(self, task: int, bad: list[Bad], error: Optional[tuple[BaseException, str]]) -> None:
        """A task is done."""
        first = self.tasks.pop(task)
        self.bad.append((first, bad))
        if error is not None:
            self.errors.append((first, *error))

    def raise_first(self) -> None:
        """The error of the first row that has one."""
        if not self.errors:
            return
        _, error, told = min(self.errors, key=lambda item: item[0])
        raise error from (None if isinstance(error, UserError) else FromWorker(told))


@dataclass
class Worker:
    """A process, the socket to it, and how many tasks it has to do."""

    process: subprocess.Popen
    link: connection.Connection
    tasks: int = 0

    @classmethod
    def start(cls) -> Worker:
        """A new interpreter with this one's search path."""
        ours, its = socket.socketpair()
        environment = {**os.environ, **dict.fromkeys(ONE_THREAD, "1")}
        if native.loaded.cache_info().currsize and native.loaded() is None:
            environment[native.SWITCH] = "0"  # said already why
        command = START.format(path=sys.path, file=its.fileno(), parent=os.getpid())
        # what ends the training ends its workers by way of the socket, also while they start
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", command],
                stdin=subprocess.DEVNULL,
                pass_fds=(its.fileno(),),
                env=environment,
            )
        except OSError as error:
            raise Unavailable(f"no worker process can be started ({error.strerror}); {INSTEAD}") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
            its.close()
        return cls(process, connection.Connection(ours.detach()))

    def send(self, message: Any, file: Optional[int] = None) -> None:
        """Tell it something, and give it an open file."""
        try:
            self.link.send(message)
            if file is not None:
                reduction.send_handle(self.link, file, self.process.pid)
        except OSError:
            raise self.died() from None

    def receive(self) -> Any:
        """What it says next."""
        try:
            return self.link.recv()
        except (EOFError, OSError):
            raise self.died() from None

    def died(self) -> Unavailable:
        """What to say of a worker that is gone."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE)
        code = self.process.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit code {code}"
        why = " (memory may have run out)" if code == -signal.SIGKILL else ""
        return Unavailable(
            f"a worker process that makes batches, {self.process.pid}, {how}{why}; fewer num_parallel_workers need "
            f"less memory, {INSTEAD}"
        )


def end(workers: Sequence[Worker], owner: int) -> None:
    """End processes, unless this is a copy of the one that started them."""
    if os.getpid() != owner:
        return
    for worker in workers:
        worker.link.close()
    for worker in workers:
        try:
            worker.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:  # a disk that doesn't answer
            worker.process.kill()
            worker.process.wait()


class Pool:
    """Workers, and what they were told."""

    def __init__(self, count: int):
        self.workers: list[Worker] = []
        self._end = weakref.finalize(self, end, self.workers, os.getpid())  # at the program's end at the latest
        self.workers += (Worker.start() for _ in range(count))
        self.by_link = {worker.link: worker for worker in self.workers}
        self.numbers = itertools.count()
        self.jobs: deque[tuple[int, Any]] = deque()
        self.making: dict[int, Making] = {}  # by task
        self.torn = False

    def close(self) -> None:
        """End the workers."""
        self._end()

    @property
    def is_broken(self) -> bool:
        """Whether a worker has ended by itself, or an answer may have been read in part."""
        return self.torn or any(worker.process.poll() is not None for worker in self.workers)

    def job(self, reader: Any) -> int:
        """The number by which workers know `reader`, a function of theirs; Unavailable if it can't be sent to them."""
        for number, known in self.jobs:
            if known == reader:
                return number
        buffers: list[pickle.PickleBuffer] = []
        try:
            content = pickle.dumps(reader, 5, buffer_callback=buffers.append)
        except Exception as error:  # whatever a class of a user's says when it is asked
            raise Unavailable(f"worker processes can't be sent what makes the batches: {error}; {INSTEAD}") from None
        pieces = [memoryview(content), *(buffer.raw() for buffer in buffers)]
        sizes = [len(piece) for piece in pieces]
        starts = starts_of(sizes)
        file = shared_memory(starts[-1])
        try:
            with mmap.mmap(file, max(starts[-1], 1)) as memory:
                for start, piece in zip(starts, pieces):
                    memory[start : start + len(piece)] = piece
            number = next(self.numbers)
            forgotten = self.jobs.popleft()[0] if len(self.jobs) == JOBS else None
            for worker in self.workers:
                worker.send(("job", number, forgotten, list(zip(starts, sizes))), file)
        finally:
            os.close(file)
        for worker in self.workers:
            self._confirmed(worker)
        self.jobs.append((number, reader))
        return number

    def _confirmed(self, worker: Worker) -> None:
        """Wait until a worker has taken in a job."""
        while True:
            message = worker.receive()
            if message[0] == "job":
                break
            self._done(worker, *message[1:])
        if message[1] is not None:
            raise Unavailable(
                f"worker processes can't take in what makes the batches: {message[1]} (they import modules, not the "
                f"main script); {INSTEAD}"
            )

    def share(self, layout: Layout, slots: int) -> tuple[int, mmap.mmap]:
        """Memory for so many batches, and the number by which workers know it."""
        size, number = mmap.PAGESIZE + slots * layout.size, next(self.numbers)
        file = shared_memory(size)
        try:
            for worker in self.workers:
                worker.send(("memory", number, size, layout), file)
            return number, mmap.mmap(file, size)
        finally:
            os.close(file)

    def give_up(self, number: int, memory: mmap.mmap) -> None:
        """No more is wanted in this memory."""
        memory[0] = 1
        with contextlib.suppress(UserError):  # of a worker that is gone nothing is needed
            for worker in self.workers:
                worker.send(("forget", number))

    def submit(self, making: Making, rows: Rows) -> None:
        """Give rows of a batch to the worker that has the least to do."""
        worker = min(self.workers, key=lambda item: item.tasks)
        worker.tasks += 1
        making.tasks[rows.task] = rows.first
        self.making[rows.task] = making
        worker.send(("rows", rows))

    def finish(self, making: Making) -> None:
        """Wait for a batch."""
        try:
            while making.tasks:
                for link in connection.wait(list(self.by_link)):
                    worker = self.by_link[link]  # type: ignore[index]
                    self._done(worker, *worker.receive()[1:])
        except BaseException:  # Ctrl-C among others
            self.torn = True
            raise

    def _done(self, worker: Worker, task: int, bad: list[Bad], error: Optional[tuple[BaseException, str]]) -> None:
        worker.tasks -= 1
        self.making.pop(task).note(task, bad, error)


class Feed:
    """The batches of one pass.

    Args:
        pool: who makes them.
        reader: makes the rows of a batch, in a worker.
        spec: the arrays of a batch.
        order: indices of the data set, whole batches.
        words: of the generators of the order's images, the last one of each by itself.
    """

    def __init__(
        self,
        pool: Pool,
        reader: Any,
        spec: Sequence[ArraySpec],
        order: np.ndarray,
        words: Optional[tuple[Words, np.ndarray]],
    ):
        self.pool, self.group, self.order, self.words = pool, reader.group, order, words
        self.job = pool.job(reader)
        self.layout, self.batch_size = Layout(tuple(spec)), spec[0].shape[0]
        self.number, self.memory = pool.share(self.layout, SLOTS)
        self.free, self.pending = list(range(SLOTS)), deque[Making]()

    def batches(self, skip: Callable[[DecodeError], None]) -> Iterator[list[np.ndarray]]:
        """The arrays of each batch in turn; `skip` is told of images in whose place others were taken."""
        try:
            for first in range(0, len(self.order), self.batch_size):
                self._begin(first)
                if len(self.pending) > AHEAD:
                    yield self._finished(skip)
            while self.pending:
                yield self._finished(skip)
        finally:  # also when the caller leaves early, or at an error
            self.pool.give_up(self.number, self.memory)

    def _begin(self, first: int) -> None:
        """Share out the batch whose first image is at `first`."""
        making = Making(self.free.pop(), self.group(int(self.order[first])))
        self.pending.append(making)
        workers = len(self.pool.workers)
        parts = min(self.batch_size, max(workers, min(TASKS * workers, self.batch_size // IMAGES)))
        ends = [self.batch_size * part // parts for part in range(parts + 1)]
        for row, end in zip(ends, ends[1:]):
            places = slice(first + row, first + end)
            words = None if self.words is None else (self.words[0], self.words[1][places])
            task, indices = next(self.pool.numbers), self.order[places]
            self.pool.submit(making, Rows(task, self.job, self.number, making.slot, making.group, row, indices, words))

    def _finished(self, skip: Callable[[DecodeError], None]) -> list[np.ndarray]:
        making = self.pending.popleft()
        self.pool.finish(making)
        for _, bad in sorted(making.bad):
            for item in bad:
                skip(DecodeError(*item))
        making.raise_first()
        owner, arrays = self.layout.arrays(self.memory, making.slot, making.group)
        if SLOTS - len(self.free) - len(self.pending) > HELD:  # the user keeps many: that memory is needed
            arrays = [array.copy() for array in arrays]
            self.free.append(making.slot)
        else:
            weakref.finalize(owner, self.free.append, making.slot).atexit = False
        return arrays


class Processes(int):
    """A number of workers that are processes, which the loader takes instead of as many threads.

    They start when the first batch is asked for and end with this object, or with the program.
    required: whether it is an error if they can't be had; otherwise a line says so and threads do it.
    """

    required: bool
    pool: Optional[Pool]
    refused: bool

    def __new__(cls, count: int, required: bool = True) -> Processes:
        self = super().__new__(cls, count)
        self.required, self.pool, self.refused = required, None, False
        return self

    def feed(
        self, reader: Any, spec: Sequence[ArraySpec], order: np.ndarray, words: Optional[tuple[Words, np.ndarray]]
    ) -> Optional[Feed]:
        """The batches of a pass that `reader` makes; None if the processes can't do it and needn't."""
        if self.refused:
            return None
        if self.pool is not None and self.pool.is_broken:
            self.close()
        try:
            if self.pool is None:
                self.pool = Pool(self)
            return Feed(self.pool, reader, spec, order, words)
        except Unavailable as error:
            self.close()
            if self.required:
                raise
            self.refused = True
            print(f"note: threads make the batches: {error}", file=sys.stderr, flush=True)
            return None

    def close(self) -> None:
        """End the processes; the next batch starts new ones."""
        if self.pool is not None:
            self.pool.close()
        self.pool = None

    def cpu_seconds(self) -> float:
        """That the running processes have used so far."""
        ticks = os.sysconf("SC_CLK_TCK")
        spent = 0
        for worker in self.pool.workers if self.pool else ():
            with open(f"/proc/{worker.process.pid}/stat", encoding="ascii", errors="replace") as file:
                spent += sum(map(int, file.read().rpartition(")")[2].split()[11:13]))
        return spent / ticks


Workers = Union[int, Processes]
