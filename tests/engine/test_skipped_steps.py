"""Steps that are skipped, by a branch and without one: what they leave is the same, bit for bit."""

from __future__ import annotations

import functools
from typing import Any, Optional

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from steps import neutral_inputs, train_step

from mindvit.engine.step import StepResult, TrainStep
from mindvit.layers.norm import BatchNorm
from mindvit.runtime import platform
from mindvit.runtime.platform import Platform

SIDE = 8
OPTIONS: dict[str, dict[str, Any]] = {
    "average": {"skip_nonfinite": True, "ema_decay": 0.9},
    "loss scale": {"loss_scale": 1024.0, "dynamic_scale": True, "accum_steps": 2, "clip_norm": 0.5},
}


class Normalized(nn.Cell):
    """A network that compiles in a second and has running statistics."""

    def __init__(self) -> None:
        super().__init__()
        ms.set_seed(1)
        self.norm, self.head = BatchNorm(3), nn.Dense(3 * SIDE * SIDE, 7)

    def construct(self, x: Tensor, _: Optional[Tensor] = None) -> Tensor:
        x = self.norm(x).reshape(x.shape[0], -1)
        return self.head(ops.tanh(x))


def batch(number: int, finite: bool) -> tuple[Tensor, ...]:
    """The batch of a step; without a loss where it is not finite."""
    random = np.random.default_rng(number)
    inputs = [*neutral_inputs(4, SIDE)[:-1], Tensor(1e-2, ms.float32)]
    inputs[0] = Tensor(random.integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8))
    inputs[1], inputs[2] = Tensor(random.integers(0, 7, 4).astype(np.int32)), Tensor(0.7, ms.float32)
    if not finite:
        inputs[3] = Tensor(np.full(inputs[3].shape, np.nan, np.float32))  # mixes with it
    return tuple(inputs)


def state(step: TrainStep, net: nn.Cell) -> dict[str, np.ndarray]:
    """Everything that a step may change and a later one reads."""
    found = {item.name: item.asnumpy().copy() for item in (*net.get_parameters(), *step.state())}
    settled = [item.asnumpy().ravel() for item in step.update.last_finite_stats]
    return {**found, "settled": np.concatenate(settled)}


@functools.cache
def steps(branches: bool, name: str) -> list[tuple[StepResult, dict[str, np.ndarray]]]:
    """What five steps with some of OPTIONS say and leave, the first and the fourth of which are not finite."""
    with platform.use(Platform(costly_launches=not branches)):
        net = Normalized().set_train(True)
        step = train_step(net, mix=True, **OPTIONS[name])
    found = []
    for number, finite in enumerate((False, True, True, False, True)):
        for _ in range(step.accum_steps):
            result = step(*batch(number, finite))
        found.append((step.read(result), state(step, net)))
    return found


@pytest.mark.parametrize("name", OPTIONS)
def test_a_step_without_a_branch_leaves_the_same(name: str) -> None:
    ours, theirs = (steps(branches, name) for branches in (False, True))
    for (mine, left), (yours, expected) in zip(ours, theirs):
        np.testing.assert_array_equal(mine, yours)
        assert list(left) == list(expected)
        assert all(np.array_equal(left[key], expected[key]) for key in expected)


def test_a_skipped_step_without_a_branch_leaves_everything_alone() -> None:
    _, second, third, fourth, fifth = (left for _, left in steps(False, "average"))
    changed = {key for key in second if not np.array_equal(second[key], third[key])}
    assert changed == set(second) - {"mindvit.loss_scale", "mindvit.finite_steps"}
    assert all(np.array_equal(third[key], fourth[key]) for key in third)
    assert all(np.isfinite(value).all() for value in fifth.values())
    assert not np.array_equal(fourth["head.weight"], fifth["head.weight"])


def test_where_a_branch_is_costly() -> None:
    with platform.use(Platform(costly_launches=True)):
        assert train_step(Normalized(), skip_nonfinite=True).update.joins
        assert not train_step(Normalized(), skip_nonfinite=True, opt="lamb").update.joins
        step = train_step(Normalized(), accum_steps=2)
    assert step.graphs == (step.accumulation, step)
    assert platform.of("Ascend", "Ascend910B3", "O0").costly_launches
    assert platform.of("Ascend", "Ascend910A", "O1").costly_launches
    assert not platform.of("Ascend", "Ascend910B3", "O2").costly_launches
    assert not platform.of("CPU", "", "O0").costly_launches
