"""What the training loop knows of a task: its data, its objective and its metrics, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Iterable, Iterator, Mapping, Optional, Protocol, Sequence, Union

import numpy as np
from mindspore import nn
from PIL import Image

from mindvit.data.arrays import ArraySpec
from mindvit.data.loader import Batch, Transform
from mindvit.data.preprocessing import Inputs, Preprocessing
from mindvit.data.samplers import Shard
from mindvit.data.workers import Workers
from mindvit.models import ModelInfo, NetworkInfo
from mindvit.recipe.schema import Recipe
from mindvit.runtime.device import Device
from mindvit.tasks.metric import Metric
from mindvit.weights.checkpoint_info import CheckpointInfo
from mindvit.weights.readers import WeightsFile

Say = Callable[[str], None]
Formatter = Callable[[Iterable[tuple[str, Any]]], Iterator[str]]  # paths of images and answers -> lines


@dataclass(frozen=True)
class BatchSpec:
    """The inputs of a training step in their order: what the loader reads (`batch`), then what is sampled for it
    (`draws`).

    Buffers, the inputs that a step is compiled with, the compile cache's key and a benchmark's batches follow from it.
    """

    batch: tuple[ArraySpec, ...]
    draws: tuple[ArraySpec, ...]

    @property
    def batch_size(self) -> int:
        """Rows of a batch: the first axis of what the loader reads."""
        return self.batch[0].shape[0]

    def inputs(self, group: int = 0) -> tuple[np.ndarray, ...]:
        """Arrays with the right shapes and types, to compile with: those of batches of a group of images."""
        return tuple(item.of_group(group).empty() for item in (*self.batch, *self.draws))


def drop_path_spec(drop_paths: int, batch: int) -> ArraySpec:
    """Uniform numbers in 0..1 that stochastic depth compares with its rates: a row a cell, at least one."""
    return ArraySpec("drop_path_rand", (max(drop_paths, 1), batch), "float32")


@dataclass(frozen=True)
class RunContext:
    """A recipe together with what it leaves to the model, the data and the machine.

    class_counts: images of each class in the data set whose classes the network tells apart; empty where an image has
    no one class.
    """

    recipe: Recipe
    info: NetworkInfo
    device: Device
    num_classes: int
    workers: Workers
    class_names: tuple[str, ...] = ()
    class_counts: tuple[int, ...] = ()

    @property
    def inputs(self) -> Inputs:
        """Size and statistics of the images, whatever the task."""
        return Inputs(self.info, self.recipe.augment)

    @property
    def preprocessing(self) -> Preprocessing:
        """How a classifier's images are prepared."""
        assert isinstance(self.info, ModelInfo)
        return Preprocessing(self.info, self.recipe.augment)

    @property
    def shard(self) -> Shard:
        """This rank's part of the data."""
        return Shard(self.device.ranks, self.device.rank)


def draw_generator(ctx: RunContext, number: int) -> np.random.Generator:
    """Of what is sampled for a rank's batch of this number: a function of seed, number and rank."""
    return np.random.Generator(np.random.PCG64([ctx.recipe.runtime.seed, number, ctx.device.rank]))


