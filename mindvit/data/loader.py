"""Batches of images, uint8 and HWC: decoded and augmented by threads, ahead of the step that uses them.

Threads of our own and Pillow: it lets go of Python's lock while it decodes and resizes, gives the papers' pixels, and
makes every image a function of (seed, epoch, position), so that neither the number of threads nor that of ranks
changes a batch.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from mindvit.data import native
from mindvit.data.samplers import IMAGE_STREAM, generator, rank_positions, train_order, val_order
from mindvit.data.sources import DecodeError, Source
from mindvit.data.transforms.image import EvalTransform, TrainTransform
from mindvit.errors import UserError
from mindvit.recipe.options import AugmentOptions, DataOptions, Triple

PADDING = -1  # label of the images that fill up evaluation's last batch
AHEAD = 3  # batches in the making beyond the one in use
MOST_WORKERS = 8
MOST_BAD_IN_A_ROW = 100

Sample = tuple[np.ndarray, int]  # uint8 (size, size, 3), label


class Batch(NamedTuple):
    """images uint8 (B, H, W, 3) and labels int32 (B,), where -1 marks padding."""

    images: np.ndarray
    labels: np.ndarray


def default_workers(local_ranks: int) -> int:
    """Threads for one of `local_ranks` processes of this machine: its share of the cores, at most 8."""
    cores = os.cpu_count() or 1
    # A launcher that pins ranks to cores has divided already.
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return max(1, min(MOST_WORKERS, usable, cores // local_ranks))


def steps_per_epoch(source: Source, data: DataOptions, ranks: int, parts: int = 1) -> int:
    """Steps of an epoch, each of `parts` batches a rank; UserError if the images don't fill one."""
    batches = ranks * parts
    steps = len(source) // (data.batch_size * batches)
    if steps == 0:
        accumulated = f" and {parts} batches a step" if parts > 1 else ""
        raise UserError(
            f"batch_size {data.batch_size} on {ranks} rank{'s' * (ranks > 1)}{accumulated} needs "
            f"{data.batch_size * batches} training images "
            f"a step, but there are {len(source)}; the largest batch_size is {len(source) // batches}"
        )
    return steps


def eval_steps(count: int, batch_size: int, ranks: int) -> int:
    """Batches of an evaluation of `count` images, equally many on all ranks."""
    return -(-count // (batch_size * ranks))


def train_batches(
    source: Source,
    data: DataOptions,
    augment: AugmentOptions,
    *,
    size: int,
    interpolation: str,
    mean: Triple,
    epoch: int,
    seed: int,
    ranks: int,
    rank: int,
    workers: int,
    first: int = 0,
) -> Iterator[Batch]:
    """One rank's batches of one epoch from the `first` on, images size x size px; `mean` (0..1) is the colour that
    policies fill with.

    UserError for an image that can't be decoded where data.bad_image is 'stop'.
    """
    steps_per_epoch(source, data, ranks)
    transform = TrainTransform(size, interpolation, mean, augment)
    _ = transform.policy  # an unknown one is refused here, not in a thread
    native.loaded()  # built here, and not by every thread
    positions = rank_positions(len(source), ranks=ranks, rank=rank, batch_size=data.batch_size)
    order = train_order(
        len(source),
        epoch=epoch,
        seed=seed,
        shuffle=data.shuffle,
        repeats=data.aug_repeats,
        ranks=ranks,
        rank=rank,
        batch_size=data.batch_size,
    )

    def sample(place: int) -> Sample:
        index = int(order[place])
        image, index = (
            _decodable(source, index)
            if data.bad_image == "skip"
            else (_decoded(source, index, ", or set bad_image: skip"), index)
        )
        return transform(image, generator(IMAGE_STREAM, seed, epoch, int(positions[place]))), int(source.labels[index])

    return _batches(sample, len(order), data.batch_size, size, workers, first * data.batch_size)


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    size: int,
    crop_pct: float,
    interpolation: str,
    squeeze: bool,
    ranks: int,
    rank: int,
    workers: int,
) -> Iterator[Batch]:
    """One rank's batches of an evaluation: over all ranks every image once; the rest of the last batch repeats an
    image, labelled -1.

    UserError for an image that can't be decoded.
    """
    transform = EvalTransform(size, crop_pct, interpolation, squeeze)
    order = val_order(len(source), ranks, rank)
    last = int(order[-1]) if len(order) else 0

    def sample(place: int) -> Sample:
        index = int(order[place]) if place < len(order) else last
        label = int(source.labels[index]) if place < len(order) else PADDING
        return transform(_decoded(source, index, ": evaluation counts every image")), label

    return _batches(sample, eval_steps(len(source), batch_size, ranks) * batch_size, batch_size, size, workers)


def _decoded(source: Source, index: int, why: str) -> Image.Image:
    try:
        return source.read(index)
    except DecodeError as error:
        raise UserError(f"{error}; repair or remove it{why}") from None


def _decodable(source: Source, index: int) -> tuple[Image.Image, int]:
    """The image at `index`, or the next one that can be decoded, and its index; UserError after 100 bad ones."""
    tries = min(len(source), MOST_BAD_IN_A_ROW)
    for candidate in range(index, index + tries):
        try:
            return source.read(candidate % len(source)), candidate % len(source)
        except DecodeError as error:
            source.skip(error)
            last = error
    raise UserError(
        f"{tries} training images in a row can't be decoded, the last one being {last.name} ({last.reason}); check "
        "the data set"
    ) from None


def _batches(
    sample: Callable[[int], Sample], count: int, batch_size: int, size: int, workers: int, start: int = 0
) -> Iterator[Batch]:
    """Batches of sample(start), ..., sample(count - 1), made by threads; `start` and `count` are multiples of
    `batch_size`.
    """

    def fill(batch: Batch, slot: int, place: int) -> None:
        batch.images[slot], batch.labels[slot] = sample(place)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="images")
    pending: deque[tuple[Batch, list[Future[None]]]] = deque()
    try:
        for first in range(start, count, batch_size):
            batch = Batch(np.empty((batch_size, size, size, 3), np.uint8), np.empty(batch_size, np.int32))
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
