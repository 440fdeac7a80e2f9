"""Batches as a task describes them: decoded and augmented by threads or processes, ahead of the step that uses them.

Workers of our own and Pillow: it lets go of Python's lock while it decodes and resizes, gives the papers' pixels, and
every image is a function of (seed, epoch, position), so that neither the number and kind of workers nor that of ranks
changes a batch. Nothing here imports MindSpore: worker processes import it.
"""

from __future__ import annotations

import os
from collections import deque, namedtuple
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from mindvit.data import native
from mindvit.data.arrays import ArraySpec
from mindvit.data.datasets.base import Dataset, LabelledDataset, Sample
from mindvit.data.decoding import DecodeError
from mindvit.data.samplers import (
    IMAGE_STREAM,
    Shard,
    epoch_images,
    generator,
    rank_positions,
    train_order,
    val_order,
)
from mindvit.data.workers import AHEAD, Processes, Words, Workers
from mindvit.errors import UserError
from mindvit.recipe.options import DataOptions

WHOLE = Shard()
MOST_THREADS = 8  # more of them wait for Python's lock, which an image needs for a third of its time
WORTH_PROCESSES = 4  # cores of a rank: fewer are kept busy by threads
MOST_BAD_IN_A_ROW = 100
BLANK = -1  # the index of what fills up evaluation's last batch

Row = tuple[Any, ...]  # one sample's part of every array of a batch
Batch = tuple[np.ndarray, ...]  # a named tuple, with the names of the arrays' specs
Transform = Callable[[Sample, Optional[np.random.Generator]], Row]  # what a task makes of a sample


@dataclass(frozen=True)
class Reader:
    """From an index of a data set to the rows of a batch: what worker processes are sent.

    bad_image: as the recipe says; None: evaluation, which needs every image.
    """

    dataset: Dataset
    transform: Transform
    bad_image: Optional[str] = None

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Reader)
            and self.dataset is other.dataset
            and (self.transform, self.bad_image) == (other.transform, other.bad_image)
        )

    def group(self, index: int) -> int:
        """The group of the batches that an image belongs to."""
        groups = self.dataset.groups
        return 0 if groups is None or index == BLANK else int(groups[index])

    def row(self, index: int, words: Optional[Words], skip: Callable[[DecodeError], None]) -> Optional[Row]:
        """What stands in a batch for the image at `index`, None for BLANK; words: of its generator, if it has one.

        UserError if it can't be decoded, unless another one may take its place, of which `skip` is told.
        """
        if index == BLANK:
            return None
        if self.bad_image == "skip":
            sample = _decodable(self.dataset, index, skip)
        else:
            why = ": evaluation counts every image" if self.bad_image is None else ", or set bad_image: skip"
            sample = _decoded(self.dataset, index, why)
        return self.transform(sample, None if words is None else generator(IMAGE_STREAM, *words))


