"""What a recipe means for detection."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Mapping, Optional

from mindvit.data.preprocessing import Inputs
from mindvit.data.transforms.dense import Size
from mindvit.data.transforms.detection import DetectionTransform
from mindvit.errors import UserError
from mindvit.models import dense_info
from mindvit.models.detection.rcnn import Numbers
from mindvit.models.registry import is_method
from mindvit.recipe.schema import FIELDS, Recipe
from mindvit.tasks.dense import CLASSIFICATION_ONLY, backbone_config, check_backbone, check_keys
from mindvit.tasks.detection.inference import TestScale
from mindvit.tasks.detection.objective import Sampled

CANVASES, IMG_SCALE = ((800, 1344), (1344, 800)), (1333, 800)  # mmdetection's
RATIOS = (0.5, 1.0, 1.5)  # of several scales in a test: mmdetection 3's 666 x 400, 1333 x 800, 2000 x 1200
STEP = 32  # px: of the sides of canvases, and between the shorter sides that are drawn
# keys of other tasks, and what to write instead
NOT_DETECTIONS: Mapping[str, str] = {
    **dict.fromkeys(("crop_size", "ratio_range", "cat_max_ratio"), "canvas, img_scale and short_sides"),
    **dict.fromkeys(("reduce_zero_label", "auxiliary_weight", "slide_stride", "drop_rate"), "nothing"),
    **dict.fromkeys((*CLASSIFICATION_ONLY, "class_weights"), "nothing"),
    "image_resize": "canvas and img_scale",
    "img_size": "canvas",
    "test_mode": "img_scale and size_divisor",
    "vflip": "hflip",
}
RETINANET = "retinanet"


def method_of(recipe: Recipe) -> str:
    """The method of a recipe's network."""
    name = recipe.model.model
    return name if is_method(name) else dense_info(name).method


def has_masks(recipe: Recipe) -> bool:
    """Whether a recipe's detector gives masks."""
    return method_of(recipe) != RETINANET and recipe.detection.mask


def stages(recipe: Recipe) -> int:
    """How often an R-CNN looks at boxes; 0: a RetinaNet never does."""
    return {RETINANET: 0, "cascade_mask_rcnn": 3}.get(method_of(recipe), 1)


def canvases(recipe: Recipe) -> tuple[Size, ...]:
    """(height, width) of the arrays of training images, px; several: each image has one of them."""
    value = recipe.detection.canvas
    if value is None:
        return CANVASES
    if isinstance(value, int):
        return ((value, value),)
    return tuple(zip(value[::2], value[1::2]))


def numbers(recipe: Recipe) -> Numbers:
    """How many boxes each step of an R-CNN leaves."""
    training, test = recipe.detection.rpn_pre
    return Numbers(best_of_level_training=training, best_of_level=test, proposals=recipe.detection.proposals)


def sampled(recipe: Recipe) -> Sampled:
    """How many boxes take part in an R-CNN's losses."""
    return Sampled(anchors=recipe.detection.rpn_samples, boxes=recipe.detection.roi_samples)


def network_arguments(recipe: Recipe) -> dict[str, Any]:
    """create_model's arguments beside the common ones."""
    options = recipe.model
    found: dict[str, Any] = {}
    if is_method(options.model):
        found["backbone"] = options.backbone
    if options.backbone_config:
        found["backbone_config"] = backbone_config(recipe)
    given: dict[str, Any] = {"channels": options.neck_channels, "anchor_scale": recipe.detection.anchor_scale}
    given["norm"] = recipe.detection.head_norm or None
    if method_of(recipe) != RETINANET:
        given["class_agnostic"] = recipe.detection.class_agnostic or None
        given |= {"hidden": options.head_channels, "mask": recipe.detection.mask, "numbers": asdict(numbers(recipe))}
    return {**found, **{key: value for key, value in given.items() if value is not None}}


def img_scale(recipe: Recipe) -> Optional[Size]:
    """Longest and shortest side within which images are fitted, px; None: they stay as they are."""
    given = recipe.segmentation.img_scale
    return IMG_SCALE if given == FIELDS["img_scale"][1].default else given


def train_transform(recipe: Recipe) -> DetectionTransform:
    """What a recipe does to training images and their objects."""
    scale = img_scale(recipe)
    if recipe.detection.short_sides is not None:
        shortest, longest = recipe.detection.short_sides
        far = max(scale) if scale is not None else 10 * longest
        scales = [(far, side) for side in range(shortest, longest + 1, STEP)]
    else:
        scales = [scale] if scale is not None else []
    return DetectionTransform(
        scales, canvases(recipe), recipe.detection.max_instances, recipe.augment.hflip, has_masks(recipe)
    )


def test_scale(recipe: Recipe, inputs: Inputs) -> TestScale:
    """How a recipe's images are prepared for a test."""
    options, least = recipe.segmentation, recipe.detection.score_thr
    ratios = RATIOS if options.aug_test else (1.0,)
    found = canvases(recipe) if recipe.detection.test_canvas else ()
    return TestScale(
        img_scale(recipe), options.size_divisor, *inputs.statistics, ratios, options.aug_test, least, found
    )


def check(recipe: Recipe) -> None:
    """UserError for what a detector's recipe can't say."""
    name = recipe.model.model
    check_keys(recipe, NOT_DETECTIONS, f"is another task's, and {name} is a detector")
    check_backbone(recipe, "detection", "mask_rcnn")
    given = recipe.detection.canvas
    if isinstance(given, tuple) and (len(given) % 2 or not given):
        raise UserError(
            f"{recipe.origins['canvas']}: canvas is {list(given)}: give height and width of each, or one int "
            "for a square"
        )
    if any(side % STEP for canvas in canvases(recipe) for side in canvas):
        raise UserError(
            f"{recipe.origins['canvas']}: canvas is {recipe.detection.canvas}, but sides must be multiples of {STEP}"
        )
    if recipe.detection.test_canvas and recipe.segmentation.aug_test:
        raise UserError(
            f"{recipe.origins['test_canvas']}: test_canvas is True, but aug_test makes images larger: give one of both"
        )
    sides = recipe.detection.short_sides
    if sides is not None and sides[0] > sides[1]:
        raise UserError(f"{recipe.origins['short_sides']}: short_sides is {sides}: give the smaller one first")
    backbone_config(recipe)
