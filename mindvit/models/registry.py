"""Every network by name: what it is, how its images are prepared, and how it is built."""

from __future__ import annotations

import contextlib
import fnmatch
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Optional, Sequence, Union

from mindvit.errors import UserError, nearest
from mindvit.hub import published
from mindvit.hub.resolve import Pretrained, is_published, weights_file
from mindvit.models import mindcv
from mindvit.models.info import IMAGENET_CLASSES, DenseInfo, MethodInfo, ModelInfo, NetworkInfo
from mindvit.models.network import Backbone, Network
from mindvit.runtime import platform


@dataclass(frozen=True)
class Entry:
    """A network's facts, the function that builds it, and that function's arguments for this variant."""

    info: ModelInfo
    build: type[Network]
    config: Mapping[str, Any]


CLASSIFICATION = "classification"
RGB = 3  # channels of the images of published networks
_entries: dict[str, Entry] = {}
_aliases: dict[str, str] = {}
# networks of other tasks: their builders by name, with what create_model's arguments are, and what is known of them
_builders: dict[str, Callable[..., Any]] = {}
_dense: dict[str, DenseInfo] = {}
_methods: dict[str, MethodInfo] = {}


def register(entry: Entry) -> None:
    """Make a network available by its name and its aliases."""
    for name in (entry.info.name, *entry.info.aliases):
        if name in _aliases:
            raise ValueError(f"two networks are called {name}")
        _aliases[name] = entry.info.name
    _entries[entry.info.name] = entry


def register_builder(build: Callable[..., Any], info: Union[DenseInfo, MethodInfo]) -> None:
    """Make a published detector or segmentor available, or a method that needs a backbone: `build` takes
    create_model's arguments that were given, by name.
    """
    if info.name in _aliases or info.name in _builders:
        raise ValueError(f"two networks are called {info.name}")
    _builders[info.name] = build
    if isinstance(info, DenseInfo):
        _dense[info.name] = info
    else:
        _methods[info.name] = info


def _entry(name: str) -> Entry:
    if name in _builders:
        raise UserError(f"{name} is no classifier, which is wanted here (mindvit.list_models() has them)")
    if name not in _aliases:
        base, _, tag = name.partition(".")
        tags = [f".{alias.partition('.')[2]}" for alias in _aliases if alias.startswith(f"{base}.")]
        if tag and base in _aliases:
            known = f"has no tag but {' and '.join(tags)}" if tags else "has no tags"
            raise UserError(f"unknown model {name!r}: {base} {known} (all models: mindvit.list_models())")
        raise UserError(
            f"unknown model {name!r}{nearest(name, [*_aliases, *_builders])} (all models: mindvit.list_models())"
        )
    return _entries[_aliases[name]]


def list_models(pattern: str = "*", task: str = CLASSIFICATION) -> list[str]:
    """Names of networks, in alphabetical order; aliases are left out.

    Args:
        pattern: a shell pattern, such as "crossvit_*".
        task: "classification" or "segmentation".

    Returns:
        The canonical names that match.

    Raises:
        UserError: an unknown task.
    """
    tasks = {CLASSIFICATION, *(info.task for info in _dense.values())}
    if task not in tasks:
        raise UserError(f"list_models: task is {task!r}, but must be one of {', '.join(sorted(tasks))}")
    names = _entries if task == CLASSIFICATION else [name for name, info in _dense.items() if info.task == task]
    return sorted(fnmatch.filter(names, pattern))


def dense_info(name: str) -> DenseInfo:
    """The facts of a published detector or segmentor by name; UserError for an unknown one."""
    if name not in _dense:
        raise UserError(f"no published detector or segmentor is called {name!r}{nearest(name, _dense)}")
    return _dense[name]


def network_info(name: str) -> NetworkInfo:
    """What is known of a network of any task: a classifier, a published detector or segmentor, or a method.

    UserError for an unknown name.
    """
    return _dense.get(name) or _methods.get(name) or _entry(name).info


def is_method(name: str) -> bool:
    """Whether the name is of a detector's or segmentor's method, which needs a backbone."""
    return name in _methods


