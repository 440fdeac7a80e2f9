"""Memory that several processes see, and how a batch lies in it."""

from __future__ import annotations

import itertools
import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mindvit.data.arrays import ArraySpec
from mindvit.errors import UserError

ALIGNMENT = 64  # bytes, of arrays in shared memory
SHARED = "/dev/shm"
INSTEAD = "python_multiprocessing: False takes threads"


class Unavailable(UserError):
    """Worker processes, or the memory that they need, can't be had."""


def shared_memory(size: int) -> int:
    """An open file of `size` bytes of memory, without a name."""
    size = max(size, 1)
    if hasattr(os, "memfd_create"):  # which a container's small /dev/shm doesn't bound
        file = os.memfd_create("mindvit", os.MFD_CLOEXEC)
        os.ftruncate(file, size)
        return file
    with tempfile.TemporaryFile(dir=SHARED if os.path.isdir(SHARED) else None) as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, size)  # or else a full one would end a worker by SIGBUS
        except OSError as error:
            raise Unavailable(f"{size >> 20} MiB of shared memory can't be had ({error.strerror}); {INSTEAD}") from None
        return os.dup(stream.fileno())


def starts_of(sizes: Sequence[int]) -> list[int]:
    """Where pieces of so many bytes begin, one after another, and where the last one ends."""
    return list(itertools.accumulate((-(-size // ALIGNMENT) * ALIGNMENT for size in sizes), initial=0))


@dataclass(frozen=True)
class Layout:
    """Where the arrays of a batch lie in a slot of shared memory."""

    spec: tuple[ArraySpec, ...]

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """First byte and number of bytes of each array, where it is largest."""
        sizes = [max(map(math.prod, item.shapes)) * np.dtype(item.dtype).itemsize for item in self.spec]
        return tuple(zip(starts_of(sizes), sizes))

    @property
    def size(self) -> int:
        """Bytes of a slot, whole pages."""
        first, size = self.places[-1]
        return -(-(first + size) // mmap.PAGESIZE) * mmap.PAGESIZE

    def arrays(self, memory: mmap.mmap, slot: int, group: int = 0) -> tuple[np.ndarray, list[np.ndarray]]:
        """What owns a slot as long as any of its arrays is in use, and the arrays of a batch of the group."""
        # the first page says whether the batches are still wanted
        owner = np.frombuffer(memory, np.uint8, self.size, mmap.PAGESIZE + slot * self.size)
        return owner, [
            owner[first : first + size].view(item.dtype)[: math.prod(item.shape)].reshape(item.shape)
            for item, (first, size) in zip((item.of_group(group) for item in self.spec), self.places)
        ]
