"""What is known of a network without building it: a published classifier, detector or segmentor, or a method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Optional, Protocol

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGENET_CLASSES = 1000
DENSE_SIZE = 512  # px: of the crops that segmentors are trained on


class NetworkInfo(Protocol):
    """What is known of a network of any task without building it."""

    @property
    def name(self) -> str:
        """In the registry."""

    @property
    def task(self) -> str:
        """What it is trained for: classification, segmentation, ..."""

    @property
    def input_size(self) -> int:
        """Side of the images that reach it in training, px; of oblong ones, the shorter side."""

    @property
    def mean(self) -> tuple[float, float, float]:
        """Of its images' channels, of pixels in 0..1."""

    @property
    def std(self) -> tuple[float, float, float]:
        """Their standard deviation."""


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a network without building it.

    params counts trainable values with 1000 classes, macs the multiply-adds of one image at input_size (products,
    convolutions and attention; not norms, activations and softmax); both were counted on the authors' code.
    acc1 and acc5 are the published accuracies in per cent on ImageNet-1K's validation set.
    """

    name: str
    family: str
    params: int
    macs: int
    input_size: int
    crop_pct: float
    acc1: float
    acc5: Optional[float]  # None: not published
    accuracy_source: str
    paper: str
    source: str
    drop_path_rate: float
    aliases: tuple[str, ...] = ()
    interpolation: str = "bicubic"
    crop_mode: str = "center"
    task: str = "classification"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@dataclass(frozen=True)
class DenseInfo:
    """What is known of a detector or segmentor without building it.

    params counts all trainable values, macs the multiply-adds of one image of macs_size (height, width) as it is
    evaluated. metrics: published figures in per cent by name, on the validation images of `data`.
    """

    name: str
    task: str
    method: str
    backbone: str
    params: int
    macs: int
    macs_size: tuple[int, int]
    num_classes: int
    metrics: Mapping[str, float]
    data: str
    metrics_source: str
    paper: str
    source: str
    input_size: int = DENSE_SIZE
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@dataclass(frozen=True)
class MethodInfo:
    """What is known of a detector's or segmentor's method whatever the backbone, which is to be given."""

    name: str
    task: str
    input_size: int = DENSE_SIZE
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