def model_info(name: str) -> ModelInfo:
    """The facts of a network, without building it.

    Args:
        name: its name or an alias.

    Returns:
        Size, counts, published accuracy with its source.

    Raises:
        UserError: an unknown name; the message has the nearest one.
    """
    return _entry(name).info


def model_config(name: str) -> dict[str, Any]:
    """The arguments of its family's class that make a network; variants that differ in weights or image size alone
    share them.
    """
    return dict(_entry(name).config)


def pretrained_cfg(name: str) -> dict[str, Any]:
    """What timm calls so: how images are prepared for a network's published weights, and what these look like.

    Args:
        name: its name or an alias.

    Returns:
        architecture, num_classes, input_size (3, H, W), fixed_input_size (whether only that size fits the weights as
        they are), crop_pct, crop_mode, interpolation, mean, std, and classifier, the names of the cells that give
        logits.

    Raises:
        UserError: an unknown name.
    """
    entry = _entry(name)
    info, heads = entry.info, entry.build.HEADS
    return {
        "architecture": info.name,
        "num_classes": IMAGENET_CLASSES,
        "input_size": (RGB, info.input_size, info.input_size),
        "fixed_input_size": "img_size" in entry.config,
        "crop_pct": info.crop_pct,
        "crop_mode": info.crop_mode,
        "interpolation": info.interpolation,
        "mean": info.mean,
        "std": info.std,
        "classifier": heads[0] if len(heads) == 1 else heads,
    }


def input_sizes(
    name: str, image_resize: Optional[int] = None, img_size: Any = None
) -> tuple[int, Optional[tuple[int, int]]]:
    """The side of the square images, px, that fits a network by name, and the img_size to build it with so that it
    computes them at that size.

    One is derived from the other, and neither given means the network's own. CrossViT's img_size is (small-patch,
    large-patch branch), or an int, the first; for other families it is None. UserError for sizes that the family can't
    take or that contradict each other.
    """
    entry = _entry(name)
    built_for = entry.config.get("img_size")
    if img_size is not None and built_for is None:
        raise UserError(
            f"{entry.info.name} is not built for one size: it takes images as they come (leave img_size out; recipes "
            "say image_resize)"
        )
    config = entry.config if img_size is None else {**entry.config, "img_size": img_size}
    own = config.get("img_size", entry.info.input_size)
    own = own if isinstance(own, int) else own[0]
    if img_size is not None and image_resize not in (None, own):
        raise UserError(
            f"image_resize {image_resize} doesn't fit img_size {img_size}, with which {entry.info.name} takes "
            "images of "
            f"{own} px (leave one of the two out: it is derived)"
        )
    side = own if image_resize is None else image_resize
    return side, entry.build.sizes_for(config, side)


def _check_arguments(name: str, given: Mapping[str, Any], known: set[str]) -> None:
    for key in given:
        if key == "img_size" and key not in known:
            raise UserError(
                f"{name} is not built for one size: it takes images as they come "
                f"(leave img_size out; recipes say image_resize)"
            )
        if key not in known:
            raise UserError(f"{name} has no argument {key!r}{nearest(key, known)}")


