"""Detection as the training loop sees it."""

from __future__ import annotations

from typing import Any, Iterator, Mapping, Optional

import numpy as np
from mindspore import nn

from mindvit.data.arrays import ArraySpec
from mindvit.data.datasets.base import Dataset
from mindvit.data.datasets.detection import open_objects
from mindvit.data.loader import Transform
from mindvit.data.transforms.detection import NONE, ObjectRow
from mindvit.models.detection.variants import anchor_grid
from mindvit.recipe.schema import Recipe
from mindvit.runtime import console, platform
from mindvit.tasks.base import BatchSpec, Inference, RunContext, Say
from mindvit.tasks.dense import DenseTask
from mindvit.tasks.detection import inspect, operators, settings
from mindvit.tasks.detection.evaluator import DetectionEvaluator
from mindvit.tasks.detection.inference import DetectionInference
from mindvit.tasks.detection.metrics import DetectionScore, KindScore
from mindvit.tasks.detection.objective import DetectionObjective
from mindvit.tasks.detection.prediction import DetectionPrediction
from mindvit.tasks.detection.settings import (
    canvases,
    has_masks,
    method_of,
    sampled,
    stages,
    test_scale,
    train_transform,
)
from mindvit.tasks.inspection import Inspection, PreviewImage, Shown
from mindvit.tasks.metric import METRICS
from mindvit.weights.readers import WeightsFile

GUESSING = 1.0  # per cent of box AP


