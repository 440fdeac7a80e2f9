"""Orders: shuffling, repeats and the shares of the ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mindvit.data.samplers import balanced_order, generator, train_order, val_order

KEYS: dict[str, Any] = {"epoch": 3, "seed": 42, "shuffle": True, "repeats": 0}


def steps(count: int, ranks: int, global_batch: int, **keys: Any) -> list[tuple[int, ...]]:
    """What all ranks together see, step by step, as sorted tuples (a multiset)."""
    batch = global_batch // ranks
    shares = [
        train_order(count, ranks=ranks, rank=rank, batch_size=batch, **{**KEYS, **keys}).reshape(-1, batch)
        for rank in range(ranks)
    ]
    return [tuple(sorted(np.concatenate(step))) for step in zip(*shares)]


@pytest.mark.parametrize("repeats", [0, 3])
def test_a_step_sees_the_same_images_for_any_number_of_ranks(repeats: int) -> None:
    alone = steps(101, 1, 12, repeats=repeats)
    assert len(alone) == 8
    for ranks in (2, 3, 4):
        assert steps(101, ranks, 12, repeats=repeats) == alone


def test_an_epoch_sees_each_image_once_but_for_the_dropped_rest() -> None:
    seen = np.concatenate([train_order(50, ranks=3, rank=rank, batch_size=4, **KEYS) for rank in range(3)])
    assert len(seen) == 48 == len(set(seen)) and set(seen) <= set(range(50))


def test_shuffling_is_a_function_of_seed_and_epoch() -> None:
    def order(**keys: Any) -> list[int]:
        return train_order(40, ranks=1, rank=0, batch_size=4, **{**KEYS, **keys}).tolist()

    assert order() == order()
    assert order() != order(epoch=4) and order() != order(seed=43)
    assert order(epoch=1, seed=0) != order(epoch=0, seed=1)
    assert order(shuffle=False) == list(range(40)) == order(shuffle=False, epoch=9)


def test_order_is_the_same_on_every_machine() -> None:
    assert train_order(8, epoch=0, seed=42, shuffle=True, repeats=0, ranks=1, rank=0, batch_size=8).tolist() == [
        1,
        6,
        5,
        4,
        2,
        0,
        3,
        7,
    ]


def test_streams_differ_though_numpy_ignores_trailing_zeros() -> None:
    assert generator(1, 7, 0).random() != generator(2, 7, 0, 0).random()


def test_repeated_augmentation_copies_go_to_different_ranks() -> None:
    shares = [train_order(96, ranks=4, rank=rank, batch_size=8, **{**KEYS, "repeats": 3}) for rank in range(4)]
    assert {len(share) for share in shares} == {24}
    counts = np.bincount(np.concatenate(shares), minlength=96)
    assert sorted(set(counts)) == [0, 3] and (counts == 3).sum() == 32
    for share in shares:
        assert len(set(share)) == len(share)


def test_repeated_augmentation_is_the_reference_sampler() -> None:
    """DeiT's sampler: repeat each shuffled index, rank r takes r::ranks, cut to floor(N // 256 * 256 / ranks)."""
    count, ranks, batch = 1100, 4, 64
    repeated = np.repeat(train_order(count, ranks=1, rank=0, batch_size=1, **KEYS), 3)
    for rank in range(ranks):
        reference = repeated[rank::ranks][: count // 256 * 256 // ranks]
        assert (
            train_order(count, ranks=ranks, rank=rank, batch_size=batch, **{**KEYS, "repeats": 3}).tolist()
            == reference.tolist()
        )


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_validation_sees_every_image_once(ranks: int) -> None:
    assert sorted(np.concatenate([val_order(5, ranks, rank) for rank in range(ranks)])) == list(range(5))


def test_balanced_epochs_see_all_classes_equally_often() -> None:
    """90, 9 and 1 images: 33 or 34 of each; images of a class come equally often, but for the last round."""
    labels = np.repeat([0, 1, 2], [90, 9, 1])
    order = balanced_order(labels, epoch=3, seed=1)
    assert len(order) == 100
    assert sorted(np.bincount(labels[order])) == [33, 33, 34]
    counts = np.bincount(order, minlength=100)
    assert counts[:90].max() == 1
    assert set(counts[90:99].tolist()) == {3, 4}
    assert (order == balanced_order(labels, epoch=3, seed=1)).all()
    assert (order != balanced_order(labels, epoch=4, seed=1)).any()


def test_ranks_share_a_balanced_epoch() -> None:
    labels = np.repeat([0, 1], [30, 10])
    how: dict[str, Any] = {"epoch": 0, "seed": 0, "shuffle": True, "repeats": 0, "batch_size": 5, "labels": labels}
    parts = [train_order(40, ranks=2, rank=rank, **how) for rank in range(2)]
    whole = balanced_order(labels, epoch=0, seed=0)
    assert (np.stack(parts, 1).ravel() == whole).all()
