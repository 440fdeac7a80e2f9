"""What the machine could give when a table was measured: beside whose rates a row means something.

python benchmarks/conditions.py: print it, and end with 2 if other programs use too much of the machine.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from mindvit import errors
from mindvit.errors import UserError

SIDE, VALUES, ROUNDS = 2048, 1 << 25, 5  # of the product's matrices; float32 values that are copied (128 MiB)
MOST = 1.0  # cores that others may have kept busy
STAT = Path("/proc/stat")


@dataclass(frozen=True)
class Conditions:
    """busy: cores that other programs used in the seconds before; peak: GFLOP/s of NumPy's product of two 2048 x 2048
    matrices; bandwidth: GB/s read and written by a copy of 128 MiB.
    """

    busy: float
    peak: float
    bandwidth: float

    def __str__(self) -> str:
        return f"{self.peak:.0f} / {self.bandwidth:.0f} / {self.busy:.1f}"


def busy_cores(seconds: float = 2.0, wait: Callable[[float], None] = time.sleep) -> float:
    """How many cores were busy, on average, while this process waited; another machine's share of them counts too."""
    before = cpu_times()
    wait(seconds)
    idle, total = (now - then for now, then in zip(cpu_times(), before))
    return (os.cpu_count() or 1) * (1 - idle / total) if total else 0.0


def cpu_times() -> tuple[int, int]:
    """Of all cores since the machine started: idle (waiting for disks too), and in all. Zeros without Linux's /proc."""
    try:
        times = [int(item) for item in STAT.read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    except OSError:
        return 0, 0
    return times[3] + times[4], sum(times)


def seconds_of(work: Callable[[], object]) -> float:
    """The fastest of some rounds, after one that warms up."""
    found = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found[1:])


def measure() -> Conditions:
    """What the machine gives now."""
    busy = busy_cores()
    a = np.ones((SIDE, SIDE), np.float32)
    out = np.empty_like(a)
    source = np.ones(VALUES, np.float32)
    target = np.empty_like(source)
    peak = 2e-9 * SIDE**3 / seconds_of(lambda: np.matmul(a, a, out=out))
    bandwidth = 2e-9 * source.nbytes / seconds_of(lambda: np.copyto(target, source))
    return Conditions(busy, peak, bandwidth)


def check(otherwise: str) -> Conditions:
    """What the machine gives now; UserError, with what to do `otherwise`, if others keep more than MOST cores busy."""
    now = measure()
    if now.busy > MOST:
        raise UserError(
            f"other programs keep {now.busy:.1f} cores busy, and figures beside them mean little: wait until at most "
            f"{MOST:.0f} is, or {otherwise}"
        )
    return now


if __name__ == "__main__":
    errors.run(lambda _: print("GFLOP/s of a product / GB/s of a copy / cores kept busy:", check("measure by hand")))
