"""Which image is seen when: pure functions of the epoch, the seed and the ranks.

A global order g of an epoch comes first, and ranks share it step by step: with R ranks and B images a rank, step s
uses g[s*B*R : (s+1)*B*R], of which rank r takes every R-th from r on. So a step sees the same images for any R with
the same B*R.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np

# First word of every seed: NumPy's SeedSequence ignores trailing zeros, so (seed, epoch) and (seed, epoch, 0) would be
# the same stream.
ORDER_STREAM, IMAGE_STREAM = 1, 2


@dataclass(frozen=True)
class Shard:
    """Which part of the data a process takes: that of `rank` among `ranks`."""

    ranks: int = 1
    rank: int = 0


def generator(*words: int) -> np.random.Generator:
    """A random generator that is a function of `words`, on every machine."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def global_order(count: int, *, epoch: int, seed: int, shuffle: bool, repeats: int) -> np.ndarray:
    """Indices (count,) of an epoch; with `repeats` > 1 each comes that many times in a row and an epoch sees
    count/repeats different images.

    The copies are neighbours and neighbours go to different ranks, as in the repeated-augmentation sampler of DeiT
    (arXiv:2012.12877, section 6). That one's epoch is cut to a multiple of 256 images before it is cut to whole
    steps; here it is only cut to whole steps, which is the same where the global batch is a multiple of 256.
    """
    order = generator(ORDER_STREAM, seed, epoch).permutation(count) if shuffle else np.arange(count)
    if repeats > 1:
        order = np.repeat(order[: -(-count // repeats)], repeats)[:count]
    return order


def balanced_order(labels: np.ndarray, *, epoch: int, seed: int) -> np.ndarray:
    """Indices (count,) of an epoch that sees all classes equally often, but for a remainder that is drawn.

    A class's images come in random order, all of them before one comes again.
    """
    rng = generator(ORDER_STREAM, seed, epoch)
    classes = rng.permutation(np.unique(labels))
    shares = np.full(len(classes), len(labels) // len(classes))
    shares[: len(labels) % len(classes)] += 1
    chosen = []
    for number, share in zip(classes, shares):
        images = np.flatnonzero(labels == number)
        rounds = [rng.permutation(images) for _ in range(-(-int(share) // len(images)))]
        chosen += [order[: share - place * len(images)] for place, order in enumerate(rounds)]
    return rng.permutation(np.concatenate(chosen))


def grouped_order(
    order: np.ndarray, groups: np.ndarray, *, batch: int, rng: Optional[np.random.Generator]
) -> np.ndarray:
    """The images of `order` so that every `batch` of them in a row are of one group; groups: of each image.

    A group's images keep their order, and its first ones come again where its last batch lacks some, as in
    mmdetection's GroupSampler. rng: of the batches' order; None: one group after another.
    """
    batches = []
    for group in np.unique(groups[order]):
        own = order[groups[order] == group]
        batches.append(np.resize(own, (-(-len(own) // batch), batch)))
    found = np.concatenate(batches)
    return (found if rng is None else rng.permutation(found)).ravel()


def epoch_images(count: int, groups: Optional[np.ndarray], batch: int) -> int:
    """Images of an epoch, those counted that come twice, where batches of all ranks have so many: see grouped_order."""
    if groups is None:
        return count
    return int((-(-np.unique(groups, return_counts=True)[1] // batch)).sum()) * batch


def rank_positions(count: int, *, ranks: int, rank: int, batch_size: int) -> np.ndarray:
    """Positions in the global order that one rank takes, step after step; whole steps only, equally many on all
    ranks.
    """
    steps = count // (batch_size * ranks)
    return np.arange(steps * batch_size * ranks).reshape(steps, batch_size, ranks)[:, :, rank].reshape(-1)


def train_order(
    count: int,
    *,
    epoch: int,
    seed: int,
    shuffle: bool,
    repeats: int,
    ranks: int,
    rank: int,
    batch_size: int,
    labels: Optional[np.ndarray] = None,
    groups: Optional[np.ndarray] = None,
) -> np.ndarray:
    """Indices of the images that one rank sees in one epoch, (steps * batch_size,); labels: where classes are to be
    seen equally often; groups: where the images of a batch are to be of one group.
    """
    order = global_order(count, epoch=epoch, seed=seed, shuffle=shuffle, repeats=repeats)
    if labels is not None:
        order = balanced_order(labels, epoch=epoch, seed=seed)
        order = np.repeat(order[: -(-count // repeats)], repeats)[:count] if repeats > 1 else order
    if groups is not None:
        rng = generator(ORDER_STREAM, seed, epoch, 1) if shuffle else None
        order = grouped_order(order, groups, batch=ranks * batch_size, rng=rng)
    return order[rank_positions(len(order), ranks=ranks, rank=rank, batch_size=batch_size)]


def val_order(count: int, ranks: int, rank: int) -> np.ndarray:
    """Indices that one rank evaluates: over all ranks, every image exactly once."""
    return np.arange(rank, count, ranks)
