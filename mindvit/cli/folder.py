"""`mindvit train FOLDER` and `inspect-data FOLDER`: a recipe, a split, weights, a batch and a rate for a folder of
images.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional, Sequence

from mindvit.errors import UserError
from mindvit.recipe.commandline import COMMAND_LINE
from mindvit.recipe.schema import Recipe

if TYPE_CHECKING:
    from mindvit.data.datasets.base import LabelledDataset

SIZES = ((200, "finetune/small"), (2000, "finetune/medium"))  # up to so many images
LARGE = "finetune/large"
SPLIT_ALREADY = ("train", "val")
LEAST_STEPS = 3  # of an epoch
SCRATCH = {"pretrained": False, "new_head": False, "lr": 5e-4, "layer_decay": 1.0}  # without weights to start from
# On a CPU some thousand images are an hour's work for this network and half a day's for the largest recipe's; without
# weights, which were trained at a size, a smaller one at a smaller size takes minutes.
ON_CPU: dict[str, object] = {"model": "xcit_tiny_12_p16_224_distill"}
SCRATCH_ON_CPU: dict[str, object] = {"model": "xcit_nano_12_p16_224", "image_resize": 128}
Read = Callable[[Sequence[str]], Recipe]  # a command line -> its recipe


@dataclass(frozen=True)
class Chosen:
    """config: the recipe's file; lines: for the user."""

    recipe: Recipe
    config: str
    lines: list[str]


def command_line(
    arguments: Sequence[str], about: str, extra: Sequence[Any], prog: str, weights: bool = True
) -> tuple[Recipe, dict[str, Any], list[str]]:
    """What a command line with train.FOLDER among its `extra` options says: the recipe, the options that are no keys,
    and lines for the user. weights: whether those that the recipe starts from are fetched.
    """
    from mindvit.recipe.commandline import parse, parser

    words = vars(parser(about, extra, prog=prog).parse_args(arguments))
    if words.get("folder") is None:
        return *parse(arguments, about, extra, prog=prog), []

    def read(these: Sequence[str]) -> Recipe:
        return parse(these, about, extra, prog=prog)[0]

    chosen = recipe_for(words["folder"], arguments, read, words.get("config"), weights)
    return chosen.recipe, {**words, "config": chosen.config}, chosen.lines


def recipe_for(
    folder: str, arguments: Sequence[str], read: Read, config: Optional[str], weights: bool = True
) -> Chosen:
    """What to train on a folder with a sub-folder of images a class, or with train/ and val/.

    Args:
        folder: of the images.
        arguments: the command line with it.
        read: makes a recipe of a command line.
        config: the recipe that the command line names; None: one of configs/finetune by the number of images.
        weights: whether those that it starts from are fetched.

    Returns:
        The recipe, its file, and lines that say what was chosen.

    Raises:
        UserError: it is no such folder, or says something else than the command line.
    """
    from mindvit.data.datasets.build import open_dataset
    from mindvit.data.datasets.split_folder import VAL_SHARE

    if not os.path.isdir(folder):
        raise UserError(f"{folder} is no folder of images (a recipe is named by --config, its keys by --KEY VALUE)")
    given = read(arguments if config else ["--config", LARGE, *arguments])
    if given.data.data_dir is not None and given.origins["data_dir"] == COMMAND_LINE:
        raise UserError(f"give the folder of images once: {folder}, or --data_dir {given.data.data_dir}")
    data: dict[str, object] = {"data_dir": folder}
    split = any((Path(folder) / name).is_dir() for name in SPLIT_ALREADY)
    if not split and given.data.val_share is None:
        data["val_share"] = VAL_SHARE
    where = f"mindvit train {folder}"
    opened = given.replace(where, **data)
    train = open_dataset(opened.data, "train")
    val = open_dataset(opened.data, "val", train.class_names)
    lines = counted(folder, train, val)
    name = next((name for most, name in SIZES if len(train) + len(val) <= most), LARGE)
    if config is None:
        given = given if name == LARGE else read(["--config", name, *arguments])
        lines.append(f"recipe: configs/{name}.yaml (another: --config)")
    recipe = given.replace(where, **data)
    if config is None:
        recipe = fitted(recipe, len(train), where, lines)
        if weights:
            recipe = with_weights(recipe, where, lines)
        if recipe.origins["ckpt_save_dir"] != COMMAND_LINE:
            recipe = recipe.replace(where, ckpt_save_dir=os.path.join("runs", Path(folder).resolve().name))
    return Chosen(recipe, config or f"configs/{name}.yaml", lines)


def counted(folder: str, train: LabelledDataset, val: LabelledDataset) -> list[str]:
    """How many images and classes there are, and what can't be measured. UserError for a single class."""
    from mindvit.data.datasets.base import some

    if len(train.class_names) == 1:
        only = train.class_names[0]
        raise UserError(
            f"{folder} has one class, {only}, and there is nothing to tell apart (if the folders of the classes lie in "
            f"{os.path.join(folder, only)}, give that)"
        )
    total = len(train) + len(val)
    lines = [f"{total} images in {len(train.class_names)} classes: {len(train)} to train on, {len(val)} to validate"]
    without = [name for name, count in zip(train.class_names, val.class_counts()) if not count]
    if without:
        lines.append(f"WARNING: no validation image of {some(without)}: how well that is told apart is not measured")
    return lines


def fitted(recipe: Recipe, images: int, where: str, lines: list[str]) -> Recipe:
    """The recipe with a batch of which LEAST_STEPS make an epoch, if its own is larger."""
    batch = recipe.data.batch_size
    while batch > 1 and batch * LEAST_STEPS > images:
        batch //= 2
    if batch == recipe.data.batch_size or recipe.origins["batch_size"] == COMMAND_LINE:
        return recipe
    lines.append(f"batch_size: {batch}, so that {images} images are at least {min(LEAST_STEPS, images)} steps")
    return recipe.replace(where, batch_size=batch)


def with_weights(recipe: Recipe, where: str, lines: list[str]) -> Recipe:
    """The recipe, on a CPU with a network for one, if the weights that it starts from can be had; else one that starts
    without.
    """
    from mindvit.hub.resolve import weights_file
    from mindvit.models import model_info
    from mindvit.runtime.device import choose_target

    options, asked = recipe.model, recipe.origins["pretrained"] == COMMAND_LINE
    if options.ckpt_path or asked or not options.pretrained:
        return recipe.replace(where, pretrained=False) if options.ckpt_path and not asked else recipe
    on_cpu = recipe.origins["model"] != COMMAND_LINE and choose_target(recipe.runtime.device_target)[0] == "CPU"
    changed = dict(ON_CPU) if on_cpu else {}
    name = model_info(str(changed.get("model", options.model))).name
    try:
        weights_file(options.pretrained, name)
    except UserError as error:
        changed = {**changed, **SCRATCH, **(SCRATCH_ON_CPU if on_cpu else {})}
        lines.append(
            f"WARNING: no published weights of {name} ({error}): training starts from nothing, which needs many more "
            "images and epochs"
        )
    changed = {key: value for key, value in changed.items() if recipe.origins[key] != COMMAND_LINE}
    chosen = recipe.replace(where, **changed)
    if chosen.model.model != options.model:
        size = chosen.augment.image_resize
        lines.append(
            f"model: {chosen.model.model}{f' at {size} px' if size else ''}, as on a CPU the recipe's "
            f"{options.model} takes hours (another: --model, --image_resize)"
        )
    return chosen
