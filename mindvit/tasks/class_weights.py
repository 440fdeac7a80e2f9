"""How much each class counts in the loss of a classifier or segmentor."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor

from mindvit.errors import UserError
from mindvit.tasks.base import RunContext
from mindvit.weights.readers import STATE

BALANCED = "balanced"
FORM = "a class and its weight a line, class,weight"


def class_weights(ctx: RunContext) -> Optional[np.ndarray]:
    """The recipe's weights, (num_classes,) float32; None where all classes count alike. UserError for a file that
    doesn't say them.
    """
    wanted = ctx.recipe.optim.class_weights
    if wanted is None:
        return None
    if wanted == BALANCED and not ctx.class_counts:
        raise UserError(
            f"{ctx.recipe.origins['class_weights']}: class_weights is {BALANCED}, which counts images of each class, "
            f"but pixels have classes here: give a file, {FORM} (mindvit inspect-data counts each class's pixels)"
        )
    if wanted == BALANCED:
        return balanced(ctx.class_counts, ctx.num_classes)
    return read(Path(wanted), ctx.class_names or tuple(map(str, range(ctx.num_classes))), ctx.num_classes)


def weights_parameter(weights: Optional[np.ndarray]) -> Optional[Parameter]:
    """What a loss multiplies by. A parameter's values are no part of a graph, which may be kept for other data."""
    if weights is None:
        return None
    return Parameter(Tensor(weights, ms.float32), name=f"{STATE}class_weights", requires_grad=False)


def balanced(counts: Sequence[int], num_classes: int) -> np.ndarray:
    """Weights inversely to how many training images each class has, of which the mean over these images is 1 (King &
    Zeng 2001; scikit-learn's class_weight="balanced"). A class without images weighs 1.
    """
    images = np.zeros(num_classes)
    images[: len(counts)] = counts
    there = images > 0
    weights = np.ones(num_classes)
    weights[there] = images.sum() / (there.sum() * images[there])
    return weights.astype(np.float32)


def read(path: Path, class_names: Sequence[str], num_classes: int) -> np.ndarray:
    """The weights that a CSV file gives, in the order of the classes. UserError unless it gives one for every class."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no CSV file in UTF-8"
        raise UserError(f"class_weights {path} can't be read: {reason} (give balanced, or a file: {FORM})") from None
    weights: dict[str, float] = {}
    for number, row in enumerate(rows, 1):
        weight = _number(row[1]) if len(row) == 2 else None
        if weight is None:
            raise UserError(f"class_weights {path}, line {number}: {','.join(row)!r}, but it must be {FORM}")
        if row[0] not in class_names or row[0] in weights:
            what = "again" if row[0] in weights else "no class of the data set"
            raise UserError(f"class_weights {path}, line {number}: {row[0]!r} is {what}")
        weights[row[0]] = weight
    missing = [name for name in class_names if name not in weights]
    if missing:
        raise UserError(f"class_weights {path} has no weight for {len(missing)} classes, {missing[0]!r} first")
    return np.array([*(weights[name] for name in class_names), *[1.0] * (num_classes - len(class_names))], np.float32)


def _number(text: str) -> Optional[float]:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
