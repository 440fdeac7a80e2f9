"""The arithmetic of a benchmark: seconds of steps into milliseconds, images a second, FLOP/s and shares. Nothing is
built or printed here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Any, Callable, Sequence

import numpy as np

WORK = {
    "forward": 2,
    "train": 6,
}  # FLOP for each multiply-add of the forward graph: the gradient costs twice the forward


@dataclass(frozen=True)
class Timing:
    """`seconds` of single steps, each waited for; `whole` seconds for as many steps with a wait at the end only;
    `images` of one step on this rank.
    """

    seconds: Sequence[float]
    whole: float
    images: int

    @property
    def ms(self) -> float:
        """Median step, milliseconds."""
        return 1000 * median(self.seconds)

    @property
    def p90(self) -> float:
        """The step that nine of ten don't exceed, interpolated, milliseconds."""
        return 1000 * float(np.percentile(self.seconds, 90))

    @property
    def rate(self) -> float:
        """Images a second at the median step."""
        return 1000 * self.images / self.ms

    @property
    def sustained(self) -> float:
        """Images a second over the whole time between the two waits."""
        return self.images * len(self.seconds) / self.whole


def flops(multiply_adds: float, images_per_second: float, mode: str) -> float:
    """FLOP a second of `mode` (forward or train), from the multiply-adds of one image's forward."""
    return WORK[mode] * multiply_adds * images_per_second


def time_steps(
    step: Callable[[], Any],
    wait: Callable[[Any], Any],
    *,
    images: int,
    warmup: int,
    steps: int,
    queued: bool,
    clock: Callable[[], float] = time.perf_counter,
) -> Timing:
    """Time `steps` calls of step() after `warmup` ones; wait(output) blocks until the device has computed it.

    queued: calls return before the device is done, so that waiting for each would make it idle. Then the whole is taken
    with one wait at its end, and single steps from as many calls more, each waited for. Otherwise one pass gives both.
    """
    for _ in range(warmup):
        wait(step())
    whole = 0.0
    if queued:
        start, output = clock(), None
        for _ in range(steps):
            output = step()
        wait(output)
        whole = clock() - start
    marks = [clock()]
    for _ in range(steps):
        wait(step())
        marks.append(clock())
    seconds = [after - before for before, after in zip(marks, marks[1:])]
    return Timing(seconds, whole if queued else marks[-1] - marks[0], images)


def fastest(call: Callable[[], Any], *, rounds: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of the fastest of `rounds` calls, after one that isn't counted."""
    call()
    found = []
    for _ in range(rounds):
        start = clock()
        call()
        found.append(clock() - start)
    return min(found)
