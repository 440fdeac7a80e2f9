"""The side file of weights in other programs' formats, FILE.json beside FILE: what those formats have no place for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mindvit.data.preprocessing import Inputs, Preprocessing
from mindvit.errors import UserError
from mindvit.models import ModelInfo, NetworkInfo
from mindvit.recipe.options import AugmentOptions
from mindvit.recipe.schema import Recipe
from mindvit.runtime import files
from mindvit.weights.checkpoint_info import RGB, CheckpointInfo


def side_path(path: Path) -> Path:
    """Where the side file of `path` stands."""
    return path.with_name(f"{path.name}.json")


def contents(info: ModelInfo, told: CheckpointInfo, augment: AugmentOptions) -> dict[str, Any]:
    """The network, its classes in the order of the logits and the preprocessing of its images, under timm's names.

    mean and std are those of pixels in 0..1. crop_mode is `center` (the short side is resized to size / crop_pct) or
    `squash` (both sides are resized to size).
    """
    preprocessing = Preprocessing(info, augment)
    mean, std = preprocessing.statistics
    return {
        "architecture": info.name,
        "task": info.task,
        "num_classes": told.num_classes,
        "label_names": list(told.class_names),
        "input_size": [told.in_channels or RGB, preprocessing.size, preprocessing.size],
        "mean": list(mean),
        "std": list(std),
        "crop_pct": preprocessing.crop_pct,
        "crop_mode": info.crop_mode,
        "interpolation": preprocessing.interpolation,
    }


def dense_contents(info: NetworkInfo, told: CheckpointInfo, recipe: Recipe, size: tuple[int, int]) -> dict[str, Any]:
    """The same of a segmentor or detector that takes images of `size` (height, width)."""
    mean, std = Inputs(info, recipe.augment).statistics
    return {
        "architecture": info.name,
        "task": info.task,
        "backbone": recipe.model.backbone,
        "num_classes": told.num_classes,
        "label_names": list(told.class_names),
        "input_size": [told.in_channels or RGB, *size],
        "mean": list(mean),
        "std": list(std),
    }


def write(path: Path, content: dict[str, Any]) -> Path:
    """Write the side file of `path`, whole or not at all; where it stands. UserError if it can't be written."""
    target = side_path(path)
    try:
        with files.atomic_write(target) as unfinished:
            unfinished.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{target} can't be written: {error.strerror}") from None
    return target
