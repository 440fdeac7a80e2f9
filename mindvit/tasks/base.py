"""What the training loop knows of a task: its batches, its objective and its metrics, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ArraySpec:
    """An array that goes into a compiled step. fill: what stands in it where nothing is sampled or made up."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    fill: float = 0

    def empty(self) -> np.ndarray:
        """An array of this shape and type, full of `fill`."""
        return np.full(self.shape, self.fill, self.dtype)


@dataclass(frozen=True)
class BatchSpec:
    """The inputs of a training step in their order: what the loader reads (`batch`), then what is sampled for it
    (`draws`).

    Buffers, the inputs that a step is compiled with, the compile cache's key and a benchmark's batches follow from it.
    """

    batch: tuple[ArraySpec, ...]
    draws: tuple[ArraySpec, ...]

    @property
    def batch_size(self) -> int:
        """Rows of a batch: the first axis of what the loader reads."""
        return self.batch[0].shape[0]

    def inputs(self) -> tuple[np.ndarray, ...]:
        """Arrays with the right shapes and types, to compile with."""
        return tuple(item.empty() for item in (*self.batch, *self.draws))


def drop_path_spec(drop_paths: int, batch: int) -> ArraySpec:
    """Uniform numbers in 0..1 that stochastic depth compares with its rates: a row a cell, at least one."""
    return ArraySpec("drop_path_rand", (max(drop_paths, 1), batch), "float32")
