"""A clock for tests."""

from __future__ import annotations


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now, self.waits = 100.0, 0

    def __call__(self) -> float:
        return self.now