class Score(Protocol):
    """What an evaluation measured: a dataclass of numbers, which checkpoints keep; str() gives a line for people."""

    @property
    def count(self) -> int:
        """Images."""

    @property
    def primary(self) -> float:
        """The metric that 'best' means, larger being better; of two that are equal, the one with the lower loss."""

    def metrics(self) -> Mapping[str, float]:
        """Every number by the key of a Metric of the task."""

    def per_class(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """A row for each class, called by `names`, of what is measured of each by itself; none where nothing is."""


@dataclass(frozen=True)
class Example:
    """An image of an evaluation, uint8 (H, W, 3), with what is to be found in it and what the network finds, both as
    the task's predictor answers.
    """

    pixels: np.ndarray
    truth: Any
    found: Any


class Evaluator(Protocol):
    """Collects what a network says of this rank's part of a data set."""

    @property
    def examples(self) -> Sequence[Example]:
        """The first images, for a picture; none where a task's answers are not drawn."""

    def batches(self) -> Iterator[Batch]:
        """This rank's batches, as many as `steps`."""

    @property
    def steps(self) -> int:
        """Batches of the rank with the most."""

    @property
    def images_per_batch(self) -> int:
        """Images of a rank's batch."""

    def update(self, batch: Batch, outputs: Sequence[Any]) -> None:
        """Take in a batch and what Task.predict's cell made of it."""

    def compute(self) -> Any:
        """The Score over all ranks; called on every rank."""

    def save_predictions(self) -> None:
        """Write the file of predictions, if one is wanted; called on every rank."""

    def close(self) -> None:
        """Clear away what a pass that failed has half written."""


@dataclass(frozen=True)
class Asked:
    """How much of an answer is wanted. topk: classes, where they are ranked; score_thr: the least score of what is
    detected, 0..1.
    """

    topk: int = 5
    score_thr: float = 0.3


class Inference(Protocol):
    """What a predictor asks of a task; str() says at which size and into how many classes."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One for each class."""

    def transform(self, image: Image.Image) -> np.ndarray:
        """An RGB image as the network takes it, uint8 (H, W, 3); images of one shape share a batch."""

    def cell(self, net: nn.Cell) -> Callable[[Any], Any]:
        """A cell or function, uint8 (B, H, W, 3) -> what is said of each image, (B, ...) float32."""

    def answer(self, row: np.ndarray, asked: Asked, size: Callable[[], tuple[int, int]]) -> Any:
        """What one of its rows means. size: gives the image's own height and width, px."""

    def formats(self, paths: Sequence[str]) -> Mapping[str, Formatter]:
        """How answers for these images are written down, by the format's name."""


class Task(Protocol):
    """One kind of learning. The loop calls these in this order."""

    @property
    def name(self) -> str:
        """As in a registry's entry."""

    @property
    def metrics(self) -> Sequence[Metric]:
        """The first is the primary one."""

    @property
    def predictions_file(self) -> str:
        """The name of the file of predictions in a folder for an evaluation; empty: the folder itself is it."""

    def resolve(self, recipe: Recipe, checkpoint: str = "") -> Recipe:
        """The recipe with what it leaves to the network; `checkpoint`: the file that part of it was taken from.

        UserError, before anything is listed or built, for what can't be.
        """

    def datasets(self, recipe: Recipe, weights: Optional[WeightsFile], say: Say) -> tuple[Any, Any]:
        """Training and validation; `weights` are those that training starts from. `say` is told what is remarkable."""

    def val_dataset(self, recipe: Recipe, told: CheckpointInfo, say: Say) -> Any:
        """Validation alone, for weights that say of themselves what `told` has."""

    def remarks(self, train: Any) -> list[str]:
        """Lines for what is no error and yet may be a mistake in the training data."""

    def network(self, ctx: RunContext) -> nn.Cell:
        """The recipe's network with initial values."""

    def input_size(self, ctx: RunContext) -> Union[int, str]:
        """Of an image as it reaches the network, px."""

    def spec(self, ctx: RunContext) -> BatchSpec:
        """The arrays of a rank's training batch."""

    def transform(self, ctx: RunContext) -> Transform:
        """From a training sample to the rows of the spec's `batch`.

        An object that can be pickled, compares equal to another of the same recipe, and whose class (like the data
        set's) is in a module that doesn't import MindSpore: worker processes are sent it. So is what an evaluator gives
        to `eval_batches`.
        """

    def draw(self, ctx: RunContext, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """What is sampled for one batch, in the order of the spec's `draws`."""

    def random_batch(self, ctx: RunContext, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """A made-up batch, to measure the step with."""

    def objective(self, net: nn.Cell, ctx: RunContext) -> nn.Cell:
        """A cell (*batch, *draws, drop_path_rand) -> loss (), float32, with the number of its `drop_paths`."""

    def predict(self, net: nn.Cell, ctx: RunContext) -> Callable[..., Any]:
        """A cell or function (*batch) -> what the evaluator takes in."""

    def evaluator(self, ctx: RunContext, dataset: Any, predictions: Optional[str] = None) -> Evaluator:
        """For one pass over a data set; `predictions`: a file for what the network says of every image."""

    def inference(self, ctx: RunContext) -> Inference:
        """For a predictor; `ctx.class_names` are those that the weights' file or the user names, if any."""

    def score(self, values: Mapping[str, Any]) -> Any:
        """A Score from what a checkpoint keeps of it."""

    def warning(self, score: Any, ctx: RunContext, dataset: Any) -> str:
        """A line if the score is no better than guessing, else an empty one."""
