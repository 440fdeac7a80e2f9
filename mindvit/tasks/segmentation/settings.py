"""What a recipe means for segmentation."""

from __future__ import annotations

from typing import Any, Mapping

import yaml

from mindvit.data.preprocessing import Inputs
from mindvit.data.transforms.dense import PhotometricDistortion, SegmentationTransform, Size
from mindvit.errors import UserError
from mindvit.models import network_info
from mindvit.models.registry import is_method
from mindvit.recipe.schema import Recipe
from mindvit.tasks.dense import check_backbone, check_keys
from mindvit.tasks.segmentation.inference import Sliding, TestScale

RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of a test with several scales
# keys of classification, and what to write instead
CLASSIFICATION_ONLY: Mapping[str, str] = {
    "image_resize": "crop_size and img_scale",
    "img_size": "crop_size",
    "scale": "ratio_range",
    "ratio": "ratio_range",
    "vflip": "hflip",
    "color_jitter": "photometric_distortion",
    "auto_augment": "photometric_distortion",
    "re_prob": "photometric_distortion",
    "mixup": "photometric_distortion",
    "cutmix": "photometric_distortion",
    "crop_pct": "img_scale",
    "interpolation": "img_scale",
    "attn_drop_rate": "drop_rate and drop_path_rate",
    "label_smoothing": "nothing: pixels have one class",
    "loss": "nothing: it is cross entropy",
    "distill_type": "nothing: segmentors have no teacher",
}


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


def backbone_config(recipe: Recipe) -> dict[str, Any]:
    """Arguments of the backbone. UserError if they are no mapping."""
    text = recipe.model.backbone_config
    try:
        found = yaml.safe_load(f"{{{text}}}") if text else {}
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found) or None in found.values():
        raise UserError(
            f"{recipe.origins['backbone_config']}: backbone_config is {text!r}, but must be names and values, as "
            "'embed_dim: [32, 64, 128], depth: [1, 1, 4]'"
        )
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


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
