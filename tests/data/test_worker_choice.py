"""Who makes the batches: a rank's share of the cores, threads or processes."""

from __future__ import annotations

from typing import Any

import pytest

from mindvit.data import loader
from mindvit.data.loader import choose_workers, cores, default_workers
from mindvit.data.workers import Processes
from mindvit.recipe.options import DataOptions


def affinity(monkeypatch: pytest.MonkeyPatch, own: int, launcher: int) -> None:
    """So many cores for this process, and for the one that started it."""
    monkeypatch.setattr(loader.os, "sched_getaffinity", lambda process: set(range(launcher if process else own)))


def test_a_rank_s_cores_are_its_share_of_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    affinity(monkeypatch, own=96, launcher=96)
    assert [cores(ranks) for ranks in (1, 8, 24, 200)] == [96, 12, 4, 1]


def test_a_rank_that_is_pinned_has_its_share_already(monkeypatch: pytest.MonkeyPatch) -> None:
    affinity(monkeypatch, own=24, launcher=192)
    assert cores(8) == 24


def test_ranks_that_are_pinned_together_share(monkeypatch: pytest.MonkeyPatch) -> None:
    affinity(monkeypatch, own=48, launcher=192)
    assert cores(8) == 24


def test_threads_are_no_more_than_one_lock_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    affinity(monkeypatch, own=96, launcher=96)
    assert [default_workers(ranks) for ranks in (1, 8, 24, 200)] == [8, 8, 4, 1]


def test_processes_where_they_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    affinity(monkeypatch, own=32, launcher=32)

    def chosen(ranks: int, target: str, **data: Any) -> tuple[int, bool]:
        workers = choose_workers(DataOptions(**data), ranks, target)
        return workers, isinstance(workers, Processes)

    assert chosen(8, "Ascend") == chosen(8, "GPU") == (4, True)
    assert chosen(16, "Ascend") == (2, False)
    assert chosen(1, "CPU") == (8, False)
    assert chosen(1, "CPU", python_multiprocessing=True) == (32, True)
    assert chosen(8, "Ascend", python_multiprocessing=False) == (4, False)
    assert chosen(8, "Ascend", num_parallel_workers=6) == (6, True)
    assert chosen(8, "Ascend", num_parallel_workers=16, python_multiprocessing=False) == (16, False)
