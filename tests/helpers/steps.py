"""Training steps of a classifier without a recipe, for tests."""

from __future__ import annotations

import dataclasses
from typing import Any, Optional, Sequence

import numpy as np
from mindspore import Tensor, nn

from mindvit.engine.step import TrainStep
from mindvit.engine.update import StepOptions
from mindvit.tasks.base import drop_path_spec
from mindvit.tasks.classification.objective import ClassificationObjective, ObjectiveOptions
from mindvit.tasks.classification.task import batch_spec

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
UNCHANGED: dict[str, Any] = {
    "mean": (0.0,) * 3,
    "std": (1 / 255,) * 3,
}  # of float images: they reach the network as they are


def objective(net: nn.Cell, teacher: Optional[nn.Cell] = None, **options: Any) -> ClassificationObjective:
    """The objective with these options, and MEAN and STD unless told otherwise."""
    return ClassificationObjective(net, ObjectiveOptions(**{"mean": MEAN, "std": STD, **options}), teacher)


def train_step(
    net: nn.Cell, weight_decay_mask: Optional[Sequence[bool]] = None, teacher: Optional[nn.Cell] = None, **options: Any
) -> TrainStep:
    """The step with these options of ObjectiveOptions and StepOptions; all weights are decayed unless a mask says
    otherwise.
    """
    known = {item.name for item in dataclasses.fields(StepOptions)}
    engine = {name: value for name, value in options.items() if name in known}
    task = {name: value for name, value in options.items() if name not in known}
    mask = [True] * len(net.trainable_params()) if weight_decay_mask is None else weight_decay_mask
    return TrainStep(objective(net, teacher, **task), net, mask, StepOptions(**engine))


def neutral_inputs(batch: int, size: int, channels: int = 3, drop_paths: int = 0) -> tuple[Tensor, ...]:
    """Inputs of a training step with the right shapes and types that augment nothing; the learning rate is 0."""
    spec = batch_spec(batch, size, channels)
    return tuple(map(Tensor, (*spec.inputs(), drop_path_spec(drop_paths, batch).empty(), np.float32(0))))
