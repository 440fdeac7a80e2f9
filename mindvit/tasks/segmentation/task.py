"""Segmentation as the training loop sees it."""

from __future__ import annotations

from typing import Any, Iterator, Mapping, Optional

import numpy as np
from mindspore import nn

from mindvit.data.arrays import ArraySpec
from mindvit.data.datasets.base import Dataset
from mindvit.data.datasets.dense import open_label_maps
from mindvit.data.loader import Transform
from mindvit.data.transforms.dense import MapRow
from mindvit.errors import UserError
from mindvit.models.segmentation.variants import dropped_channels
from mindvit.recipe.schema import Recipe
from mindvit.tasks.backbone import dense_network, starting_backbone
from mindvit.tasks.base import BatchSpec, RunContext, Say
from mindvit.tasks.inspection import Inspection, PreviewImage, Shown
from mindvit.tasks.metric import METRICS
from mindvit.tasks.segmentation import inspect
from mindvit.tasks.segmentation.evaluator import SegmentationEvaluator
from mindvit.tasks.segmentation.inference import ImageInference, SegmentationInference
from mindvit.tasks.segmentation.losses import IGNORED
from mindvit.tasks.segmentation.metrics import SegmentationScore
from mindvit.tasks.segmentation.objective import ObjectiveOptions, SegmentationObjective
from mindvit.tasks.segmentation.prediction import SegmentationPrediction
from mindvit.tasks.segmentation.settings import (
    check,
    crop_size,
    network_arguments,
    sliding,
    test_scale,
    train_transform,
)
from mindvit.weights.checkpoint_info import CheckpointInfo
from mindvit.weights.readers import WeightsFile

WINDOWS = 4  # that a test looks at in one batch


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


class SegmentationTask:
    """Pixels into classes: one label map an image."""

    name = "segmentation"
    metrics = METRICS[name]
    predictions_file = ""

    def resolve(self, recipe: Recipe, checkpoint: str = "") -> Recipe:
        """The recipe, checked; of one out of a checkpoint, without the weights that its backbone began with."""
        check(recipe)
        return recipe.replace(checkpoint, backbone_weights=None) if checkpoint else starting_backbone(recipe)

    def datasets(self, recipe: Recipe, weights: Optional[WeightsFile], say: Say) -> tuple[Dataset, Dataset]:
        """Training and validation; the weights' classes, if their head is kept, must be the data's."""
        train, val = (open_label_maps(recipe, split) for split in ("train", "val"))
        if weights is not None and not recipe.model.new_head:
            compare_classes(CheckpointInfo.of(weights), train, say)
        return train, val

    def val_dataset(self, recipe: Recipe, told: CheckpointInfo, say: Say) -> Dataset:
        """Validation; the weights' classes must be the data's."""
        dataset = open_label_maps(recipe, "val")
        compare_classes(told, dataset, say)
        return dataset

    def remarks(self, train: Dataset) -> list[str]:
        """What the data set says of itself."""
        return train.remarks

    def network(self, ctx: RunContext) -> nn.Cell:
        """The recipe's segmentor. UserError if it can't take crops of the recipe's size."""
        return dense_network(ctx, network_arguments(ctx.recipe), crop_size(ctx.recipe))

    def input_size(self, ctx: RunContext) -> str:
        """Sides of a crop, px."""
        height, width = crop_size(ctx.recipe)
        return f"{height} x {width}"

    def spec(self, ctx: RunContext) -> BatchSpec:
        """The arrays of a rank's training batch."""
        batch, crop, options = ctx.recipe.data.batch_size, crop_size(ctx.recipe), ctx.recipe.model
        channels = dropped_channels(options.model, options.head_channels) if options.drop_rate else 1
        return BatchSpec(
            (
                ArraySpec("images", (batch, *crop, options.in_channels), "uint8"),
                ArraySpec("labels", (batch, *crop), "int32", IGNORED),
                ArraySpec("sizes", (batch, 2), "int32"),
            ),
            (ArraySpec("dropout_rand", (batch, channels), "float32"),),
        )

    def transform(self, ctx: RunContext) -> Transform:
        """From a training sample to a crop of it, its labels and its size."""
        return MapRow(train_transform(ctx.recipe))

    def draw(self, ctx: RunContext, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """What says which channels of the heads are dropped."""
        return tuple(rng.random(item.shape, np.float32) for item in self.spec(ctx).draws)

    def random_batch(self, ctx: RunContext, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """A made-up batch, to measure the step with."""
        images, labels, sizes = self.spec(ctx).batch
        return (
            rng.integers(0, 256, images.shape, np.uint8),
            rng.integers(0, ctx.num_classes, labels.shape).astype(np.int32),
            np.broadcast_to(np.array(crop_size(ctx.recipe), np.int32), sizes.shape).copy(),
        )

    def objective(self, net: nn.Cell, ctx: RunContext) -> SegmentationObjective:
        """What training minimizes."""
        mean, std = ctx.inputs.statistics
        return SegmentationObjective(net, ObjectiveOptions(mean, std, ctx.recipe.segmentation.auxiliary_weight))

    def predict(self, net: nn.Cell, ctx: RunContext) -> ImageInference:
        """What validation asks of the network."""
        return ImageInference(
            SegmentationInference(net, sliding(ctx.recipe), WINDOWS), test_scale(ctx.recipe, ctx.inputs)
        )

    def evaluator(self, ctx: RunContext, dataset: Dataset, predictions: Optional[str] = None) -> SegmentationEvaluator:
        """For one pass over `dataset`; `predictions`: a folder for the label map of every image."""
        return SegmentationEvaluator(ctx, dataset, predictions)

    def inference(self, ctx: RunContext) -> SegmentationPrediction:
        """For a predictor: label maps."""
        return SegmentationPrediction(ctx)

    def score(self, values: Mapping[str, Any]) -> SegmentationScore:
        """From what a checkpoint keeps."""
        found, predicted, labelled = (tuple(values[key]) for key in ("found", "predicted", "labelled"))
        return SegmentationScore(found, predicted, labelled, values["count"])

    def inspect(self, recipe: Recipe, shown: Shown) -> Inspection:
        """Pixels of each class, and what can't be used."""
        return inspect.inspect(recipe, shown)

    def preview(self, ctx: RunContext, train: Dataset, batches: int) -> Iterator[PreviewImage]:
        """Crops under their labels' colours."""
        return inspect.preview(self, ctx, train, batches)

    def warning(self, score: SegmentationScore, ctx: RunContext, dataset: Dataset) -> str:
        """A line if mIoU is no better than guessing."""
        if not score.is_guessing():
            return ""
        return (
            f"mIoU is {score.primary:.2f} %, no better than calling every pixel the commonest class: the network "
            "doesn't learn (labels, reduce_zero_label, lr, or backbone_weights may be wrong)"
        )