def cores(local_ranks: int) -> int:
    """Those that one of `local_ranks` processes of this machine has for itself, at least 1."""
    if not hasattr(os, "sched_getaffinity"):
        return max(1, (os.cpu_count() or 1) // local_ranks)
    usable = len(os.sched_getaffinity(0))
    try:  # a launcher that pins ranks to cores has divided already: it may use more itself
        whole = max(usable, len(os.sched_getaffinity(os.getppid())))
    except OSError:
        whole = usable
    return max(1, min(usable, whole // local_ranks))


def default_workers(local_ranks: int) -> int:
    """Threads for one of `local_ranks` processes of this machine: one a core, at most 8."""
    return min(MOST_THREADS, cores(local_ranks))


def choose_workers(data: DataOptions, local_ranks: int, target: str) -> Workers:
    """What makes the batches of one of `local_ranks` processes whose network runs on `target`.

    Processes where threads would keep an NPU or GPU waiting: they can't keep more than three cores busy. A CPU's
    network takes tens of images a second, which one thread makes.
    """
    share, wanted = cores(local_ranks), data.python_multiprocessing
    if wanted is True or (wanted == "auto" and target != "CPU" and share >= WORTH_PROCESSES):
        return Processes(data.num_parallel_workers or share, required=wanted is True)
    return data.num_parallel_workers or default_workers(local_ranks)


def steps_per_epoch(dataset: Dataset, data: DataOptions, ranks: int, accum_steps: int = 1) -> int:
    """Steps of an epoch, each of `accum_steps` batches a rank; UserError if the images don't fill one."""
    batches = ranks * accum_steps
    batch = data.batch_size * ranks
    steps = epoch_images(len(dataset), dataset.groups, batch) // batch // accum_steps
    if steps == 0:
        accumulated = f" and {accum_steps} batches a step" if accum_steps > 1 else ""
        raise UserError(
            f"batch_size {data.batch_size} on {ranks} rank{'s' * (ranks > 1)}{accumulated} needs "
            f"{data.batch_size * batches} training images "
            f"a step, but there are {len(dataset)}; the largest batch_size is {len(dataset) // batches}"
        )
    return steps


def eval_steps(count: int, batch_size: int, ranks: int) -> int:
    """Batches of an evaluation of `count` images, equally many on all ranks."""
    return -(-count // (batch_size * ranks))


def train_batches(
    dataset: Dataset,
    transform: Transform,
    spec: Sequence[ArraySpec],
    data: DataOptions,
    *,
    epoch: int,
    seed: int,
    shard: Shard = WHOLE,
    workers: Workers = 1,
    first: int = 0,
) -> Iterator[Batch]:
    """One rank's batches of one epoch.

    Args:
        dataset: where samples come from.
        transform: makes a sample the rows of a batch's arrays, with a generator that is the sample's own.
        spec: the arrays of a batch, (B, ...) each, in the shapes of its images' group.
        data: how they are shuffled, repeated, and what becomes of an image that can't be decoded.
        epoch: counted from 0.
        seed: of the order and of the samples' generators.
        shard: which rank of how many.
        workers: threads, or `Processes`.
        first: batches of the epoch that are left out, because they were seen.

    Raises:
        UserError: an image can't be decoded and data.bad_image is 'stop', or too many in a row can't.
    """
    steps_per_epoch(dataset, data, shard.ranks)
    native.loaded()  # built here, and not by every thread
    batch_size = spec[0].shape[0]
    count = epoch_images(len(dataset), dataset.groups, batch_size * shard.ranks)
    positions = rank_positions(count, ranks=shard.ranks, rank=shard.rank, batch_size=batch_size)
    order = train_order(
        len(dataset),
        epoch=epoch,
        seed=seed,
        shuffle=data.shuffle,
        repeats=data.aug_repeats,
        ranks=shard.ranks,
        rank=shard.rank,
        batch_size=batch_size,
        labels=labels_of(dataset) if data.balanced else None,
        groups=dataset.groups,
    )
    start = first * batch_size
    reader, words = Reader(dataset, transform, data.bad_image), (seed, epoch)
    return _batches(reader, spec, order[start:], (words, positions[start:]), workers)


def labels_of(dataset: Dataset) -> np.ndarray:
    """The class of every image. UserError for a data set whose images have none."""
    if not isinstance(dataset, LabelledDataset):
        raise UserError("balanced: only a classifier's images have one class each, by which they can be drawn")
    return dataset.labels


def eval_batches(
    dataset: Dataset,
    transform: Transform,
    spec: Sequence[ArraySpec],
    *,
    shard: Shard = WHOLE,
    workers: Workers = 1,
) -> Iterator[Batch]:
    """One rank's batches of an evaluation: over all ranks every sample once, and as many batches on each rank.

    What fills up the last batches are the specs' empty rows. UserError for an image that can't be decoded.
    """
    native.loaded()  # as for training
    order = val_order(len(dataset), shard.ranks, shard.rank)
    batch_size = spec[0].shape[0]
    whole = np.full(eval_steps(len(dataset), batch_size, shard.ranks) * batch_size, BLANK)
    whole[: len(order)] = order
    return _batches(Reader(dataset, transform), spec, whole, None, workers)


def one_by_one(dataset: Dataset, order: Iterable[int], workers: int) -> Iterator[Sample]:
    """The samples of an evaluation in this order, read ahead by threads.

    UserError for an image that can't be decoded.
    """
    workers = min(workers, MOST_THREADS)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="images")
    pending: deque[Future[Sample]] = deque()
    try:
        for index in order:
            pending.append(pool.submit(_decoded, dataset, int(index), ": evaluation counts every image"))
            if len(pending) > AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:  # also when the caller leaves early, or at an error
        pool.shutdown(cancel_futures=True)


def _decoded(dataset: Dataset, index: int, why: str) -> Sample:
    try:
        return dataset[index]
    except DecodeError as error:
        raise UserError(f"{error}; repair or remove it{why}") from None


def _decodable(dataset: Dataset, index: int, skip: Callable[[DecodeError], None]) -> Sample:
    """The sample at `index`, or the next one of its group that can be decoded; UserError after 100 bad ones."""
    others = np.arange(index, index + len(dataset)) % len(dataset)
    if dataset.groups is not None:
        others = others[dataset.groups[others] == dataset.groups[index]]
    tries = min(len(others), MOST_BAD_IN_A_ROW)
    for candidate in others[:tries].tolist():
        try:
            return dataset[candidate]
        except DecodeError as error:
            skip(error)
            last = error
    raise UserError(
        f"{tries} training images in a row can't be decoded, the last one being {last.name} ({last.reason}); check "
        "the data set"
    ) from None


def _batches(
    reader: Reader,
    spec: Sequence[ArraySpec],
    order: np.ndarray,
    words: Optional[tuple[Words, np.ndarray]],
    workers: Workers,
) -> Iterator[Batch]:
    """Batches of the images at `order`, whole ones; words: of their generators, the last one of each by itself."""
    batch_type = namedtuple("Batch", [item.name for item in spec])  # type: ignore[misc]
    feed = workers.feed(reader, spec, order, words) if isinstance(workers, Processes) else None
    if feed is not None:
        yield from (batch_type(*arrays) for arrays in feed.batches(reader.dataset.skip))
        return
    batch_size, blank = spec[0].shape[0], tuple(item.fill for item in spec)

    def fill(batch: Batch, slot: int, place: int) -> None:
        own = words and (*words[0], int(words[1][place]))
        for array, value in zip(batch, reader.row(int(order[place]), own, reader.dataset.skip) or blank):
            array[slot] = value

    threads = min(workers, MOST_THREADS) if isinstance(workers, Processes) else workers
    pool = ThreadPoolExecutor(threads, thread_name_prefix="images")
    pending: deque[tuple[Batch, list[Future[None]]]] = deque()
    try:
        for first in range(0, len(order), batch_size):
            group = reader.group(int(order[first]))
            batch = batch_type(*(np.empty(item.of_group(group).shape, item.dtype) for item in spec))
            pending.append((batch, [pool.submit(fill, batch, slot, first + slot) for slot in range(batch_size)]))
            if len(pending) > AHEAD:
                yield _finished(*pending.popleft())
        while pending:
            yield _finished(*pending.popleft())
    finally:  # also when the caller leaves early, or at an error
        pool.shutdown(cancel_futures=True)


def _finished(batch: Batch, slots: list[Future[None]]) -> Batch:
    for slot in slots:
        slot.result()
    return batch
