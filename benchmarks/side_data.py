"""One side's data pipeline: side_data.py mindvit|mindcv train|eval FOLDER WORKERS BATCHES -> {"img/s": ..., "CPU-ms":
...} as a line of JSON.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from side import answers_only  # noqa: E402

from mindvit.benchmark.data import BATCH, pipelines, timed  # noqa: E402
from mindvit.data.datasets.folder import FolderDataset  # noqa: E402
from mindvit.engine.setup import setup  # noqa: E402
from mindvit.models import model_info  # noqa: E402
from mindvit.recipe.commandline import parse  # noqa: E402
from mindvit.recipe.schema import Recipe  # noqa: E402
from mindvit.tasks import task_of  # noqa: E402

RECIPE = "configs/crossvit/crossvit_9_ascend.yaml"
WARMUP = 4


def mindcvs(recipe: Recipe, size: int, split: str, folder: Path, workers: int) -> Iterator[Any]:
    """Endless batches of mindcv's own pipeline with the recipe's augmentation, up to the float32 batch that it hands
    over.
    """
    from mindcv.data import create_dataset, create_loader, create_transforms

    training, augment = split == "train", recipe.augment
    dataset = create_dataset(root=str(folder), split="train", shuffle=training, num_parallel_workers=workers)
    options: dict[str, Any] = {"crop_pct": model_info(recipe.model.model).crop_pct}
    mixing: dict[str, Any] = {}
    if training:
        options = {
            "auto_augment": str(augment.auto_augment).replace("rand-", "randaug-"),
            "scale": augment.scale,
            "ratio": augment.ratio,
            "hflip": augment.hflip,
            "re_prob": augment.re_prob,
            "re_value": augment.re_value,
        }
        mixing = {"mixup": augment.mixup, "cutmix": augment.cutmix, "cutmix_prob": augment.mixup_prob}
    transform = create_transforms(
        "imagenet", image_resize=size, is_training=training, interpolation=str(augment.interpolation), **options
    )
    loader = create_loader(
        dataset,
        BATCH,
        drop_remainder=True,
        is_training=training,
        num_classes=1000,
        transform=transform,
        num_parallel_workers=workers,
        **mixing,
    )
    return (
        columns for _ in itertools.count() for columns in loader.create_tuple_iterator(num_epochs=1, output_numpy=True)
    )


def measured(who: str, split: str, folder: Path, workers: int, batches: int) -> dict[str, float]:
    """Images a second and CPU milliseconds an image of one side's pipeline over `batches` batches."""
    recipe, _ = parse(["--config", str(ROOT / RECIPE), "--batch_size", str(BATCH)], "")
    info = model_info(recipe.model.model)
    if who == "mindvit":
        dataset = FolderDataset(folder / "train")
        ctx = dataclasses.replace(setup(recipe, dataset), workers=workers)
        found: Iterator[Any] = pipelines(ctx, task_of(recipe), dataset, dataset)[split]
    else:
        found = mindcvs(recipe, recipe.augment.image_resize or info.input_size, split, folder, workers)
    rate, spent = timed(found, WARMUP, batches)
    return {"img/s": rate, "CPU-ms": spent}


def main(who: str, split: str, folder: str, workers: int, batches: int) -> None:
    """Time it, and answer with the figures on standard output."""
    answers = answers_only()
    print(json.dumps(measured(who, split, Path(folder), workers, batches)), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
