"""What a recipe means for segmentation."""

from __future__ import annotations

from typing import Any

from mindvit.data.preprocessing import Inputs
from mindvit.data.transforms.dense import PhotometricDistortion, SegmentationTransform, Size
from mindvit.models import network_info
from mindvit.models.registry import is_method
from mindvit.recipe.schema import Recipe
from mindvit.tasks.dense import CLASSIFICATION_ONLY, backbone_config, check_backbone, check_keys
from mindvit.tasks.segmentation.inference import Sliding, TestScale

RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of a test with several scales


def sides(value: Any, name: str) -> Size:
    """(height, width) of a crop; None means the network's own size."""
    if value is None:
        value = network_info(name).input_size
    return (value, value) if isinstance(value, int) else value


def crop_size(recipe: Recipe) -> Size:
    """(height, width) of the crops that a recipe trains on, px."""
    return sides(recipe.segmentation.crop_size, recipe.model.model)


def sliding(recipe: Recipe) -> Sliding | None:
    """The windows that slide over images in a test; None: images go in whole."""
    options, crop = recipe.segmentation, crop_size(recipe)
    if options.test_mode == "whole":
        return None
    stride = options.slide_stride
    third = (max(2 * crop[0] // 3, 1), max(2 * crop[1] // 3, 1))
    return Sliding(crop, third if stride is None else sides(stride, recipe.model.model))


def test_scale(recipe: Recipe, inputs: Inputs) -> TestScale:
    """How a recipe's images are prepared for a test."""
    options = recipe.segmentation
    mean, std = inputs.statistics
    ratios = RATIOS if options.aug_test else (1.0,)
    return TestScale(options.img_scale, options.size_divisor, mean, std, ratios, options.aug_test)


def train_transform(recipe: Recipe) -> SegmentationTransform:
    """What a recipe does to training images and their label maps."""
    options = recipe.segmentation
    return SegmentationTransform(
        options.img_scale,
        options.ratio_range,
        crop_size(recipe),
        options.cat_max_ratio,
        recipe.augment.hflip,
        PhotometricDistortion() if options.photometric_distortion else None,
    )


def check(recipe: Recipe) -> None:
    """UserError for what a segmentor's recipe can't say: keys of classification, no backbone, windows with gaps."""
    why = f"is classification's, and {recipe.model.model} is a segmentor"
    check_keys(recipe, CLASSIFICATION_ONLY, why)
    check_backbone(recipe, "segmentation", "upernet")
    sliding(recipe)
    backbone_config(recipe)


def network_arguments(recipe: Recipe) -> dict[str, Any]:
    """What create_model is given for a recipe's segmentor, beside the arguments of all networks."""
    options = recipe.model
    arguments: dict[str, Any] = {"drop_rate": options.drop_rate, "channels": options.head_channels}
    if is_method(options.model):
        arguments["backbone"] = options.backbone
    if options.backbone_config:
        arguments["backbone_config"] = backbone_config(recipe)
    if options.neck_channels is not None:
        arguments["neck_channels"] = options.neck_channels
    return arguments
