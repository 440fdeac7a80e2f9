"""Learning rates of whole trainings, ours and the authors'."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mindvit.optim.schedule import learning_rate
from mindvit.recipe.optim_options import ScheduleOptions

TESTS = Path(__file__).parents[1]
IMAGENET = 1281167  # training images


def assert_same_rates(ours: np.ndarray, theirs: np.ndarray) -> None:
    """But for the last digits of float64."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=0)


def official(name: str) -> np.ndarray:
    """Learning rates that the authors' scheduler classes gave: one an epoch; CrossFormer: of each epoch's first and
    last step.
    """
    with np.load(TESTS / "goldens" / "lr_curves.npz") as curves:
        return curves[name]


def first_and_last(schedule: ScheduleOptions, global_batch: int) -> np.ndarray:
    """(epochs, 2): the rates of each epoch's first and last step."""
    steps = IMAGENET // global_batch
    return np.array(
        [
            [
                learning_rate(epoch * steps + step, schedule=schedule, steps_per_epoch=steps, global_batch=global_batch)
                for step in (0, steps - 1)
            ]
            for epoch in range(schedule.epoch_size)
        ]
    )
