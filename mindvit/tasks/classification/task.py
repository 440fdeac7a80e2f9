"""Classification as the training loop sees it."""

from __future__ import annotations

import dataclasses
from typing import Any, Iterator, Mapping, Optional

import numpy as np
from mindspore import nn

from mindvit.data.arrays import ArraySpec
from mindvit.data.classes import Head, open_ordered
from mindvit.data.datasets.base import LabelledDataset
from mindvit.data.datasets.build import check_same_classes, open_dataset, remarks
from mindvit.data.loader import Transform
from mindvit.data.transforms.image import ClassRow
from mindvit.models import create_model
from mindvit.recipe.schema import Recipe
from mindvit.tasks.base import BatchSpec, RunContext, Say
from mindvit.tasks.class_weights import class_weights
from mindvit.tasks.classification import inspect
from mindvit.tasks.classification.augment import batch_aug_spec, sample_batch_aug
from mindvit.tasks.classification.distill import build_teacher, check_teacher
from mindvit.tasks.classification.evaluator import ClassificationEvaluator
from mindvit.tasks.classification.inference import ClassificationInference
from mindvit.tasks.classification.metrics import Accuracy, EvalStep
from mindvit.tasks.classification.objective import ClassificationObjective, ObjectiveOptions
from mindvit.tasks.classification.predictions import PREDICTIONS
from mindvit.tasks.classification.sizes import sized
from mindvit.tasks.inspection import Inspection, PreviewImage, Shown
from mindvit.tasks.metric import METRICS
from mindvit.weights.checkpoint_info import CheckpointInfo
from mindvit.weights.readers import WeightsFile

PADDING = -1  # label of the rows that fill up evaluation's last batch


def batch_spec(batch: int, size: int, channels: int) -> BatchSpec:
    """A batch of `batch` images (size, size, channels) with their labels."""
    return BatchSpec(
        (
            ArraySpec("images", (batch, size, size, channels), "uint8"),
            ArraySpec("labels", (batch,), "int32", PADDING),
        ),
        batch_aug_spec(batch, size, channels),
    )


