"""What every task hands to worker processes: a quick start of each gives the same batches from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from mindvit.data.loader import train_batches
from mindvit.data.workers import Processes
from mindvit.engine.setup import setup
from mindvit.recipe.commandline import parse
from mindvit.tasks import task_of
from mindvit.tasks.metric import METRICS

CONFIGS = Path(__file__).parents[2] / "configs"


def task_name(path: Path) -> str:
    return task_of(parse(["--config", str(path)], "")[0]).name


QUICK_STARTS = {task_name(path): path for path in sorted((CONFIGS / "quickstart").glob("*.yaml"))}


def first_batches(path: Path, workers: int) -> list[Any]:
    """The first one of training and of evaluation."""
    options = ["--config", str(path), "--batch_size", "4", "--device_target", "CPU", "--distribute", "False"]
    recipe = parse(options, "")[0]
    task = task_of(recipe)
    recipe = task.resolve(recipe)
    train, val = task.datasets(recipe, None, print)
    ctx = dataclasses.replace(setup(recipe, train), workers=workers)
    spec = task.spec(ctx).batch
    made = train_batches(train, task.transform(ctx), spec, recipe.data, epoch=0, seed=0, workers=ctx.workers)
    return [next(made), next(iter(task.evaluator(ctx, val).batches()))]


def test_there_is_a_quick_start_of_every_task() -> None:
    assert set(QUICK_STARTS) == set(METRICS)


@pytest.mark.parametrize("path", QUICK_STARTS.values(), ids=QUICK_STARTS)
def test_processes_give_each_task_the_batches_that_threads_give(path: Path) -> None:
    pool = Processes(1)
    ours, theirs = first_batches(path, pool), first_batches(path, 1)
    assert pool.pool is not None
    libraries = Path(f"/proc/{pool.pool.workers[0].process.pid}/maps").read_text()
    pool.close()
    assert "numpy" in libraries
    assert "mindspore" not in libraries
    for one, other in zip(ours, theirs):
        assert all((left == right).all() for left, right in zip(one, other))
