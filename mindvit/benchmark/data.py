"""Measuring the data pipeline: images a second and CPU milliseconds an image, from the encoded file to the uint8
batch.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

import numpy as np
from PIL import Image
from PIL import __version__ as pillow

from mindvit.data.datasets.base import Dataset
from mindvit.data.datasets.folder import FolderDataset
from mindvit.data.loader import Batch, default_workers, train_batches
from mindvit.data.workers import Processes, Workers
from mindvit.engine.setup import setup
from mindvit.errors import UserError
from mindvit.recipe.schema import Recipe
from mindvit.runtime import console, device
from mindvit.tasks import task_of
from mindvit.tasks.base import RunContext, Task
from mindvit.version import __version__

IMAGES = 256
SIZE = (500, 375)  # px: ImageNet's commonest
QUALITY = 95  # files of 100 to 110 kB, as ImageNet's
BLOBS = 12
BATCH = 32


def made_up(number: int) -> Image.Image:
    """An image as busy as a photograph: soft noise of several sizes, blobs with edges, grain. The same for the same
    number.
    """
    random = np.random.default_rng(number)
    width, height = SIZE
    pixels = np.zeros((height, width, 3), np.float32)
    for cells, weight in ((4, 1.0), (12, 0.6), (40, 0.4), (120, 0.25)):
        coarse = random.standard_normal((cells, max(2, width * cells // height), 3)).astype(np.float32)
        for channel in range(3):
            pixels[..., channel] += weight * np.asarray(
                Image.fromarray(coarse[..., channel]).resize(SIZE, Image.Resampling.BICUBIC)
            )
    y, x = np.mgrid[:height, :width]
    for _ in range(BLOBS):
        inside = ((x - random.uniform(0, width)) / random.uniform(20, 120)) ** 2 + (
            (y - random.uniform(0, height)) / random.uniform(20, 120)
        ) ** 2 < 1
        pixels[inside] = pixels[inside] * 0.5 + random.standard_normal(3)
    pixels += 0.13 * random.standard_normal((height, width, 1))
    return Image.fromarray(np.clip(128 + 48 * pixels, 0, 255).astype(np.uint8))


def made_up_folder(count: int = IMAGES) -> Path:
    """A data set of `count` made-up JPEGs in the machine's folder for temporary files, written the first time."""
    folder = Path(tempfile.gettempdir()) / f"mindvit-{SIZE[0]}x{SIZE[1]}-q{QUALITY}-{os.getuid()}" / str(count)
    if not folder.is_dir():
        console.log_info(f"writing {count} images to {folder} ...")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
            inside = Path(unfinished) / "whole" / "train" / "made_up"
            inside.mkdir(parents=True)
            for number in range(count):
                made_up(number).save(inside / f"{number:04d}.JPEG", quality=QUALITY)
            (Path(unfinished) / "whole").rename(folder)
    return folder


def kilobytes(dataset: Dataset) -> Optional[float]:
    """Mean size of an image's file, kB; None where the data set has no files."""
    paths = getattr(dataset, "paths", None)
    return (
        None
        if paths is None
        else round(sum(os.path.getsize(path) for path in paths[:IMAGES]) / 1000 / len(paths[:IMAGES]), 1)
    )


