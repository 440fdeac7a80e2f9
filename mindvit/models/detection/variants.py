"""The detectors by name: CrossFormer's seven as published, and the methods on any other backbone."""

from __future__ import annotations

import functools
from typing import Any, Mapping, Optional, Sequence, Union

from mindvit.errors import UserError
from mindvit.layers.anchors import AnchorGrid
from mindvit.models.dense import build, classes_of, pyramid
from mindvit.models.detection import rcnn, retinanet
from mindvit.models.detection.detector import PYRAMID_LEVELS, Detector
from mindvit.models.detection.rcnn import RCNN, Numbers, RoIHead
from mindvit.models.detection.retinanet import RetinaNet
from mindvit.models.detection.roi_heads import BoxHead, MaskHead
from mindvit.models.info import DenseInfo, MethodInfo
from mindvit.models.necks import FPN
from mindvit.models.registry import register_builder

TASK = "detection"
COCO_CLASSES = 80
INPUT_SIZE = 800  # px: the shorter side of training images
CHANNELS, HIDDEN = 256, 1024  # of neck and heads, and of the fully connected layers
RETINANET, MASK_RCNN, CASCADE = METHODS = ("retinanet", "mask_rcnn", "cascade_mask_rcnn")
CASCADE_STAGES = 3
PAPERS = {
    RETINANET: "https://arxiv.org/abs/1708.02002",
    MASK_RCNN: "https://arxiv.org/abs/1703.06870",
    CASCADE: "https://arxiv.org/abs/1712.00726",
}
# what CrossFormer's authors trained their detectors with: the code of 2021, and larger groups for the long schedule
GROUPS: Mapping[str, Any] = {"revision": "iclr"}
LARGE_GROUPS: Mapping[str, Any] = {"revision": "iclr", "group_size": (14, 14, 7, 7), "interval": (16, 8, 2, 1)}


def create_detector(
    method: str,
    backbone: str = "crossformer_small",
    num_classes: Optional[int] = None,
    in_channels: int = 3,
    drop_path_rate: Optional[float] = None,
    channels: int = CHANNELS,
    hidden: int = HIDDEN,
    anchor_scale: Optional[float] = None,
    mask: Optional[bool] = None,
    numbers: Union[Numbers, Mapping[str, int], None] = None,
    backbone_config: Optional[Mapping[str, Any]] = None,
    norm: bool = False,
    class_agnostic: bool = False,
) -> Detector:
    """A detector, freshly initialized.

    Args:
        method: one of METHODS.
        backbone: a network of the registry whose maps make a pyramid.
        num_classes: of the objects; None: COCO's 80.
        in_channels: the images'.
        drop_path_rate: the backbone's; None means its paper's.
        channels: of the neck and of the heads' convolutions.
        hidden: outputs of the R-CNNs' fully connected layers.
        anchor_scale: side of each level's smallest anchor in strides; None: the method's own (RetinaNet 4, R-CNNs 8).
        mask: whether an R-CNN has masks, which None means; without them it is Faster R-CNN or Cascade R-CNN.
        numbers: of boxes that an R-CNN's steps leave, or a mapping of them; None: the papers'.
        backbone_config: other arguments of the backbone (group_size, revision, ...), and Pyramid's out_indices.
        norm: BatchNorm in the neck and in the R-CNNs' heads, whose boxes get four convolutions (see roi_head).
        class_agnostic: whether an R-CNN moves boxes alike for all classes.

    Returns:
        Images (B, in_channels, H, W), true sides (B, 2) -> boxes (B, 100, 4), scores, labels, masks (B, 100, 28, 28).

    Raises:
        UserError: a backbone that is unknown or has no pyramid; a number of classes below 1; masks of RetinaNet.
    """
    classes = classes_of(method, "a detector", num_classes, COCO_CLASSES)
    if method == RETINANET and mask is not None:
        raise UserError(f"{method} has no masks: leave mask out, or take mask_rcnn")
    maps = pyramid(method, backbone, GROUPS, backbone_config, in_channels=in_channels, drop_path_rate=drop_path_rate)
    widths = [feature.channels for feature in maps.feature_info]
    strides, grid = [int(feature.stride) for feature in maps.feature_info], anchor_grid(method, anchor_scale)
    if method == RETINANET:
        first = sum(stride < 8 for stride in strides)
        neck = FPN(widths, channels, first, PYRAMID_LEVELS, convolve_more=True, norm=norm)
        return RetinaNet(maps, neck, grid, channels, classes)
    head = roi_head(method, strides, (channels, hidden, classes), mask is None or mask, norm, class_agnostic)
    left = numbers if isinstance(numbers, Numbers) else Numbers(**(numbers or {}))
    return RCNN(maps, FPN(widths, channels, outputs=PYRAMID_LEVELS, norm=norm), grid, channels, head, left)


