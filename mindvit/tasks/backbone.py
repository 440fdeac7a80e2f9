"""What detectors' and segmentors' runs have in common: the published weights that their backbones start from."""

from __future__ import annotations

from typing import Optional

from mindvit.errors import UserError
from mindvit.hub.resolve import is_name
from mindvit.models.registry import backbone_of
from mindvit.recipe.schema import Recipe
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
