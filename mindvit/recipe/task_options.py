"""What a training recipe may say of tasks other than classification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple, Union

from mindvit.recipe.options import Pair, option

Sides = Union[None, int, Tuple[int, int]]


@dataclass(frozen=True)
class SegmentationOptions:
    """Segmentation: how images and label maps are prepared, trained on and tested. Sizes are (height, width), px."""

    crop_size: Sides = option(None, "crops that are trained on, a side or height and width, px (none: 512)", low=1)
    img_scale: Optional[Tuple[int, int]] = option(
        (2048, 512),
        "longest and shortest side within which images are fitted for training and testing, px (none: as they are; "
        "detectors, where nothing is said: 1333 and 800)",
        low=1,
    )
    ratio_range: Pair = option((0.5, 2.0), "smallest and largest factor of that size, drawn for each training image")
    cat_max_ratio: float = option(
        0.75,
        "a crop of whose labelled pixels one class has this share or more is drawn again, ten times at most (1: off)",
        low=0,
        high=1,
    )
    photometric_distortion: bool = option(True, "change brightness, contrast, saturation and hue of training images")
    reduce_zero_label: Optional[bool] = option(
        None,
        "label 0 is no class but counts as ignored, and every other label is one less (none: as the data set has it)",
    )
    auxiliary_weight: float = option(0.4, "factor of the auxiliary head's loss", low=0)
    sync_bn: bool = option(True, "batch normalization by the statistics of all ranks")
    test_mode: str = option(
        "whole", "images are tested as a whole, or by windows of crop_size (slide)", ("whole", "slide")
    )
    slide_stride: Sides = option(
        None, "px between windows, or down and across (none: two thirds of the crop's sides)", low=1
    )
    aug_test: bool = option(
        False,
        "test at 0.5 to 1.75 times img_scale, each mirrored too, and average; detectors: 0.5, 1 and 1.5 times, and the "
        "surest of boxes that overlap",
    )
    size_divisor: int = option(
        32,
        "sides of whole images are enlarged to multiples of this, px: a larger one means fewer shapes to compile",
        low=1,
    )


@dataclass(frozen=True)
class DetectionOptions:
    """Detection: how images and their objects are prepared, and how many boxes take part. Sizes are (height, width)."""

    canvas: Union[None, int, Tuple[int, ...]] = option(
        None,
        "arrays that training images are padded to, px: a side, or height and width, in turn for several, of which "
        "each image has the one that fits it best; larger ones are made smaller (none: 800,1344,1344,800)",
        low=1,
    )
    test_canvas: bool = option(
        False,
        "pad test images to the best canvas too, not to multiples of size_divisor: few shapes to compile, but other "
        "results",
    )
    short_sides: Optional[Tuple[int, int]] = option(
        None, "smallest and largest shorter side, drawn for each training image, px (none: img_scale's)", low=1
    )
    max_instances: int = option(100, "objects of an image that are trained on; of more, the largest", low=1)
    empty_images: bool = option(False, "train on images without objects too")
    mask: bool = option(True, "R-CNNs: masks too; without them they are Faster R-CNN and Cascade R-CNN")
    head_norm: bool = option(
        False,
        "batch normalization in the neck and in the R-CNNs' heads, whose boxes get four convolutions, for networks "
        "that start from nothing",
    )
    class_agnostic: bool = option(False, "R-CNNs: boxes are moved alike for all classes, which is learnt sooner")
    anchor_scale: Optional[float] = option(
        None, "side of each level's smallest anchor over its stride (none: RetinaNet 4, R-CNNs 8)", low=0
    )
    rpn_pre: Tuple[int, int] = option(
        (2000, 1000), "best anchors of a level that are proposed, in training and in tests", low=1
    )
    proposals: int = option(1000, "boxes of an image that R-CNNs look at again", low=1)
    rpn_samples: int = option(256, "anchors of an image that take part in the proposals' loss", low=2)
    sync_divisors: bool = option(
        False,
        "losses are divided by the mean of all ranks' numbers of boxes, so that ranks with parts of a batch take the "
        "step of one with the whole; without, by each rank's own, as mmdetection does",
    )
    roi_samples: int = option(512, "boxes of an image that take part in the second look's loss", low=4)
    score_thr: float = option(
        0.05, "detections with a lower score don't count in validation, 0.05 to 1 (networks give none below)", low=0.05
    )
