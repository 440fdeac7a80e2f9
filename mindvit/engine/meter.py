"""Measuring a run: seconds of compiling, of steps, of waiting for data. Nothing is printed here."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import median
from typing import Callable, Iterable, Iterator, TypeVar

T = TypeVar("T")
RECENT = 50


@dataclass
class Meter:
    """Collects the seconds of every step; `images` are those of one step over all devices.

    The first step after compiling is left out of the median: it still fills caches and memory pools.
    """

    images: int
    clock: Callable[[], float] = time.perf_counter
    compile_seconds: float = 0.0
    steps: list[float] = field(default_factory=list)
    total: float = 0.0
    waited: float = 0.0

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches, the seconds of waiting for each noted."""
        iterator = iter(batches)
        while True:
            start = self.clock()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.waited += self.clock() - start
            yield batch

    def step(self, seconds: float) -> None:
        """Note one step's seconds, its wait for data included."""
        self.steps.append(seconds)
        self.total += seconds

    @property
    def ms_per_step(self) -> float:
        """Median, milliseconds; 0 before the first step."""
        steady = self.steps[1:] or self.steps
        return 1000 * median(steady) if steady else 0.0

    @property
    def images_per_second(self) -> float:
        """Over all devices, at the median step."""
        return 1000 * self.images / self.ms_per_step if self.steps else 0.0

    @property
    def recent_images_per_second(self) -> float:
        """The same at the median of the last RECENT steps: cheap enough for every line of a long run."""
        return self.images / median(self.steps[-RECENT:]) if self.steps else 0.0

    @property
    def wait_share(self) -> float:
        """Share of the steps' time that was spent waiting for data, 0..1."""
        return self.waited / self.total if self.steps else 0.0