class ClassificationTask:
    """Images into classes: one label an image."""

    name = "classification"
    metrics = METRICS[name]
    predictions_file = PREDICTIONS

    def resolve(self, recipe: Recipe, checkpoint: str = "") -> Recipe:
        """The recipe with image_resize and, for CrossViT, img_size. UserError for a teacher that can't be had."""
        recipe = sized(recipe, checkpoint)
        if not checkpoint:
            check_teacher(recipe.distill)
        return recipe

    def datasets(
        self, recipe: Recipe, weights: Optional[WeightsFile], say: Say
    ) -> tuple[LabelledDataset, LabelledDataset]:
        """Training and validation, their classes in the order of the weights' head, if that is kept."""
        head = None
        if weights is not None and not recipe.model.new_head:
            told = CheckpointInfo.of(weights)
            head = Head(weights.where, told.num_classes, told.class_names, weights.is_by_name)
        train = open_ordered(recipe.data, "train", head, say, recipe.model.num_classes)
        val = open_dataset(recipe.data, "val", train.class_names)
        check_same_classes(train, val)
        return train, val

    def val_dataset(self, recipe: Recipe, told: CheckpointInfo, say: Say) -> LabelledDataset:
        """Validation, its classes in the order of the weights'."""
        head = Head(str(recipe.model.ckpt_path), told.num_classes, told.class_names)
        return open_ordered(recipe.data, "val", head, say)

    def remarks(self, train: LabelledDataset) -> list[str]:
        """Classes without an image, and what a list names twice."""
        return remarks(train)

    def network(self, ctx: RunContext) -> nn.Cell:
        """The recipe's classifier. UserError if it can't take images of the recipe's size."""
        options, size = ctx.recipe.model, ctx.preprocessing.size
        net = create_model(
            options.model,
            ctx.num_classes,
            options.in_channels,
            options.drop_path_rate,
            options.img_size,
            drop_rate=options.drop_rate,
            attn_drop_rate=options.attn_drop_rate,
        )
        net.check_size(size, size)
        return net

    def input_size(self, ctx: RunContext) -> int:
        """Side of an image, px."""
        return ctx.preprocessing.size

    def spec(self, ctx: RunContext) -> BatchSpec:
        """The arrays of a rank's training batch."""
        return batch_spec(ctx.recipe.data.batch_size, ctx.preprocessing.size, ctx.recipe.model.in_channels)

    def transform(self, ctx: RunContext) -> Transform:
        """From a training sample to the image's pixels and its label."""
        return ClassRow(ctx.preprocessing.train_transform)

    def draw(self, ctx: RunContext, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """What is sampled for one batch, in the order of the spec."""
        recipe = ctx.recipe
        return sample_batch_aug(
            recipe.augment,
            rng,
            batch=recipe.data.batch_size,
            size=ctx.preprocessing.size,
            channels=recipe.model.in_channels,
        )

    def random_batch(self, ctx: RunContext, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """A made-up batch, to measure the step with."""
        images, labels = self.spec(ctx).batch
        return (
            rng.integers(0, 256, images.shape, np.uint8),
            rng.integers(0, ctx.num_classes, labels.shape).astype(np.int32),
        )

    def objective(self, net: nn.Cell, ctx: RunContext) -> ClassificationObjective:
        """What training minimizes, with the recipe's teacher if it has one."""
        return ClassificationObjective(
            net, objective_options(ctx.recipe, *ctx.preprocessing.statistics, class_weights(ctx)), build_teacher(ctx)
        )

    def predict(self, net: nn.Cell, ctx: RunContext) -> EvalStep:
        """What validation asks of the network."""
        views = ctx.preprocessing.views
        return EvalStep(net, *ctx.preprocessing.statistics, views.count if views else 1)

    def evaluator(
        self, ctx: RunContext, dataset: LabelledDataset, predictions: Optional[str] = None
    ) -> ClassificationEvaluator:
        """For one pass over `dataset`; `predictions`: a CSV file for the likeliest classes of every image."""
        images, labels = self.spec(ctx).batch
        views = ctx.preprocessing.views
        if views:
            images = dataclasses.replace(images, shape=(images.shape[0], views.count, *images.shape[1:]))
        return ClassificationEvaluator(ctx, dataset, (images, labels), predictions)

    def inference(self, ctx: RunContext) -> ClassificationInference:
        """For a predictor: names of classes with their probabilities."""
        return ClassificationInference(ctx)

    def inspect(self, recipe: Recipe, shown: Shown) -> Inspection:
        """Counts, faults and duplicates."""
        return inspect.inspect(recipe, shown)

    def preview(self, ctx: RunContext, train: LabelledDataset, batches: int) -> Iterator[PreviewImage]:
        """Cropped, coloured, mixed and erased, with soft labels."""
        return inspect.preview(self, ctx, train, batches)

    def score(self, values: Mapping[str, Any]) -> Accuracy:
        """From what a checkpoint keeps."""
        return Accuracy(**values)

    def warning(self, score: Accuracy, ctx: RunContext, dataset: LabelledDataset) -> str:
        """A line if top-1 is no better than guessing."""
        commonest = int(np.bincount(dataset.labels).max())
        if not score.is_guessing(ctx.num_classes, commonest):
            return ""
        return (
            f"top-1 is {score.top1:.2f} %, no better than guessing one of {ctx.num_classes} classes: the network "
            "doesn't learn (labels, lr, normalisation, or pretrained weights may be wrong)"
        )


def objective_options(
    recipe: Recipe, mean: tuple[float, ...], std: tuple[float, ...], weights: Optional[np.ndarray] = None
) -> ObjectiveOptions:
    """What a recipe says of the objective."""
    augment, optim, distill = recipe.augment, recipe.optim, recipe.distill
    return ObjectiveOptions(
        mean=mean,
        std=std,
        erase=augment.re_prob > 0,
        mix=augment.mixup > 0 or augment.cutmix > 0,
        loss=optim.loss,
        smoothing=optim.label_smoothing,
        distill_type=distill.distill_type,
        distill_alpha=distill.distill_alpha,
        distill_tau=distill.distill_tau,
        class_weights=weights,
    )
