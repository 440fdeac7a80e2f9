"""Classification as the training loop sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

import numpy as np
from mindspore import nn

from mindvit.recipe.schema import Recipe
from mindvit.tasks.base import ArraySpec, BatchSpec
from mindvit.tasks.classification.augment import batch_aug_spec, sample_batch_aug
from mindvit.tasks.classification.metrics import EvalStep
from mindvit.tasks.classification.objective import ClassificationObjective, ObjectiveOptions

if TYPE_CHECKING:
    from mindvit.engine.setup import Setting


def batch_spec(batch: int, size: int, channels: int) -> BatchSpec:
    """A batch of `batch` images (size, size, channels) with their labels."""
    return BatchSpec(
        (ArraySpec("images", (batch, size, size, channels), "uint8"), ArraySpec("labels", (batch,), "int32")),
        batch_aug_spec(batch, size, channels),
    )


class ClassificationTask:
    """Images into classes: one label an image."""

    def spec(self, ctx: Setting) -> BatchSpec:
        """The arrays of a rank's training batch."""
        return batch_spec(ctx.recipe.data.batch_size, ctx.size, ctx.recipe.model.in_channels)

    def draw(self, ctx: Setting, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """What is sampled for one batch, in the order of the spec."""
        recipe = ctx.recipe
        return sample_batch_aug(
            recipe.augment, rng, batch=recipe.data.batch_size, size=ctx.size, channels=recipe.model.in_channels
        )

    def random_batch(self, ctx: Setting, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """A made-up batch, to measure the step with."""
        images, labels = self.spec(ctx).batch
        return (
            rng.integers(0, 256, images.shape, np.uint8),
            rng.integers(0, ctx.num_classes, labels.shape).astype(np.int32),
        )

    def objective(self, net: nn.Cell, ctx: Setting, teacher: Optional[nn.Cell] = None) -> ClassificationObjective:
        """What training minimizes."""
        return ClassificationObjective(net, objective_options(ctx.recipe, *ctx.statistics), teacher)

    def predict(self, net: nn.Cell, ctx: Setting) -> EvalStep:
        """What validation asks of the network."""
        return EvalStep(net, *ctx.statistics)


def objective_options(recipe: Recipe, mean: tuple[float, ...], std: tuple[float, ...]) -> ObjectiveOptions:
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
    )
