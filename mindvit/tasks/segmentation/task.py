"""Segmentation as the training loop sees it."""

from __future__ import annotations

from typing import Any, Iterator, Mapping, Optional

import numpy as np
from mindspore import nn

from mindvit.data.arrays import ArraySpec
from mindvit.data.datasets.base import Dataset
from mindvit.data.datasets.dense import open_label_maps
from mindvit.data.loader import Transform
from mindvit.data.transforms.dense import IGNORED, MapRow
from mindvit.models.segmentation.variants import dropped_channels
from mindvit.recipe.schema import Recipe
from mindvit.tasks.base import BatchSpec, RunContext
from mindvit.tasks.class_weights import class_weights
from mindvit.tasks.dense import DenseTask
from mindvit.tasks.inspection import Inspection, PreviewImage, Shown
from mindvit.tasks.metric import METRICS
from mindvit.tasks.segmentation import inspect, settings
from mindvit.tasks.segmentation.evaluator import SegmentationEvaluator
from mindvit.tasks.segmentation.inference import ImageInference, SegmentationInference
from mindvit.tasks.segmentation.metrics import SegmentationScore
from mindvit.tasks.segmentation.objective import ObjectiveOptions, SegmentationObjective
from mindvit.tasks.segmentation.prediction import SegmentationPrediction
from mindvit.tasks.segmentation.settings import crop_size, sliding, test_scale, train_transform

WINDOWS = 4  # that a test looks at in one batch


class SegmentationTask(DenseTask):
    """Pixels into classes: one label map an image."""

    name = "segmentation"
    metrics = METRICS[name]
    predictions_file = ""

    def check(self, recipe: Recipe) -> None:
        """UserError for what a segmentor's recipe can't say."""
        settings.check(recipe)

    def open(self, recipe: Recipe, split: str) -> Dataset:
        """A split of a recipe's data, train or val."""
        return open_label_maps(recipe, split)

    def size(self, recipe: Recipe) -> tuple[int, int]:
        """Height and width of the crops, px."""
        return crop_size(recipe)

    def network_arguments(self, recipe: Recipe) -> Mapping[str, Any]:
        """create_model's, beside the common ones."""
        return settings.network_arguments(recipe)

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
        options = ObjectiveOptions(mean, std, ctx.recipe.segmentation.auxiliary_weight, class_weights(ctx))
        return SegmentationObjective(net, options)

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