def cpu_seconds() -> float:
    """Of all threads of this process and of the children that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def timed(
    batches: Iterator[Batch],
    warmup: int,
    steps: int,
    clock: Callable[[], float] = time.perf_counter,
    cpu: Callable[[], Any] = cpu_seconds,
) -> tuple[float, Any]:
    """(images a second, CPU milliseconds an image) over `steps` batches after `warmup` ones.

    cpu: seconds used so far, one number or an array of several. Batches are made ahead, as many when the clock starts
    as when it stops.
    """
    for _ in range(warmup):
        next(batches)
    images, started, spent = 0, clock(), cpu()
    for _ in range(steps):
        images += len(next(batches)[0])
    return images / (clock() - started), 1000 * (cpu() - spent) / images


def cpu_of(workers: Workers) -> np.ndarray:
    """CPU seconds of this process with its workers, and without."""
    here = time.process_time()
    return np.array([here + (workers.cpu_seconds() if isinstance(workers, Processes) else 0), here])


def choices(recipe: Recipe) -> list[Workers]:
    """Who makes the batches: as many and of the kind that the recipe says; else 1, 2 and one a core, and both kinds."""
    asked, processes = recipe.data.num_parallel_workers, recipe.data.python_multiprocessing
    counts = [asked] if asked else sorted({1, 2, default_workers(1)})
    threads = [] if processes is True else counts
    return [*threads, *(Processes(count) for count in counts if processes is not False)]


def pipelines(ctx: RunContext, task: Task, train: Dataset, val: Dataset) -> dict[str, Iterator[Batch]]:
    """Endless batches of training and of evaluation, as train.py makes them."""
    recipe = ctx.recipe
    epochs = (
        train_batches(
            train,
            task.transform(ctx),
            task.spec(ctx).batch,
            recipe.data,
            epoch=epoch,
            seed=recipe.runtime.seed,
            workers=ctx.workers,
        )
        for epoch in itertools.count()
    )
    passes = (task.evaluator(ctx, val).batches() for _ in itertools.count())
    return {"train": itertools.chain.from_iterable(epochs), "eval": itertools.chain.from_iterable(passes)}


def described(recipe: Recipe) -> str:
    """What training does to an image on the host, in a few words."""
    augment = recipe.augment
    parts = [f"crop {augment.scale[0]:g}-{augment.scale[1]:g}", f"flip {augment.hflip:g}"]
    if augment.auto_augment:
        parts.append(augment.auto_augment)
    elif augment.color_jitter:
        parts.append(f"jitter {augment.color_jitter:g}")
    return " + ".join(parts)


def measure_data(recipe: Recipe, *, warmup: int, steps: int) -> list[dict[str, Any]]:
    """A row for each pipeline, kind and number of workers.

    They read the recipe's data set, or made-up images where it names none.
    """
    task = task_of(recipe)
    recipe = task.resolve(recipe)
    if recipe.data.data_dir or recipe.data.dataset == "digits":
        train, val = task.datasets(recipe, None, console.log_info)
    else:
        train = val = FolderDataset(made_up_folder() / "train")
    if not len(val):
        raise UserError("the validation split has no image: there is nothing to measure")
    recipe = recipe.replace("benchmark", batch_size=min(recipe.data.batch_size, BATCH, len(train)))
    ctx = setup(recipe, train)
    rows = []
    for workers in choices(recipe):
        kind = "processes" if isinstance(workers, Processes) else "threads"
        for name, batches in pipelines(dataclasses.replace(ctx, workers=workers), task, train, val).items():
            rate, (spent, here) = timed(batches, warmup, steps, cpu=functools.partial(cpu_of, workers))
            size = task.input_size(ctx)
            rows.append(
                {
                    "pipeline": name,
                    "images": recipe.data.data_dir or ("digits" if recipe.data.dataset == "digits" else "made up"),
                    "kB": kilobytes(train if name == "train" else val),
                    "resolution": f"{size}x{size}",
                    "augmentation": described(recipe) if name == "train" else "none",
                    "batch size": recipe.data.batch_size,
                    "made by": kind,
                    "workers": int(workers),
                    "img/s": round(rate, 1),
                    "CPU-ms an image": round(spent, 2),
                    "of the main process": round(here, 2),
                    "warm-up": warmup,
                    "steps": steps,
                    "pillow": pillow,
                    "mindvit": __version__,
                    "machine": device.machine(),
                    "date": datetime.date.today().isoformat(),
                }
            )
            console.log_info(
                f"{name}, {kind}: {workers}, {rate:.0f} img/s, {spent:.2f} CPU-ms an image, {here:.2f} of them in the "
                "main process"
            )
        if isinstance(workers, Processes):
            workers.close()
    return rows