def create_model(
    name: str,
    num_classes: Optional[int] = None,
    in_channels: int = RGB,
    drop_path_rate: Optional[float] = None,
    img_size: Any = None,
    features_only: bool = False,
    out_indices: Optional[Sequence[int]] = None,
    pretrained: Pretrained = None,
    for_platform: Optional[platform.Platform] = None,
    **overrides: Any,
) -> Any:
    """A network by name or alias, freshly initialized; or one that was published, with its weights.

    Args:
        name: of the registry; a folder that `mindvit publish` wrote, or hf:OWNER/NAME; or "mindcv/NAME": mindcv's
            network of that name, with mindcv's arguments. Detectors and segmentors take `backbone_weights` (as
            `pretrained`), `backbone_config` and, if the name is a method's ("upernet"), `backbone`.
        num_classes: None means ImageNet's 1000, or a segmentor's own; 0 leaves the classifier out.
        in_channels: the images'.
        drop_path_rate: None means the paper's.
        img_size: px; None means the variant's own.
        features_only: give feature maps (B, C, H', W'), described by `feature_info`, instead of logits.
        out_indices: which ones; None: those that the authors' detectors take.
        pretrained: True: published weights, those whose accuracy is quoted; "timm", "pytorch", "hf" or "mmpretrain":
            the same from that source; "hf:OWNER/NAME"; or a file whose weights must all fit (else load_weights).
        for_platform: what it is built for, by default this machine; platform.PORTABLE for files that others read.
        overrides: other arguments of the family's class (drop_rate, attn_drop_rate, embed_dim, ...).

    Returns:
        A cell: (B, in_channels, H, W) float32 -> (B, num_classes), or feature maps; a segmentor's (B, num_classes,
        H, W); a detector's as create_detector says.

    Raises:
        UserError: an unknown name or argument.
    """
    common = {"num_classes": num_classes, "in_channels": in_channels, "drop_path_rate": drop_path_rate}
    features = {"features_only": features_only, "out_indices": out_indices}
    if name not in _aliases and name not in _builders and is_published(name):
        common["img_size"] = img_size
        return _create_published(name, common, {**features, **overrides}, pretrained, for_platform)
    if name in _builders:
        if (img_size, features_only, out_indices) != (None, False, None):
            raise UserError(f"{name} is no classifier: it has no img_size, features_only and out_indices")
        return _builders[name](for_platform=for_platform, **_files(name, pretrained, overrides), **common)
    common["num_classes"] = IMAGENET_CLASSES if num_classes is None else num_classes
    if name.startswith(mindcv.THEIRS):
        return mindcv.create(name, pretrained, img_size=img_size, **common, **features, **overrides)
    overrides.update({} if img_size is None else {"img_size": img_size})
    return _create(_entry(name), common, overrides, features, pretrained, for_platform)


def _create_published(
    name: str,
    common: Mapping[str, Any],
    overrides: Mapping[str, Any],
    pretrained: Pretrained,
    for_platform: Optional[platform.Platform],
) -> Any:
    """A network that `mindvit publish` wrote: as it was built there, but for what is asked for here."""
    info = published.read(name)
    asked = {key: value for key, value in common.items() if value != (RGB if key == "in_channels" else None)}
    arguments = {**info.arguments, **asked, **overrides, "pretrained": pretrained or name}
    return create_model(info.model, for_platform=for_platform, **arguments)


def _create(
    entry: Entry,
    common: dict[str, Any],
    overrides: Mapping[str, Any],
    features: Mapping[str, Any],
    pretrained: Pretrained,
    for_platform: Optional[platform.Platform],
) -> Any:
    """A network of one of our families: see create_model."""
    config = {**entry.config, **common}
    if config["drop_path_rate"] is None:
        config["drop_path_rate"] = entry.info.drop_path_rate
    _check_arguments(entry.info.name, overrides, {*config, "drop_rate", "attn_drop_rate"})
    if features["features_only"]:
        config["num_classes"] = 0
    elif features["out_indices"] is not None:
        raise UserError("out_indices is given, but features_only is False: only feature maps can be chosen")
    from mindvit.weights.named import load_named, read_named  # which need not wait for networks to be known

    weights = read_named(pretrained, entry.info.name) if pretrained else None  # what can't be had is told first
    with platform.use(for_platform) if for_platform else contextlib.nullcontext():
        net = entry.build(**{**config, **overrides})
    net.model_name, net.pretrained_cfg = entry.info.name, pretrained_cfg(entry.info.name)
    result = Backbone(net, features["out_indices"]) if features["features_only"] else net
    if weights:
        load_named(result, weights)
    return result


def backbone_of(name: str, given: Optional[str] = None) -> str:
    """The own name of the backbone of a published detector or segmentor, or of the one that is given with a method."""
    backbone = _dense[name].backbone if name in _dense else given or name
    return _aliases.get(backbone, backbone)


def _files(name: str, pretrained: Pretrained, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A detector's or segmentor's arguments with files for the weights that are asked for by name: its own, or those of
    its backbone. UserError if they can't be had.
    """
    arguments: dict[str, Any] = {**overrides, "pretrained": pretrained}
    wanted = overrides.get("backbone_weights")
    if pretrained:
        arguments["pretrained"] = weights_file(pretrained, name)
    if wanted:
        arguments["backbone_weights"] = weights_file(wanted, backbone_of(name, overrides.get("backbone")))
    return arguments
