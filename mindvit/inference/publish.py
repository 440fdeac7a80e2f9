"""A trained network as hubs want it: model.safetensors and config.json. create_model and Predictor read both back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Optional

from mindvit.errors import UserError
from mindvit.hub.published import OURS
from mindvit.hub.resolve import CONFIG, FILES
from mindvit.inference import side_file
from mindvit.models import ModelInfo, network_info
from mindvit.recipe.schema import FIELDS, Recipe, build
from mindvit.runtime import files
from mindvit.tasks import task_of
from mindvit.tasks.dense import DenseTask
from mindvit.version import __version__
from mindvit.weights.checkpoint_info import CheckpointInfo
from mindvit.weights.load import Arrays
from mindvit.weights.readers import read
from mindvit.weights.write import save_weights

BEST = "*-best.ckpt"


@dataclass(frozen=True)
class Trained:
    """What a run left: its best weights, the recipe that they were trained with, and what they say of themselves.

    source: the checkpoint's name. taken: which set of its weights, where it holds several.
    """

    arrays: Arrays
    told: CheckpointInfo
    recipe: Recipe
    source: str
    taken: Optional[str]

    @property
    def model(self) -> str:
        """The network's name."""
        return network_info(self.recipe.model.model).name


def read_trained(place: Path, take: Optional[str] = None) -> Trained:
    """The best checkpoint in a run's folder, or a checkpoint. UserError for a place without one of ours."""
    path = place
    if place.is_dir():
        found = sorted(place.glob(BEST))
        if len(found) != 1:
            there = f"{len(found)} of them" if found else "none"
            raise UserError(f"{place} should have one {BEST}, and has {there}: give a run's folder, or the checkpoint")
        path = found[0]
    content = read(path, take)
    told = CheckpointInfo.of(content)
    if not told.model:
        raise UserError(f"{path} is no checkpoint of a run of mindvit: it doesn't say its network (mindvit convert)")
    return Trained(content.arrays, told, told.fill(build({}, {})), path.name, content.taken)


def without_paths(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's keys but for those that name folders and files of the machine that it ran on."""
    return {key: value for key, value in recipe.items() if not (key in FIELDS and FIELDS[key][1].metadata["path"])}


def config(trained: Trained) -> dict[str, Any]:
    """What config.json says: timm's keys, and ours under `mindvit`."""
    told, options = trained.told, trained.recipe.model
    info = network_info(trained.model)
    arguments: dict[str, Any] = {"num_classes": told.num_classes, "img_size": options.img_size}
    task = task_of(trained.recipe)
    if isinstance(task, DenseTask):
        arguments.update(task.network_arguments(trained.recipe))
    if options.in_channels != FIELDS["in_channels"][1].default:
        arguments["in_channels"] = options.in_channels
    ours = {
        "version": __version__,
        "model": trained.model,
        "task": info.task,
        "arguments": {key: value for key, value in arguments.items() if value is not None},
        "recipe": without_paths(told.recipe),
        "source": trained.source,
        "taken": trained.taken,
    }
    if not isinstance(info, ModelInfo):
        names = list(told.class_names)
        return {"architecture": info.name, "num_classes": told.num_classes, "label_names": names, OURS: ours}
    side = side_file.contents(info, told, trained.recipe.augment)
    del side["task"]  # said below
    top = {key: side.pop(key) for key in ("architecture", "num_classes", "label_names")}
    return {**top, "pretrained_cfg": {**side, "num_classes": told.num_classes}, OURS: ours}


def write(trained: Trained, folder: Path) -> list[Path]:
    """model.safetensors and config.json in a folder; the files written. UserError if it can't be written."""
    told = trained.told
    meta = {
        "model": trained.model,
        "num_classes": told.num_classes,
        "class_names": list(told.class_names),
        "recipe": without_paths(told.recipe),
        "taken": trained.taken,
        "source": trained.source,
        "mindvit": __version__,
    }
    weights, described = folder / FILES[0], folder / CONFIG
    save_weights(weights, trained.arrays, meta)
    try:
        files.write_text(described, json.dumps(config(trained), indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(f"{described} can't be written: {error.strerror}") from None
    return [weights, described]
