"""What `mindvit inspect-data` asks of a task: its data before anything is trained."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Iterator, Mapping, Optional, Protocol, Sequence, TypeVar, runtime_checkable

import numpy as np

from mindvit.data.datasets.base import Dataset, some
from mindvit.data.loader import MOST_THREADS, Batch, cores, train_batches
from mindvit.data.objects import Objects
from mindvit.recipe.schema import Recipe
from mindvit.tasks.base import RunContext, Task

CLASSES, FINDINGS = "classes.csv", "findings.csv"
MOST_NAMED = 3  # findings of a kind
Shown = Callable[[Iterable[Any], int], Iterable[Any]]  # items and their number -> the same, told how far it is
T = TypeVar("T")
D = TypeVar("D", bound=Dataset)


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


def look_at_all(
    splits: Mapping[str, D], look: Callable[[D, str, int], T], recipe: Recipe, shown: Shown
) -> list[tuple[str, int, T]]:
    """The split and the number of every sample with what `look` says of it; as many threads look as the recipe says."""
    places = [(name, index) for name, split in splits.items() for index in range(len(split))]
    with ThreadPoolExecutor(recipe.data.num_parallel_workers or min(MOST_THREADS, cores(1))) as pool:
        looked = pool.map(lambda place: look(splits[place[0]], *place), places)
        return [(*place, found) for place, found in zip(places, shown(looked, len(places)))]


def without_lines(rows: Sequence[Mapping[str, Any]], key: str, what: str) -> Iterator[str]:
    """Which classes have none of `what` in a split, by the rows' numbers SPLIT_key."""
    for split in ("train", "val"):
        without = [row["class"] for row in rows if not row[f"{split}_{key}"]]
        if without:
            yield f"without {what} in {split}: {some(without)}"


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
