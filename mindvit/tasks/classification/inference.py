"""What a classifier says of images, and how it is written down."""

from __future__ import annotations

from typing import Callable, Iterable, Iterator, Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindvit.data.classes import IMAGENET, label_names
from mindvit.layers.normalize import Normalize
from mindvit.runtime.files import on_one_line, printable
from mindvit.tasks.base import Asked, Formatter, RunContext
from mindvit.tasks.classification.predictions import likeliest
from mindvit.tasks.lines import csv_line, json_list

Answer = list[tuple[str, float]]  # class names and their probabilities, the likeliest first
Answers = Iterable[tuple[str, Answer]]  # with an image's path


class Logits(nn.Cell):
    """uint8 images (B, H, W, 3) -> logits (B, num_classes) float32: what validation sees of the same images."""

    def __init__(self, net: nn.Cell, mean: Sequence[float], std: Sequence[float]):
        super().__init__(auto_prefix=False)
        self.normalize = Normalize(mean, std)
        self.net = net

    def construct(self, images: Tensor) -> Tensor:
        return self.net(self.normalize(images)).astype(ms.float32)


class ClassificationInference:
    """The likeliest classes of an image, by name."""

    def __init__(self, ctx: RunContext):
        self.preprocessing = ctx.preprocessing
        self.transform = ctx.preprocessing.transform
        self.unnamed = not ctx.class_names and ctx.num_classes == IMAGENET
        self.class_names = label_names(ctx.class_names, ctx.num_classes)

    def __str__(self) -> str:
        whose = " (named as ImageNet-1K's, since the file doesn't name them)" if self.unnamed else ""
        return f"{self.preprocessing.size} px, {len(self.class_names)} classes{whose}"

    def cell(self, net: nn.Cell) -> Logits:
        """uint8 images (B, H, W, 3) -> logits (B, num_classes)."""
        return Logits(net, *self.preprocessing.statistics)

    def answer(self, row: np.ndarray, asked: Asked, size: Callable[[], tuple[int, int]]) -> Answer:
        """The classes with the largest of these logits (num_classes,), with their probabilities; ties by class
        number.
        """
        return likeliest(row, self.class_names, asked.topk)

    def formats(self, paths: Sequence[str]) -> Mapping[str, Formatter]:
        """A function for each format, from images' paths and answers to lines."""
        return {
            "table": lambda answers: as_table(answers, paths, self.class_names),
            "csv": as_csv,
            "json": as_json,
        }


def as_csv(answers: Answers) -> Iterator[str]:
    """A line for each class of each image."""
    yield "image,rank,class,probability"
    for path, answer in answers:
        for rank, (name, probability) in enumerate(answer, 1):
            yield csv_line((path, rank, printable(name), f"{probability:.6f}"))


def as_json(answers: Answers) -> Iterator[str]:
    """A list with an object for each image, one a line."""
    return json_list(
        {
            "image": path,
            "classes": [{"name": printable(name), "probability": round(value, 6)} for name, value in answer],
        }
        for path, answer in answers
    )


def as_table(answers: Answers, paths: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    """Aligned columns; an image's path stands beside its first class."""
    first, second = (
        max(len(on_one_line(item)) for item in (*column, title))
        for column, title in ((paths, "image"), (names, "class"))
    )
    yield f"{'image':{first}}  {'class':{second}}  probability"
    for path, answer in answers:
        for name, probability in answer:
            yield f"{on_one_line(path):{first}}  {on_one_line(name):{second}}  {100 * probability:9.2f} %"
            path = ""
