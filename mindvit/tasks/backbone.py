"""What detectors' and segmentors' runs have in common: the network, and the weights that its backbone starts from."""

from __future__ import annotations

from typing import Any, Mapping, Optional

from mindvit.errors import UserError
from mindvit.hub.resolve import is_name
from mindvit.layers.sync_batch_norm import synchronize_batch_norm
from mindvit.models import create_model
from mindvit.models.registry import backbone_of
from mindvit.recipe.schema import Recipe
from mindvit.runtime import console
from mindvit.tasks.base import RunContext
from mindvit.weights import load_weights
from mindvit.weights.named import read_named
from mindvit.weights.readers import WeightsFile


def starting_backbone(recipe: Recipe) -> Recipe:
    """The recipe in which published weights that are asked for by `pretrained` are the backbone's: of whole detectors
    and segmentors none can be fetched. UserError if two are asked for.
    """
    options = recipe.model
    if not is_name(options.pretrained):
        return recipe
    if options.backbone_weights:
        raise UserError(
            f"{recipe.origins['pretrained']}: pretrained is {options.pretrained}, which means the backbone's weights, "
            f"and backbone_weights is {options.backbone_weights}: leave one of them out"
        )
    return recipe.replace(recipe.origins["pretrained"], pretrained=False, backbone_weights=options.pretrained)


def read_backbone(recipe: Recipe) -> Optional[WeightsFile]:
    """What a recipe's backbone starts from, fetched if it is named; None for initial values. UserError if it can't be
    had.
    """
    options = recipe.model
    if not options.backbone_weights:
        return None
    return read_named(options.backbone_weights, backbone_of(options.model, options.backbone))


def dense_network(ctx: RunContext, arguments: Mapping[str, Any], size: tuple[int, int]) -> Any:
    """A recipe's detector or segmentor with initial values, or its backbone's weights.

    arguments: create_model's, beside the common ones; size: height and width of what it is trained on, px, which its
    backbone must be able to take.
    """
    options = ctx.recipe.model
    weights = read_backbone(ctx.recipe)  # what can't be had is told before a network is built
    net = create_model(options.model, ctx.num_classes, options.in_channels, options.drop_path_rate, None, **arguments)
    net.check_size(*size)
    if weights:
        report = load_weights(net.backbone, weights)
        if ctx.device.is_main:
            console.log_info(f"the backbone's weights from {weights.where}: {report}")
    if ctx.recipe.segmentation.sync_bn:
        synchronize_batch_norm(net, ctx.device.ranks)
    return net
