"""A segmentor's data before anything is trained: every image and label map read, pixels of each class, and crops as
the network gets them.
"""

from __future__ import annotations

from typing import Any, Iterator, Optional

import numpy as np

from mindvit.data.datasets.base import Dataset
from mindvit.data.datasets.build import passed_over
from mindvit.data.datasets.dense import open_label_maps
from mindvit.data.datasets.label_folder import LabelMapDataset
from mindvit.data.decoding import DecodeError
from mindvit.data.label_maps import overlaid
from mindvit.data.transforms.dense import IGNORED
from mindvit.errors import UserError
from mindvit.recipe.schema import Recipe
from mindvit.runtime.files import on_one_line
from mindvit.tasks.base import RunContext, Task
from mindvit.tasks.inspection import (
    CLASSES,
    FINDINGS,
    MOST_NAMED,
    Inspection,
    PreviewImage,
    Shown,
    first_batches,
    look_at_all,
    without_lines,
)

Counts = Optional[np.ndarray]  # pixels of each of 256 labels; None: the sample can't be used


def inspect(recipe: Recipe, shown: Shown) -> Inspection:
    """Read every image and label map of both splits. UserError where they can't be opened, as training would say it."""
    splits = {name: open_label_maps(recipe, name) for name in ("train", "val")}
    train = splits["train"]
    findings, rows = [], []
    counts: dict[str, list[np.ndarray]] = {name: [] for name in splits}
    for name, index, (pixels, fault) in look_at_all(splits, look, recipe, shown):
        if pixels is None:
            findings.append({"split": name, "image": splits[name].name(index), "what": fault})
        else:
            counts[name].append(pixels)
    sums = {name: np.array(found or [np.zeros(IGNORED + 1, np.int64)]) for name, found in counts.items()}
    for number, title in enumerate(train.class_names):
        row: dict[str, Any] = {"class": title}
        for name, found in sums.items():
            labelled = max(int(found[:, :IGNORED].sum()), 1)
            row[f"{name}_share"] = round(100 * int(found[:, number].sum()) / labelled, 4)
            row[f"{name}_images"] = int((found[:, number] > 0).sum())
        rows.append(row)
    skipped = passed_over((recipe.data.train_split, train), (recipe.data.val_split, splits["val"]))
    lines = [
        f"{len(train.class_names)} classes, {len(train)} training and {len(splits['val'])} validation images{skipped}",
        *train.remarks,
        *class_lines(rows),
        *(
            f"pixels that count nowhere: {100 * found[:, IGNORED].sum() / max(found.sum(), 1):.1f} % of {name}"
            for name, found in sums.items()
        ),
        f"can't be used: {len(findings)}" if findings else "nothing broken or labelled wrongly",
        *(f"  {finding['what']}" for finding in findings[:MOST_NAMED]),
    ]
    if findings and isinstance(train, LabelMapDataset):  # the preview shows what can be used
        train = train.without({finding["image"] for finding in findings})
    return Inspection(lines, {CLASSES: rows, FINDINGS: findings}, train)


def look(dataset: Dataset, _: str, index: int) -> tuple[Counts, str]:
    """A sample's pixels of each label, or what is wrong with it."""
    try:
        return np.bincount(np.asarray(dataset[index].target).ravel(), minlength=IGNORED + 1), ""
    except (DecodeError, UserError) as error:
        return None, on_one_line(str(error))


def class_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    """What the classes' shares of the training pixels say."""
    there = sorted((row for row in rows if row["train_images"]), key=lambda row: -row["train_share"])
    if there:
        first, last = there[0], there[-1]
        yield (
            f"shares of the labelled training pixels: {first['train_share']:.2f} % ({first['class']}) to "
            f"{last['train_share']:.4f} % ({last['class']})"
        )
    yield from without_lines(rows, "images", "a pixel")


def preview(task: Task, ctx: RunContext, train: Dataset, batches: int) -> Iterator[PreviewImage]:
    """The crops of the first batches of a run under their labels' colours. UserError if the images don't fill a
    batch.
    """
    names = ctx.class_names
    for images, labels, _ in first_batches(task, ctx, train, batches):
        for image, wanted in zip(images, labels):
            counts = np.bincount(wanted.ravel(), minlength=IGNORED + 1)[:IGNORED]
            there = [names[number] for number in np.argsort(-counts, kind="stable") if counts[number]]
            yield PreviewImage(overlaid(image, wanted), ", ".join(there[:MOST_NAMED]) or "no label")
