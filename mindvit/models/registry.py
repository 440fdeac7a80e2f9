"""Every network by name: what it is, how its pictures are prepared, and how it is built."""

from __future__ import annotations

import fnmatch
import os
from dataclasses import dataclass
from typing import Any, Mapping, Optional, Sequence, Union

from mindvit import mindcv
from mindvit.errors import UserError, nearest
from mindvit.models.network import Backbone, Network

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a network without building it.

    params counts trainable values with 1000 classes, macs the multiply-adds of one picture at input_size (products,
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
    squeeze: bool = False
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@dataclass(frozen=True)
class Entry:
    """A network's facts, the function that builds it, and that function's arguments for this variant."""

    info: ModelInfo
    build: type[Network]
    config: Mapping[str, Any]


_entries: dict[str, Entry] = {}
_aliases: dict[str, str] = {}


def register(entry: Entry) -> None:
    """Make a network available by its name and its aliases."""
    for name in (entry.info.name, *entry.info.aliases):
        if name in _aliases:
            raise ValueError(f"two networks are called {name}")
        _aliases[name] = entry.info.name
    _entries[entry.info.name] = entry


def _entry(name: str) -> Entry:
    if name not in _aliases:
        raise UserError(f"unknown model {name!r}{nearest(name, _aliases)} (all models: mindvit.list_models())")
    return _entries[_aliases[name]]


def list_models(pattern: str = "*") -> list[str]:
    """Canonical names that match a shell pattern, in alphabetical order."""
    return sorted(fnmatch.filter(_entries, pattern))


def model_info(name: str) -> ModelInfo:
    """The facts of a network by name or alias; UserError for an unknown one."""
    return _entry(name).info


def model_config(name: str) -> dict[str, Any]:
    """The arguments of its family's class that make a network; variants that differ in weights or picture size alone share them."""
    return dict(_entry(name).config)


def input_sizes(
    name: str, image_resize: Optional[int] = None, img_size: Any = None
) -> tuple[int, Optional[tuple[int, int]]]:
    """The side of a network's square images, px, and the img_size to build it with so that it computes them there.

    One is derived from the other, and neither given means the network's own. CrossViT's img_size is (small-patch,
    large-patch branch), or an int, the first; for other families it is None. UserError for sizes that the family can't
    take or that contradict each other.
    """
    entry = _entry(name)
    built_for = entry.config.get("img_size")
    if img_size is not None and built_for is None:
        raise UserError(
            f"{entry.info.name} is not built for one size: it takes images as they come "
            f"(leave img_size out; recipes say image_resize)"
        )
    config = entry.config if img_size is None else {**entry.config, "img_size": img_size}
    own = config.get("img_size", entry.info.input_size)
    own = own if isinstance(own, int) else own[0]
    if img_size is not None and image_resize not in (None, own):
        raise UserError(
            f"image_resize {image_resize} doesn't fit img_size {img_size}, with which {entry.info.name} takes images of "
            f"{own} px (leave one of the two out: it is derived)"
        )
    side = own if image_resize is None else image_resize
    return side, entry.build.sizes_for(config, side)


def create_model(name: str, num_classes: int = 1000, in_channels: int = 3, drop_path_rate: Optional[float] = None, img_size: Any = None,
                 features_only: bool = False, out_indices: Optional[Sequence[int]] = None, pretrained: Union[None, bool, str, os.PathLike] = None,
                 **overrides: Any) -> Union[Network, Backbone]:
    """A network by name or alias, freshly initialised; input (B, in_channels, H, W) float32, output (B, num_classes).

    drop_path_rate None means the paper's; img_size None means the variant's own. With features_only the output is a feature
    map (B, C, H', W') for each of out_indices (None: those that the authors' detectors take), described by `feature_info`.
    pretrained: a file with its weights; all must fit (mindvit.load_weights can be told what may differ).
    `overrides` replace other arguments of the family's class (drop_rate, attn_drop_rate, embed_dim, ...). UserError for an
    unknown name or argument. "mindcv/NAME" is mindcv's network of that name, with mindcv's arguments.
    """
    if pretrained is True:
        raise UserError("pretrained is True, but no weights are downloaded: give the file, pretrained=FILE")
    if name.startswith(mindcv.THEIRS):
        overrides.update({"checkpoint_path": str(pretrained)} if pretrained else {})
        return mindcv.create(name, num_classes=num_classes, in_channels=in_channels, drop_path_rate=drop_path_rate, img_size=img_size,
                             features_only=features_only or None, out_indices=out_indices, **overrides)
    entry = _entry(name)
    config = {**entry.config, "num_classes": 0 if features_only else num_classes, "in_channels": in_channels}
    config["drop_path_rate"] = entry.info.drop_path_rate if drop_path_rate is None else drop_path_rate
    if img_size is not None:
        overrides["img_size"] = img_size
    known = {*config, "drop_rate", "attn_drop_rate"}
    for key in overrides:
        if key == "img_size" and key not in known:
            raise UserError(f"{entry.info.name} is not built for one size: it takes pictures as they come (leave img_size out; recipes say image_resize)")
        if key not in known:
            raise UserError(f"{entry.info.name} has no argument {key!r}{nearest(key, known)}")
    if out_indices is not None and not features_only:
        raise UserError("out_indices is given, but features_only is False: only feature maps can be chosen")
    net = entry.build(**{**config, **overrides})
    net.model_name = entry.info.name
    result = Backbone(net, out_indices) if features_only else net
    if pretrained:
        from mindvit.weights import load_weights  # which need not wait for networks to be known

        load_weights(result, pretrained)
    return result
