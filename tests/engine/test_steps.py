"""A run's steps: what they are fed with, and when what they say is read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Iterator, Sequence

import pytest
from mindspore import nn

from mindvit.engine.meter import Meter
from mindvit.engine.state import TrainState
from mindvit.engine.step import StepResult
from mindvit.engine.steps import Ahead, StepRunner
from mindvit.engine.stop import StopSignal, TrainingFailed
from mindvit.errors import UserError


def noted(made: list[int], last: int) -> Iterator[int]:
    """1, 2, ... up to `last`, then an image that can't be decoded."""
    for number in range(1, last + 1):
        made.append(number)
        yield number
    raise UserError("a.jpg can't be decoded")


def test_the_next_item_is_made_when_it_is_said() -> None:
    made: list[int] = []
    items = Ahead(noted(made, 3))
    assert (next(items), made) == (1, [1])
    assert items.prepare()
    assert items.prepare()
    assert made == [1, 2]
    assert (next(items), made) == (2, [1, 2])


def test_an_error_comes_in_its_turn() -> None:
    items = Ahead(noted([], 1))
    assert next(items) == 1
    assert not items.prepare()
    with pytest.raises(UserError, match="a.jpg"):
        next(items)


def test_it_ends_where_the_items_end() -> None:
    items = Ahead(iter([1]))
    assert next(items) == 1
    assert not items.prepare()
    assert list(items) == []


class Steps:
    """Stands in for the compiled step: `said` is what happened to it, in order; losses and wishes to stop by step."""

    def __init__(self, losses: Sequence[float] = (), stopping: Sequence[float] = ()):
        self.said: list[str] = []
        self.losses, self.stopping = dict(enumerate(losses, 1)), dict(enumerate(stopping, 1))
        self.scaler, self.frozen = SimpleNamespace(dynamic=False), frozenset[str]()

    def __call__(self, number: int) -> int:
        self.said.append(f"launch {number}")
        return number

    def read(self, number: int) -> StepResult:
        self.said.append(f"read {number}")
        return StepResult(self.losses.get(number, 1.0), 1.0, 1.0, self.stopping.get(number, 0.0))

    def ask_to_stop(self) -> None:
        self.said.append("ask")


def runner_of(steps: Steps, count: int, ranks: int = 1, accum_steps: int = 1) -> StepRunner:
    """A runner of an epoch of so many steps."""
    runner: Any = StepRunner.__new__(StepRunner)
    runner.step, runner.net, runner.meter = steps, nn.Cell(), Meter(1)
    runner.state, runner.accum_steps = TrainState(steps=count, epochs=1, global_batch=1), accum_steps
    recipe = SimpleNamespace(precision=SimpleNamespace(skip_nonfinite=0), checkpoint=SimpleNamespace(ckpt_save_dir="."))
    runner.ctx = SimpleNamespace(device=SimpleNamespace(ranks=ranks), recipe=recipe)
    runner.newest, runner.told_to_stop = 0, False
    runner.inputs = lambda: ((0.1, [number]) for number in range(1, count * accum_steps + 1))
    return runner


def never(_: int) -> bool:
    return False


def test_a_step_is_read_when_the_next_one_is_under_way() -> None:
    steps = Steps(losses=(1, 2, 3))
    runner = runner_of(steps, 3)
    seen = [
        (runner.state.global_step, runner.in_flight, row["loss"]) for row in runner.train_steps(StopSignal(), never)
    ]
    assert steps.said == ["launch 1", "launch 2", "read 1", "launch 3", "read 2", "read 3"]
    assert seen == [(1, True, 1), (2, True, 1.5), (3, False, 2)]
    assert len(runner.meter.steps) == 3


def test_micro_batches_are_not_read() -> None:
    steps = Steps()
    assert len(list(runner_of(steps, 2, accum_steps=2).train_steps(StopSignal(), never))) == 2
    assert steps.said == [*(f"launch {number}" for number in range(1, 5)), "read 2", "read 4"]


def test_nothing_is_in_flight_at_a_checkpoint() -> None:
    steps = Steps()
    runner = runner_of(steps, 4)
    flights = [runner.in_flight for _ in runner.train_steps(StopSignal(), lambda step: step == 2)]
    assert steps.said[:5] == ["launch 1", "launch 2", "read 1", "read 2", "launch 3"]
    assert flights == [True, False, True, False]


def test_a_signal_ends_with_the_step_that_is_under_way() -> None:
    steps, signal = Steps(), StopSignal()
    runner = runner_of(steps, 9)
    for _ in runner.train_steps(signal, never):
        signal.ask(15)
        if not runner.in_flight:
            break
    assert runner.is_stopping(signal)
    assert (steps.said, runner.state.global_step) == (["launch 1", "launch 2", "read 1", "read 2"], 2)


def test_ranks_end_with_the_same_step_whoever_was_asked() -> None:
    ends = []
    for asked in (0, 15):
        signal, steps = StopSignal(), Steps(stopping=(0, 0, 0.5, 0.5, 0.5))
        signal.ask(asked)
        runner = runner_of(steps, 9, ranks=2)
        for _ in runner.train_steps(signal, never):
            if runner.is_stopping(signal) and not runner.in_flight:
                break
        ends.append(runner.state.global_step)
        assert steps.said.count("ask") == (4 if asked else 0)
    assert ends == [4, 4]


def test_a_loss_that_is_not_finite_ends_the_run_at_its_own_step() -> None:
    runner = runner_of(Steps(losses=(1, float("nan"))), 9)
    with pytest.raises(TrainingFailed, match=r"^step 2: loss nan"):
        list(runner.train_steps(StopSignal(), never))
