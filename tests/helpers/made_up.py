"""What the pages' commands work on, made up: checkpoints of runs, released files, runs' folders, a cache of published
weights.
"""

from __future__ import annotations

import json
from pathlib import Path

from torchfile import save_torch

from mindvit.engine import checkpoint
from mindvit.hub.cache import place_of
from mindvit.hub.sources import source_of
from mindvit.models import create_model, model_info, registry
from mindvit.recipe.commandline import describe, parse
from mindvit.weights import names
from mindvit.weights.write import save_weights

WHOLE = dict(registry._entries)
CLASSES = 5
LOG = (
    "epoch,step,lr,train_loss,val_loss,top1,top5,img_s\n"
    "1,44,0.0003,2.1,1.9,40,80,150\n2,88,0.0006,1.5,1.2,60,90,155.1\n"
)


def trained(path: Path, *words: str, classes: int = CLASSES) -> Path:
    """A checkpoint of a run with a recipe; the weights are random."""
    values = parse(words, "")[0].flat()
    net = create_model(values["model"], classes, img_size=values["img_size"])
    class_names = [str(kind) if classes == 10 else f"class_{kind}" for kind in range(classes)]
    path.parent.mkdir(parents=True, exist_ok=True)
    return checkpoint.save(
        path,
        list(net.get_parameters()),
        {"model": values["model"], "num_classes": classes, "class_names": class_names, "recipe": values},
    )


def released(path: Path, name: str, classes: int = CLASSES) -> Path:
    """Weights of a network as its authors release them."""
    arrays = {item.name: item.asnumpy() for item in create_model(name, classes).get_parameters()}
    if path.suffix == ".pth":
        return save_torch(path, {"model": names.outwards(arrays, names.origin("timm", model_info(name).family)).arrays})
    save_weights(path, arrays, {})
    return path


def run_folder(path: Path, *words: str) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "log.csv").write_text(LOG, "utf-8")
    (path / "recipe.yaml").write_text(describe(parse(words, "")[0]), "utf-8")
    (path / "result.json").write_text(json.dumps({"model": "crossvit_9", "top1": 60.0}), "utf-8")


def publish_by_name(cache: Path) -> None:
    """Made-up weights where published ones are kept, for the networks that the pages ask for by name: predictors'
    among the zoo's, others as they are.
    """
    zoo = dict(registry._entries)
    for name, entries in (("crossvit_9", zoo), ("xcit_tiny_12_p16_224", zoo), ("xcit_nano_12_p16_224", WHOLE)):
        path = place_of(source_of(name), cache)
        path.parent.mkdir(parents=True, exist_ok=True)
        registry._entries.update(entries)
        arrays = {item.name: item.asnumpy() for item in create_model(name).get_parameters()}
        save_torch(path, arrays)
    registry._entries.update(zoo)
