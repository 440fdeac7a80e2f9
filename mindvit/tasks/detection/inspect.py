"""A detector's data before anything is trained: every image and its objects read, objects by class and size, and images
as the network gets them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Iterator, Mapping, Sequence

import numpy as np

from mindvit.data.datasets.base import Dataset
from mindvit.data.datasets.coco import AnnotatedDataset
from mindvit.data.datasets.detection import open_objects
from mindvit.data.decoding import DecodeError
from mindvit.data.objects import Objects
from mindvit.errors import UserError
from mindvit.recipe.schema import Recipe
from mindvit.runtime.files import on_one_line
from mindvit.tasks.base import RunContext, Task
from mindvit.tasks.detection.settings import has_masks
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

KINDS = ("small", "medium", "large")  # COCO's
LIMITS = (32**2, 96**2)  # px2, between them


@dataclass(frozen=True)
class Seen:
    """An image that was read. size: height and width, px; labels, kinds: of each object, its class and the number of
    its size in KINDS; crowds: regions that are no objects; fault: why it can't be used; remark: what is odd.
    """

    size: tuple[int, int] = (0, 0)
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    kinds: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    crowds: int = 0
    fault: str = ""
    remark: str = ""


def look(dataset: Dataset, _: str, index: int) -> Seen:
    """Read an image and its objects."""
    try:
        sample = dataset[index]
    except (DecodeError, UserError) as error:
        return Seen(fault=on_one_line(str(error)))
    found: Objects = sample.target
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    areas = sides.prod(1) if found.areas is None else found.areas
    remark = ""
    if found.masks is not None:
        empty = int((~found.masks.any((1, 2))).sum())
        remark = f"{dataset.name(index)}: {empty} objects have no pixel in their mask" * (empty > 0)
    kinds = np.digitize(areas, LIMITS)[~found.crowd]
    size = sample.image.height, sample.image.width
    return Seen(size, found.labels[~found.crowd], kinds, int(found.crowd.sum()), remark=remark)


def inspect(recipe: Recipe, shown: Shown) -> Inspection:
    """Read every image of both splits. UserError where they can't be opened, as training would say it."""
    splits = {name: open_objects(recipe, name, has_masks(recipe)) for name in ("train", "val")}
    train = splits["train"]
    images = look_at_all(splits, look, recipe, shown)
    seen = {name: [image for split, _, image in images if split == name] for name in splits}
    findings = [
        {"split": name, "image": splits[name].name(index), "what": image.fault or image.remark}
        for name, index, image in images
        if image.fault or image.remark
    ]
    rows = class_rows(train.class_names, seen)
    faults = [image.fault for _, _, image in images if image.fault]
    odd = [image.remark for _, _, image in images if image.remark]
    lines = [
        f"{len(train.class_names)} classes, {len(train)} training and {len(splits['val'])} validation images",
        *train.remarks,
        *(line for name in splits for line in split_lines(name, seen[name])),
        *class_lines(rows),
        *odd[:MOST_NAMED],
        f"can't be used: {len(faults)}" if faults else "nothing broken or annotated wrongly",
        *(f"  {fault}" for fault in faults[:MOST_NAMED]),
    ]
    if faults and isinstance(train, AnnotatedDataset):  # the preview shows what can be used
        bad = {train.name(index) for name, index, image in images if name == "train" and image.fault}
        train = train.without(bad)
    return Inspection(lines, {CLASSES: rows, FINDINGS: findings}, train)


def class_rows(names: Sequence[str], seen: Mapping[str, Sequence[Seen]]) -> list[dict[str, Any]]:
    """A row for each class: its images, and its objects by size, in each split."""
    rows: list[dict[str, Any]] = [{"class": name} for name in names]
    for split, images in seen.items():
        counts, having = np.zeros((len(names), len(KINDS)), np.int64), np.zeros(len(names), np.int64)
        for image in images:
            np.add.at(counts, (image.labels, image.kinds), 1)
            having[np.unique(image.labels)] += 1
        for row, own, number in zip(rows, counts, having):
            row[f"{split}_images"], row[f"{split}_objects"] = int(number), int(own.sum())
            row.update({f"{split}_{kind}": int(count) for kind, count in zip(KINDS, own)})
    return rows


def split_lines(name: str, images: Sequence[Seen]) -> Iterator[str]:
    """What there is in a split's images."""
    whole = [image for image in images if not image.fault]
    if not whole:
        return
    counts = np.array([len(image.labels) for image in whole])
    kinds = np.bincount(np.concatenate([image.kinds for image in whole]), minlength=len(KINDS))
    crowds = sum(image.crowds for image in whole)
    sizes = ", ".join(f"{count} {kind}" for count, kind in zip(kinds, KINDS))
    yield f"{name}: {counts.sum()} objects ({sizes})" + f" and {crowds} crowd regions" * (crowds > 0)
    empty = int((counts == 0).sum())
    yield (
        f"{name}: {np.median(counts):g} objects an image (median), {counts.max()} at most, none in {empty} of "
        f"{len(whole)} images"
    )
    sides = np.array([image.size for image in whole])
    low, high = sides.min(0), sides.max(0)
    yield f"{name}: images are {low[1]} to {high[1]} px wide and {low[0]} to {high[0]} px high"


def class_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the counts of objects say of the classes."""
    there = sorted((row for row in rows if row["train_objects"]), key=lambda row: -row["train_objects"])
    if there:
        first, last = there[0], there[-1]
        yield (
            f"training objects a class: {last['train_objects']} ({last['class']}) to {first['train_objects']} "
            f"({first['class']})"
        )
    yield from without_lines(rows, "objects", "an object")


def preview(task: Task, ctx: RunContext, train: Dataset, batches: int) -> Iterator[PreviewImage]:
    """The images of the first batches of a run with the objects that are to be learnt. UserError if the images don't
    fill a batch.
    """
    for pixels, _, boxes, labels, *others in first_batches(task, ctx, train, batches):
        for number, image in enumerate(pixels):
            there = labels[number] >= 0
            masks = np.unpackbits(others[0][number][there], 2).astype(bool) if others else None
            crowd = np.zeros(int(there.sum()), bool)
            objects = Objects(boxes[number][there], labels[number][there], masks, crowd)
            names = [ctx.class_names[label] for label in objects.labels]
            counted = Counter(names).most_common()  # of as many, the first comes first
            target = ", ".join(f"{count} x {name}" for name, count in counted)
            yield PreviewImage(image, target or "no object", objects, names)
