"""What `mindvit inspect-data` asks of a task: its data before anything is trained."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Iterator, Mapping, Optional, Protocol, Sequence, runtime_checkable

import numpy as np

from mindvit.data.loader import Batch, train_batches
from mindvit.data.objects import Objects
from mindvit.recipe.schema import Recipe
from mindvit.tasks.base import RunContext, Task

Shown = Callable[[Iterable[Any], int], Iterable[Any]]  # items and their number -> the same, told how far it is


@dataclass(frozen=True)
class Inspection:
    """What was found. lines: for the user; tables: rows by the name of a CSV file; train: the training split, for the
    preview.
    """

    lines: Sequence[str]
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    train: Any


@dataclass(frozen=True)
class PreviewImage:
    """An image of a training batch as the network gets it: uint8 (H, W, 3), and what it is to learn of it.

    objects: to be drawn over it, and each one's name.
    """

    pixels: np.ndarray
    target: str
    objects: Optional[Objects] = None
    names: Sequence[str] = ()


@runtime_checkable
class Inspects(Protocol):
    """A task that can look at its data."""

    def inspect(self, recipe: Recipe, shown: Shown) -> Inspection:
        """Read every image of training and validation."""

    def preview(self, ctx: RunContext, train: Any, batches: int) -> Iterable[PreviewImage]:
        """The images of the first batches of a run, augmented."""


def first_batches(task: Task, ctx: RunContext, train: Any, count: int) -> Iterator[Batch]:
    """The first batches of a run. UserError if the images don't fill one."""
    recipe = ctx.recipe
    order = train_batches(
        train,
        task.transform(ctx),
        task.spec(ctx).batch,
        recipe.data,
        epoch=0,
        seed=recipe.runtime.seed,
        workers=1,
    )
    return itertools.islice(order, count)
