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
        "longest and shortest side within which images are fitted for training and testing, px (none: as they are)",
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
    aug_test: bool = option(False, "test at 0.5 to 1.75 times img_scale, each mirrored too, and average")
    size_divisor: int = option(
        32,
        "sides of whole images are enlarged to multiples of this, px: a larger one means fewer shapes to compile",
        low=1,
    )
