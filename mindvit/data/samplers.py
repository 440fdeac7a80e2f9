"""Which image is seen when: pure functions of the epoch, the seed and the ranks.

A global order g of an epoch comes first, and ranks share it step by step: with R ranks and B images a rank, step s
uses g[s*B*R : (s+1)*B*R], of which rank r takes every R-th from r on. So a step sees the same images for any R with
the same B*R.
"""

from __future__ import annotations

from dataclasses import dataclass

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


def rank_positions(count: int, *, ranks: int, rank: int, batch_size: int) -> np.ndarray:
    """Positions in the global order that one rank takes, step after step; whole steps only, equally many on all
    ranks.
    """
    steps = count // (batch_size * ranks)
    return np.arange(steps * batch_size * ranks).reshape(steps, batch_size, ranks)[:, :, rank].reshape(-1)


def train_order(
    count: int, *, epoch: int, seed: int, shuffle: bool, repeats: int, ranks: int, rank: int, batch_size: int
) -> np.ndarray:
    """Indices of the images that one rank sees in one epoch, (steps * batch_size,)."""
    return global_order(count, epoch=epoch, seed=seed, shuffle=shuffle, repeats=repeats)[
        rank_positions(count, ranks=ranks, rank=rank, batch_size=batch_size)
    ]


def val_order(count: int, ranks: int, rank: int) -> np.ndarray:
    """Indices that one rank evaluates: over all ranks, every image exactly once."""
    return np.arange(rank, count, ranks)
