"""The segmentors by name: CrossFormer's six as published, and both methods on any other backbone."""

from __future__ import annotations

import functools
from typing import Any, Mapping, Optional, Sequence

from mindvit.models.dense import build, classes_of, pyramid
from mindvit.models.info import DenseInfo, MethodInfo
from mindvit.models.necks import FPN
from mindvit.models.registry import model_info, register_builder
from mindvit.models.segmentation.heads import FCNHead, FPNHead, UPerHead
from mindvit.models.segmentation.segmentor import Segmentor

TASK = "segmentation"
ADE20K_CLASSES = 150
AUXILIARY_STRIDE = 16  # of the map that the auxiliary head looks at
AUXILIARY_CHANNELS = 256
NECK_CHANNELS = 256
HEAD_CHANNELS = {"semantic_fpn": 128, "upernet": 512}
DROP_RATE = 0.1
# what CrossFormer's authors trained their segmentors with: the code of 2021, and larger groups under Semantic FPN
CROSSFORMER: Mapping[str, Mapping[str, Any]] = {
    "semantic_fpn": {"revision": "iclr", "group_size": (14, 14, 7, 7), "interval": (16, 8, 2, 1)},
    "upernet": {"revision": "iclr"},
}
METHODS = tuple(CROSSFORMER)
PAPERS = {"semantic_fpn": "https://arxiv.org/abs/1901.02446", "upernet": "https://arxiv.org/abs/1807.10221"}


def create_segmentor(
    method: str,
    backbone: str = "crossformer_small",
    num_classes: Optional[int] = None,
    in_channels: int = 3,
    drop_path_rate: Optional[float] = None,
    drop_rate: float = DROP_RATE,
    channels: Optional[int] = None,
    neck_channels: Optional[int] = None,
    backbone_config: Optional[Mapping[str, Any]] = None,
) -> Segmentor:
    """A segmentor, freshly initialized.

    Args:
        method: one of METHODS.
        backbone: a network of the registry whose maps make a pyramid.
        num_classes: of the pixels; None: ADE20K's 150.
        in_channels: the images'.
        drop_path_rate: the backbone's; None means its paper's.
        drop_rate: of the channels that the heads' last convolutions see.
        channels: of the decode head; None: the method's own.
        neck_channels: of Semantic FPN's pyramid; None: 256, or XCiT's own width. UPerNet has none.
        backbone_config: other arguments of the backbone (group_size, revision, ...), and Pyramid's out_indices.

    Returns:
        (B, in_channels, H, W) float32 -> logits (B, num_classes, H, W).

    Raises:
        UserError: a backbone that is unknown or has no pyramid; a number of classes below 1.
    """
    classes = classes_of(method, "a segmentor", num_classes, ADE20K_CLASSES)
    maps = pyramid(
        method,
        backbone,
        CROSSFORMER[method],
        backbone_config,
        in_channels=in_channels,
        drop_path_rate=drop_path_rate,
    )
    widths = [feature.channels for feature in maps.feature_info]
    strides = [feature.stride for feature in maps.feature_info]
    channels = HEAD_CHANNELS[method] if channels is None else channels
    if method == "semantic_fpn":
        own = widths[0] if model_info(backbone).family == "xcit" else NECK_CHANNELS  # as its authors' sem_fpn_xcit_*.py
        neck = neck_channels or own
        head = FPNHead([neck] * len(widths), strides, channels, classes, drop_rate)
        return Segmentor(maps, FPN(widths, neck), head)
    index = strides.index(AUXILIARY_STRIDE)
    auxiliary = FCNHead(widths[index], AUXILIARY_CHANNELS, classes, drop_rate, index)
    return Segmentor(maps, None, UPerHead(widths, channels, classes, drop_rate), auxiliary)


def method_of(name: str) -> str:
    """The method of a segmentor's name."""
    return next(item for item in METHODS if name.startswith(item))


def dropped_channels(name: str, channels: Optional[int] = None) -> int:
    """Channels of all heads of a segmentor, of which training drops some; `channels`: of the decode head."""
    method = method_of(name)
    return (channels or HEAD_CHANNELS[method]) + (AUXILIARY_CHANNELS if method == "upernet" else 0)


# name: params with both heads, multiply-adds at 1024 x 1024 px without the auxiliary head, mIoU, mIoU with several
# scales. Like the published counts, the multiply-adds include those of padding, which the authors' code computes.
# Accuracies on ADE20K's validation images: the README of the authors' segmentation folder.
# fmt: off
VARIANTS: Mapping[str, tuple[int, int, float, Optional[float]]] = {
    "semantic_fpn_crossformer_small": (34260000, 209723526012, 46.4, None),
    "semantic_fpn_crossformer_base": (55574160, 320012602428, 48.0, None),
    "semantic_fpn_crossformer_large": (95440158, 482557595040, 49.1, None),
    "upernet_crossformer_small": (62308022, 979297627932, 47.6, 48.4),
    "upernet_crossformer_base": (83622182, 1089586704348, 49.7, 50.6),
    "upernet_crossformer_large": (125478836, 1257668834720, 50.4, 51.4),
}
# fmt: on


def _register_all() -> None:
    for name, (params, macs, miou, several) in VARIANTS.items():
        method = method_of(name)
        backbone = name[len(method) + 1 :]
        figures: Sequence[tuple[str, Optional[float]]] = (("mIoU", miou), ("mIoU, multi-scale", several))
        info = DenseInfo(
            name=name,
            task=TASK,
            method=method,
            backbone=backbone,
            params=params,
            macs=macs,
            macs_size=(1024, 1024),
            num_classes=ADE20K_CLASSES,
            metrics={key: value for key, value in figures if value is not None},
            data="ADE20K",
            metrics_source="cheerss/CrossFormer segmentation/README",
            paper=PAPERS[method],
            source="cheerss/CrossFormer segmentation, 4fbf750",
        )
        register_builder(functools.partial(build, create_segmentor, name, method, {"backbone": backbone}), info)
    for method in METHODS:
        register_builder(functools.partial(build, create_segmentor, method, method, {}), MethodInfo(method, TASK))


_register_all()
