"""What detectors' and segmentors' tasks have in common: their checks, and that their classes are the data's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Mapping, Optional

import yaml
from mindspore import nn

from mindvit.data.datasets.base import Dataset
from mindvit.errors import UserError
from mindvit.models import list_models
from mindvit.models.registry import is_method
from mindvit.recipe.schema import FIELDS, Recipe
from mindvit.tasks.backbone import dense_network, starting_backbone
from mindvit.tasks.base import RunContext, Say
from mindvit.weights.checkpoint_info import CheckpointInfo
from mindvit.weights.readers import WeightsFile

# keys of classification, and what to write instead
CLASSIFICATION_ONLY: Mapping[str, str] = {
    "image_resize": "crop_size and img_scale",
    "img_size": "crop_size",
    "scale": "ratio_range",
    "ratio": "ratio_range",
    "vflip": "hflip",
    "color_jitter": "photometric_distortion",
    "auto_augment": "photometric_distortion",
    "re_prob": "photometric_distortion",
    "mixup": "photometric_distortion",
    "cutmix": "photometric_distortion",
    "crop_pct": "img_scale",
    "interpolation": "img_scale",
    "attn_drop_rate": "drop_rate and drop_path_rate",
    "label_smoothing": "nothing: pixels have one class",
    "loss": "nothing: it is cross entropy",
    "distill_type": "nothing: segmentors have no teacher",
}


def compare_classes(told: CheckpointInfo, dataset: Dataset, say: Say) -> None:
    """Say that classes are called otherwise; UserError if they are the same in another order."""
    there, here = told.class_names, dataset.class_names
    if not there or there == here:
        return
    if sorted(there) == sorted(here):
        place = next(number for number, (one, other) in enumerate(zip(there, here)) if one != other)
        raise UserError(
            f"{told.where} was trained with {there[place]!r} as class {place}, which is {here[place]!r} in the "
            "data: the same classes in another order (number them alike, or --new_head to train another head)"
        )
    place = next((n for n, (one, other) in enumerate(zip(there, here)) if one != other), min(len(there), len(here)))
    names = [repr(names[place]) if place < len(names) else "nothing" for names in (there, here)]
    say(f"WARNING: {told.where} was trained with other classes: {place} is {names[0]} there, {names[1]} here")


def check_keys(recipe: Recipe, refused: Mapping[str, str], why: str) -> None:
    """UserError for a key that is given and in `refused`, which says what there is instead."""
    for key, instead in refused.items():
        section, item, _ = FIELDS[key]
        if getattr(getattr(recipe, section), key) != item.default:
            raise UserError(f"{recipe.origins[key]}: {key} is given, but {why}: instead there is {instead}")


def check_backbone(recipe: Recipe, task: str, example: str) -> None:
    """UserError for a method without a backbone, or a network with another than its own; example: a method."""
    name, backbone = recipe.model.model, recipe.model.backbone
    if is_method(name) and backbone is None:
        published = ", ".join(list_models(f"{name}_*", task=task))
        raise UserError(
            f"{recipe.origins['model']}: {name} needs a backbone: backbone: cvt_13_224, ..., or {published}"
        )
    if not is_method(name) and backbone is not None:
        raise UserError(
            f"{recipe.origins['backbone']}: {name} has its backbone: leave backbone out, or take a method ({example})"
        )


def backbone_config(recipe: Recipe) -> dict[str, Any]:
    """Arguments of the backbone. UserError if they are no mapping."""
    text = recipe.model.backbone_config
    try:
        found = yaml.safe_load(f"{{{text}}}") if text else {}
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found) or None in found.values():
        raise UserError(
            f"{recipe.origins['backbone_config']}: backbone_config is {text!r}, but must be names and values, as "
            "'embed_dim: [32, 64, 128], depth: [1, 1, 4]'"
        )
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


class DenseTask(ABC):
    """A task whose networks stand on a backbone."""

    @abstractmethod
    def check(self, recipe: Recipe) -> None:
        """UserError for what a recipe can't say."""

    @abstractmethod
    def open(self, recipe: Recipe, split: str) -> Dataset:
        """A split of a recipe's data, train or val."""

    @abstractmethod
    def size(self, recipe: Recipe) -> tuple[int, int]:
        """Height and width of what is trained on, px."""

    @abstractmethod
    def network_arguments(self, recipe: Recipe) -> Mapping[str, Any]:
        """create_model's, beside the common ones."""

    def resolve(self, recipe: Recipe, checkpoint: str = "") -> Recipe:
        """The recipe, checked; of one out of a checkpoint, without the weights that its backbone began with."""
        self.check(recipe)
        return recipe.replace(checkpoint, backbone_weights=None) if checkpoint else starting_backbone(recipe)

    def datasets(self, recipe: Recipe, weights: Optional[WeightsFile], say: Say) -> tuple[Dataset, Dataset]:
        """Training and validation; their classes, and the weights' if their head is kept, must be the same."""
        train, val = (self.open(recipe, split) for split in ("train", "val"))
        compare_classes(CheckpointInfo("the training data", class_names=train.class_names), val, say)
        if weights is not None and not recipe.model.new_head:
            compare_classes(CheckpointInfo.of(weights), train, say)
        return train, val

    def val_dataset(self, recipe: Recipe, told: CheckpointInfo, say: Say) -> Dataset:
        """Validation; the weights' classes must be the data's."""
        dataset = self.open(recipe, "val")
        compare_classes(told, dataset, say)
        return dataset

    def remarks(self, train: Dataset) -> list[str]:
        """What the data set says of itself."""
        return train.remarks

    def network(self, ctx: RunContext) -> nn.Cell:
        """The recipe's network. UserError if it can't take images of `size`."""
        return dense_network(ctx, self.network_arguments(ctx.recipe), self.size(ctx.recipe))

    def input_size(self, ctx: RunContext) -> str:
        """Sides of what is trained on, px."""
        height, width = self.size(ctx.recipe)
        return f"{height} x {width}"
