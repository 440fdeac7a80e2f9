"""What a batch is made of: names, shapes and types of its arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ArraySpec:
    """An array that goes into a compiled step. fill: what stands in it where nothing is sampled or read."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    fill: float = 0

    def empty(self) -> np.ndarray:
        """An array of this shape and type, full of `fill`."""
        return np.full(self.shape, self.fill, self.dtype)
