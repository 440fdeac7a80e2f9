"""The size of images that a recipe means."""

from __future__ import annotations

from mindvit.errors import UserError
from mindvit.models import input_sizes, model_info
from mindvit.recipe.commandline import COMMAND_LINE
from mindvit.recipe.schema import Recipe
from mindvit.runtime import console, device


def sized(recipe: Recipe, checkpoint: str = "") -> Recipe:
    """The recipe with the size at which its network computes: image_resize and, for CrossViT, img_size, one derived
    from the other.

    A size on the command line counts more than one in a file, and that more than one out of `checkpoint`, whose recipe
    was taken over; of two that differ the lesser is derived anew, and the main rank says so. UserError, before anything
    is listed or built, for sizes that the network can't take or that contradict each other.
    """
    given = {"image_resize": recipe.augment.image_resize, "img_size": recipe.model.img_size}
    ranks = {key: 0 if value is None else _rank(recipe.origins[key], checkpoint) for key, value in given.items()}
    most = max(given, key=lambda key: ranks[key])
    where = recipe.origins[most] if ranks[most] else "recipe"
    name, side, built_for = recipe.model.model, recipe.augment.image_resize, recipe.model.img_size
    model_info(name)  # UserError for a name that nobody knows, whatever the sizes
    try:
        own, own_sizes = input_sizes(name)
        if checkpoint and own_sizes and built_for is None and ranks["image_resize"] <= 1:
            return recipe  # trained by a mindvit that shrank or enlarged images within the network: as it was trained
        first = built_for[0] if isinstance(built_for, tuple) else built_for
        if ranks["image_resize"] != ranks["img_size"] and first != side:
            side, built_for = (side, None) if most == "image_resize" else (None, built_for)
        side, sizes = input_sizes(name, side, built_for)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if sizes is None or given == {"image_resize": side, "img_size": sizes}:
        return recipe
    if (side, sizes) != (own, own_sizes) and device.launched_ranks()[0] == 0:
        other = f"img_size is {sizes}" if most == "image_resize" else f"image_resize is {side}, img_size {sizes}"
        console.log_info(f"{name}: {other} px, as {most} is {given[most]} ({where})")
    return recipe.replace(where if ranks[most] else "default", image_resize=side, img_size=sizes)


def _rank(origin: str, checkpoint: str) -> int:
    """How much a value from there counts: more than another's."""
    return {"default": 0, checkpoint: 1, COMMAND_LINE: 3}.get(origin, 2)