class DetectionTask(DenseTask):
    """Objects by boxes, classes and, with some detectors, masks."""

    name = "detection"
    metrics = METRICS[name]
    predictions_file = "predictions.json"

    def check(self, recipe: Recipe) -> None:
        """UserError for what a detector's recipe can't say."""
        settings.check(recipe)

    def open(self, recipe: Recipe, split: str) -> Dataset:
        """A split of a recipe's data, train or val."""
        return open_objects(recipe, split, has_masks(recipe))

    def size(self, recipe: Recipe) -> tuple[int, int]:
        """Height and width of the first canvas, px."""
        return canvases(recipe)[0]

    def input_size(self, ctx: RunContext) -> str:
        """Sides of the canvases, px."""
        return ", ".join(f"{height} x {width}" for height, width in canvases(ctx.recipe))

    def network(self, ctx: RunContext) -> nn.Cell:
        """The recipe's network, with the device's operators for boxes where they are right."""
        told: list[str] = []
        with platform.use(operators.tested(platform.current(), told.append)):
            net = super().network(ctx)
        for line in told if ctx.device.is_main else ():
            console.log_info(line)
        return net

    def network_arguments(self, recipe: Recipe) -> Mapping[str, Any]:
        """create_model's, beside the common ones."""
        return settings.network_arguments(recipe)

    def datasets(self, recipe: Recipe, weights: Optional[WeightsFile], say: Say) -> tuple[Dataset, Dataset]:
        """As DenseTask; where canvases are several, training images are of one each."""
        train, val = super().datasets(recipe, weights, say)
        transform = train_transform(recipe)
        if len(transform.canvases) > 1:
            groups = [transform.group(train.image_size(index)) for index in range(len(train))]
            train.groups = np.array(groups, np.int32)
        return train, val

    def spec(self, ctx: RunContext) -> BatchSpec:
        """The arrays of a rank's training batch."""
        recipe, shapes = ctx.recipe, canvases(ctx.recipe)
        batch, objects, looks = recipe.data.batch_size, recipe.detection.max_instances, stages(recipe)
        images = [(batch, *canvas, recipe.model.in_channels) for canvas in shapes]
        arrays = [
            ArraySpec("images", images[0], "uint8", others=tuple(images[1:])),
            ArraySpec("sizes", (batch, 2), "int32"),
            ArraySpec("boxes", (batch, objects, 4), "float32"),
            ArraySpec("labels", (batch, objects), "int32", NONE),
        ]
        if has_masks(recipe):
            masks = [(batch, objects, height, width // 8) for height, width in shapes]
            arrays.append(ArraySpec("masks", masks[0], "uint8", others=tuple(masks[1:])))
        if not looks:
            return BatchSpec(tuple(arrays), ())
        grid = anchor_grid(method_of(recipe))
        anchors = max(grid.count(canvas) for canvas in shapes)
        candidates = objects + max(recipe.detection.proposals, recipe.detection.roi_samples)
        draws = (
            ArraySpec("rpn_priority", (batch, 1, anchors), "float32"),
            ArraySpec("box_priority", (batch, looks, 1, candidates), "float32"),
        )
        return BatchSpec(tuple(arrays), draws)

    def transform(self, ctx: RunContext) -> Transform:
        """From a training sample to an image on the canvas, its size and its objects."""
        return ObjectRow(train_transform(ctx.recipe))

    def draw(self, ctx: RunContext, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Which anchors and boxes are sampled first: permutations."""
        return tuple(
            rng.permuted(np.broadcast_to(np.arange(item.shape[-1], dtype=np.float32), item.shape), axis=-1)
            for item in self.spec(ctx).draws
        )

    def random_batch(self, ctx: RunContext, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """A made-up batch, to measure the step with."""
        images, sizes, boxes, labels, *masks = self.spec(ctx).batch
        height, width = canvases(ctx.recipe)[0]
        corners = np.sort(rng.random((*boxes.shape[:2], 2, 2)), 2) * [width, height]
        count = min(8, labels.shape[1])
        classes = np.full(labels.shape, NONE, np.int32)
        classes[:, :count] = rng.integers(0, ctx.num_classes, (labels.shape[0], count))
        found = (
            rng.integers(0, 256, images.shape, np.uint8),
            np.broadcast_to(np.array([height, width], np.int32), sizes.shape).copy(),
            corners.reshape(boxes.shape).astype(np.float32),
            classes,
        )
        return (*found, *(rng.integers(0, 256, item.shape, np.uint8) for item in masks))

    def objective(self, net: nn.Cell, ctx: RunContext) -> DetectionObjective:
        """What training minimizes."""
        ranks = ctx.device.ranks if ctx.recipe.detection.sync_divisors else 1
        return DetectionObjective(net, *ctx.inputs.statistics, sampled(ctx.recipe), ranks)

    def predict(self, net: nn.Cell, ctx: RunContext) -> DetectionInference:
        """What validation asks of the network."""
        return DetectionInference(net, test_scale(ctx.recipe, ctx.inputs))

    def evaluator(self, ctx: RunContext, dataset: Dataset, predictions: Optional[str] = None) -> DetectionEvaluator:
        """For one pass over `dataset`; `predictions`: a file for all detections, COCO's JSON."""
        return DetectionEvaluator(ctx, dataset, predictions)

    def inference(self, ctx: RunContext) -> Inference:
        """For a predictor: boxes, and masks."""
        return DetectionPrediction(ctx)

    def inspect(self, recipe: Recipe, shown: Shown) -> Inspection:
        """Objects by class and size, and what can't be used."""
        return inspect.inspect(recipe, shown)

    def preview(self, ctx: RunContext, train: Dataset, batches: int) -> Iterator[PreviewImage]:
        """Images with their objects."""
        return inspect.preview(self, ctx, train, batches)

    def score(self, values: Mapping[str, Any]) -> DetectionScore:
        """From what a checkpoint keeps."""
        box, mask = (
            None if kind is None else KindScore(*map(tuple, kind.values())) for kind in (values["box"], values["mask"])
        )
        assert box is not None
        return DetectionScore(box, mask, values["count"])

    def warning(self, score: DetectionScore, ctx: RunContext, dataset: Dataset) -> str:
        """A line if hardly anything is found."""
        if score.primary >= GUESSING:
            return ""
        return (
            f"box AP is {score.primary:.2f} %: the network finds hardly anything (boxes, lr, or backbone_weights may "
            "be wrong; of a first epoch it may just be early)"
        )
