"""What creating a detector or a segmentor by name has in common."""

from __future__ import annotations

import contextlib
import inspect
import os
from typing import Any, Callable, Mapping, Optional, Union

from mindvit.errors import UserError, nearest
from mindvit.models.network import Network
from mindvit.models.pyramid import Pyramid
from mindvit.models.registry import create_model, model_info
from mindvit.runtime import platform


def build(
    create: Callable[..., Any],
    name: str,
    method: str,
    fixed: Mapping[str, Any],
    pretrained: Union[None, str, os.PathLike] = None,
    backbone_weights: Union[None, str, os.PathLike] = None,
    for_platform: Optional[platform.Platform] = None,
    **arguments: Any,
) -> Any:
    """What `create_model` gives for the name of a detector or segmentor.

    create: makes it of a method and arguments; fixed: arguments that belong to the name. pretrained: a file with all of
    its weights; backbone_weights: one with the backbone's, from ImageNet.
    """
    if "backbone" in fixed and "backbone" in arguments:
        raise UserError(f"{name} has its backbone, {fixed['backbone']}: leave backbone out, or take {method!r}")
    known = inspect.signature(create).parameters.keys() - {"method"}
    for key in arguments:
        if key not in known:
            raise UserError(f"{name} has no argument {key!r}{nearest(key, known)}")
    if pretrained and backbone_weights:
        raise UserError(f"pretrained and backbone_weights are both given: a file of {name} has its backbone's too")
    arguments = {**fixed, **arguments}
    if fixed.get("backbone_config"):
        arguments["backbone_config"] = {**fixed["backbone_config"], **(arguments["backbone_config"] or {})}
    with platform.use(for_platform) if for_platform else contextlib.nullcontext():
        net = create(method, **arguments)
    net.model_name = name
    from mindvit.weights import load_weights  # which need not wait for networks to be known

    if pretrained:
        load_weights(net, pretrained)
    elif backbone_weights:
        load_weights(net.backbone, backbone_weights)
    return net


def classes_of(method: str, what: str, given: Optional[int], default: int) -> int:
    """How many classes a network tells apart. UserError for less than one; what: a detector, a segmentor."""
    classes = default if given is None else given
    if classes < 1:
        raise UserError(f"{method}: num_classes is {classes}, but {what} has at least 1")
    return classes


def pyramid(
    method: str,
    backbone: str,
    crossformer: Mapping[str, Any],
    config: Optional[Mapping[str, Any]],
    **common: Any,
) -> Pyramid:
    """A network's feature maps. crossformer: what CrossFormer's authors chose for the method; config: what the user
    chose, which goes before; its `out_indices` are the pyramid's and no argument of the network. UserError for one that
    has no maps to give.
    """
    if backbone.startswith("mindcv/"):
        raise UserError(f"{method}: backbone {backbone}: MindCV's networks can't be backbones (take one of mindvit's)")
    settings = dict(crossformer) if model_info(backbone).family == "crossformer" else {}
    settings.update(config or {})
    indices = settings.pop("out_indices", None)
    net: Network = create_model(backbone, num_classes=0, **common, **settings)
    return Pyramid(net, indices)
