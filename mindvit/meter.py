"""Measuring a run: seconds of compiling, of steps, of waiting for data. Nothing is printed here."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import median
from typing import Callable, Iterable, Iterator, TypeVar

T = TypeVar("T")


@dataclass
class Meter:
    """Collects the seconds of every step; `pictures` are those of one step over all cards.

    The first step after compiling is left out of the figures: it still fills caches and memory pools.
    """

    pictures: int
    clock: Callable[[], float] = time.perf_counter
    compile_seconds: float = 0.0
    steps: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches, the seconds of waiting for each noted."""
        iterator = iter(batches)
        while True:
            start = self.clock()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.waits.append(self.clock() - start)
            yield batch

    def step(self, seconds: float) -> None:
        """Note one step's seconds, its wait for data included."""
        self.steps.append(seconds)

    @property
    def ms_per_step(self) -> float:
        """Median, milliseconds; 0 before the first step."""
        steady = self.steps[1:] or self.steps
        return 1000 * median(steady) if steady else 0.0

    @property
    def pictures_per_second(self) -> float:
        """Over all cards, at the median step."""
        return 1000 * self.pictures / self.ms_per_step if self.steps else 0.0

    @property
    def wait_share(self) -> float:
        """Share of the steps' time that was spent waiting for data, 0..1."""
        return sum(self.waits) / sum(self.steps) if self.steps else 0.0
