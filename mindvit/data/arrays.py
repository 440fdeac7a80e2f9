"""What a batch is made of: names, shapes and types of its arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class ArraySpec:
    """An array that goes into a compiled step.

    fill: what stands in it where nothing is sampled or read; others: its shapes in batches of other groups of images,
    see Dataset.groups.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    fill: float = 0
    others: tuple[tuple[int, ...], ...] = ()

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """One for each group; a single one for all."""
        return (self.shape, *self.others)

    def of_group(self, group: int) -> ArraySpec:
        """The array in batches of a group."""
        return replace(self, shape=self.shapes[group], others=()) if self.others else self

    def empty(self) -> np.ndarray:
        """An array of this shape and type, full of `fill`."""
        return np.full(self.shape, self.fill, self.dtype)
