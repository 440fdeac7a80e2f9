"""Batches as a task describes them: decoded and augmented by threads, ahead of the step that uses them.

Threads of our own and Pillow: it lets go of Python's lock while it decodes and resizes, gives the papers' pixels, and
makes every image a function of (seed, epoch, position), so that neither the number of threads nor that of ranks
changes a batch.
"""

from __future__ import annotations

import os
from collections import deque, namedtuple
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Optional

import numpy as np

from mindvit.data import native
from mindvit.data.arrays import ArraySpec
from mindvit.data.datasets.base import Dataset, Sample
from mindvit.data.decoding import DecodeError
from mindvit.data.samplers import IMAGE_STREAM, Shard, generator, rank_positions, train_order, val_order
from mindvit.errors import UserError
from mindvit.recipe.options import DataOptions

WHOLE = Shard()
AHEAD = 3  # batches in the making beyond the one in use
MOST_WORKERS = 8
MOST_BAD_IN_A_ROW = 100

Row = tuple[Any, ...]  # one sample's part of every array of a batch
Batch = tuple[np.ndarray, ...]  # a named tuple, with the names of the arrays' specs
Transform = Callable[[Sample, Optional[np.random.Generator]], Row]  # what a task makes of a sample


def default_workers(local_ranks: int) -> int:
    """Threads for one of `local_ranks` processes of this machine: its share of the cores, at most 8."""
    cores = os.cpu_count() or 1
    # A launcher that pins ranks to cores has divided already.
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return max(1, min(MOST_WORKERS, usable, cores // local_ranks))


def steps_per_epoch(dataset: Dataset, data: DataOptions, ranks: int, accum_steps: int = 1) -> int:
    """Steps of an epoch, each of `accum_steps` batches a rank; UserError if the images don't fill one."""
    batches = ranks * accum_steps
    steps = len(dataset) // (data.batch_size * batches)
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
    workers: int = 1,
    first: int = 0,
) -> Iterator[Batch]:
    """One rank's batches of one epoch.

    Args:
        dataset: where samples come from.
        transform: makes a sample the rows of a batch's arrays, with a generator that is the sample's own.
        spec: the arrays of a batch, (B, ...) each.
        data: how they are shuffled, repeated, and what becomes of an image that can't be decoded.
        epoch: counted from 0.
        seed: of the order and of the samples' generators.
        shard: which rank of how many.
        workers: threads.
        first: batches of the epoch that are left out, because they were seen.

    Raises:
        UserError: an image can't be decoded and data.bad_image is 'stop', or too many in a row can't.
    """
    steps_per_epoch(dataset, data, shard.ranks)
    native.loaded()  # built here, and not by every thread
    batch_size = spec[0].shape[0]
    positions = rank_positions(len(dataset), ranks=shard.ranks, rank=shard.rank, batch_size=batch_size)
    order = train_order(
        len(dataset),
        epoch=epoch,
        seed=seed,
        shuffle=data.shuffle,
        repeats=data.aug_repeats,
        ranks=shard.ranks,
        rank=shard.rank,
        batch_size=batch_size,
    )
    read = _decodable if data.bad_image == "skip" else _or_set_bad_image

    def row(place: int) -> Row:
        sample = read(dataset, int(order[place]))
        return transform(sample, generator(IMAGE_STREAM, seed, epoch, int(positions[place])))

    return _batches(row, spec, len(order), workers, first * batch_size)


def eval_batches(
    dataset: Dataset,
    transform: Transform,
    spec: Sequence[ArraySpec],
    *,
    shard: Shard = WHOLE,
    workers: int = 1,
) -> Iterator[Batch]:
    """One rank's batches of an evaluation: over all ranks every sample once, and as many batches on each rank.

    What fills up the last batches are the specs' empty rows. UserError for an image that can't be decoded.
    """
    order = val_order(len(dataset), shard.ranks, shard.rank)
    batch_size = spec[0].shape[0]

    def row(place: int) -> Optional[Row]:
        if place >= len(order):
            return None
        return transform(_decoded(dataset, int(order[place]), ": evaluation counts every image"), None)

    return _batches(row, spec, eval_steps(len(dataset), batch_size, shard.ranks) * batch_size, workers)


def _decoded(dataset: Dataset, index: int, why: str) -> Sample:
    try:
        return dataset[index]
    except DecodeError as error:
        raise UserError(f"{error}; repair or remove it{why}") from None


def _or_set_bad_image(dataset: Dataset, index: int) -> Sample:
    return _decoded(dataset, index, ", or set bad_image: skip")


def _decodable(dataset: Dataset, index: int) -> Sample:
    """The sample at `index`, or the next one that can be decoded; UserError after 100 bad ones."""
    tries = min(len(dataset), MOST_BAD_IN_A_ROW)
    for candidate in range(index, index + tries):
        try:
            return dataset[candidate % len(dataset)]
        except DecodeError as error:
            dataset.skip(error)
            last = error
    raise UserError(
        f"{tries} training images in a row can't be decoded, the last one being {last.name} ({last.reason}); check "
        "the data set"
    ) from None


def _batches(
    row: Callable[[int], Optional[Row]], spec: Sequence[ArraySpec], count: int, workers: int, start: int = 0
) -> Iterator[Batch]:
    """Batches of row(start), ..., row(count - 1), made by threads; `start` and `count` are multiples of the batch."""
    batch_type = namedtuple("Batch", [item.name for item in spec])  # type: ignore[misc]
    batch_size = spec[0].shape[0]
    blank = tuple(item.fill for item in spec)

    def fill(batch: Batch, slot: int, place: int) -> None:
        for array, value in zip(batch, row(place) or blank):
            array[slot] = value

    pool = ThreadPoolExecutor(workers, thread_name_prefix="images")
    pending: deque[tuple[Batch, list[Future[None]]]] = deque()
    try:
        for first in range(start, count, batch_size):
            batch = batch_type(*(np.empty(item.shape, item.dtype) for item in spec))
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