def roi_head(
    method: str, strides: Sequence[int], sizes: tuple[int, int, int], mask: bool, norm: bool, class_agnostic: bool
) -> RoIHead:
    """An R-CNN's second look; sizes: channels, outputs of fully connected layers, classes.

    norm: networks that start from nothing learn slowly without normalization, and their boxes' head is four
    convolutions and one fully connected layer (He et al. 2019; https://arxiv.org/abs/1811.08883, section 3).
    """
    channels, hidden, classes = sizes
    cascade = method == CASCADE
    stages = CASCADE_STAGES if cascade else 1
    boxes = [BoxHead(channels, hidden, classes, cascade or norm, class_agnostic, cascade) for _ in range(stages)]
    masks = [MaskHead(channels, classes, norm) for _ in range(stages if mask else 0)]
    return RoIHead(boxes, masks, strides)


def anchor_grid(method: str, scale: Optional[float] = None) -> AnchorGrid:
    """The anchors of a method, on five levels of any pyramid; `scale`: see create_detector."""
    if method == RETINANET:
        return retinanet.anchor_grid((8, 16, 32, 64, 128), scale)
    return AnchorGrid((4, 8, 16, 32, 64), (rcnn.SCALE if scale is None else scale,), rcnn.RATIOS)


# name: params, multiply-adds at 800 x 1280 px with 1000 proposals and masks of 100 boxes, box AP, mask AP. Like the
# published counts, the multiply-adds include those of padding, which the authors' code computes. Accuracies on COCO's
# validation images: the README of the authors' detection folder.
# fmt: off
VARIANTS: Mapping[str, tuple[int, int, float, Optional[float]]] = {
    "retinanet_crossformer_small": (40824958, 281863113264, 44.4, None),
    "retinanet_crossformer_base": (62139118, 388819380528, 46.2, None),
    "mask_rcnn_crossformer_small": (50160762, 300788594224, 45.4, 41.4),
    "mask_rcnn_crossformer_base": (71474922, 407744861488, 47.2, 42.7),
    "mask_rcnn_crossformer_small_3x": (50160762, 290920890736, 48.7, 43.9),
    "mask_rcnn_crossformer_base_3x": (71474922, 397877158000, 49.8, 44.5),
    "cascade_mask_rcnn_crossformer_small_3x": (87995964, 769171898736, 52.2, 45.2),
}
# fmt: on


def _register_all() -> None:
    for name, (params, macs, box, mask) in VARIANTS.items():
        method = next(item for item in METHODS if name.startswith(item))
        backbone = name[len(method) + 1 :].replace("_3x", "")
        groups = LARGE_GROUPS if name.endswith("_3x") else GROUPS
        info = DenseInfo(
            name=name,
            task=TASK,
            method=method,
            backbone=backbone,
            params=params,
            macs=macs,
            macs_size=(800, 1280),
            num_classes=COCO_CLASSES,
            metrics={"box AP": box} if mask is None else {"box AP": box, "mask AP": mask},
            data="COCO 2017",
            metrics_source="cheerss/CrossFormer detection/README",
            paper=PAPERS[method],
            source="cheerss/CrossFormer detection, 4fbf750",
            input_size=INPUT_SIZE,
        )
        fixed = {"backbone": backbone, "backbone_config": groups}
        register_builder(functools.partial(build, create_detector, name, method, fixed), info)
    for method in METHODS:
        register_builder(
            functools.partial(build, create_detector, method, method, {}), MethodInfo(method, TASK, INPUT_SIZE)
        )


_register_all()
