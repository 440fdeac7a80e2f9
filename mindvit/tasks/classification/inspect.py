"""A classifier's data before anything is trained: counts, faults, duplicates, and batches as the network gets them."""

from __future__ import annotations

from collections import Counter
from typing import Any, Iterator, Mapping, Sequence

import numpy as np
from mindspore import Tensor

from mindvit.data.datasets.base import LabelledDataset, some
from mindvit.data.datasets.build import check_same_classes, open_dataset, passed_over, remarks
from mindvit.data.findings import KINDS, Finding, Seen, find, look
from mindvit.layers.augment import AugmentImages
from mindvit.recipe.schema import Recipe
from mindvit.tasks.base import RunContext, Task, draw_generator
from mindvit.tasks.classification.augment import BatchAug
from mindvit.tasks.inspection import (
    CLASSES,
    FINDINGS,
    MOST_NAMED,
    Inspection,
    PreviewImage,
    Shown,
    first_batches,
    look_at_all,
)

FEW, UNEVEN = 10, 10  # training images of a class; images of the commonest class over those of the rarest


def inspect(recipe: Recipe, shown: Shown) -> Inspection:
    """Read every image of both splits. UserError where they can't be opened, as training would say it."""
    train = open_dataset(recipe.data, "train")
    val = open_dataset(recipe.data, "val", train.class_names)
    check_same_classes(train, val)
    splits = {"train": train, "val": val}
    images = [image for _, _, image in look_at_all(splits, look, recipe, shown)]
    findings = find(images)
    skipped = passed_over((recipe.data.train_split, train), (recipe.data.val_split, val))
    lines = [
        f"{len(train.class_names)} classes, {len(train)} training and {len(val)} validation images{skipped}",
        *remarks(train),
        *count_lines(train, val),
        *file_lines([image for image in images if not image.broken]),
        *finding_lines(findings),
    ]
    rows = list(finding_rows(findings, train.class_names))
    return Inspection(lines, {CLASSES: class_rows(train, val), FINDINGS: rows}, train)


def class_rows(train: LabelledDataset, val: LabelledDataset) -> list[dict[str, Any]]:
    """A row for each class: its images in both splits."""
    counts = [np.bincount(split.labels, minlength=len(train.class_names)) for split in (train, val)]
    return [
        {"class": name, "train": int(first), "val": int(second)}
        for name, first, second in zip(train.class_names, *counts)
    ]


def count_lines(train: LabelledDataset, val: LabelledDataset) -> Iterator[str]:
    """What the counts of images say."""
    rows = [row for row in class_rows(train, val) if row["train"]]
    least, most = (pick(rows, key=lambda row: row["train"]) for pick in (min, max))
    yield f"images a class: {least['train']} ({least['class']}) to {most['train']} ({most['class']})"
    few = [row["class"] for row in rows if row["train"] < FEW]
    without = [row["class"] for row in rows if not row["val"]]
    if most["train"] > UNEVEN * least["train"]:
        yield f"uneven: the commonest class has {most['train'] / least['train']:.0f} times the rarest's images"
    if few:
        yield f"fewer than {FEW} training images: {some(few)}"
    if without:
        yield f"without a validation image: {some(without)}"
    alike = Counter(" ".join(name.casefold().split()) for name in train.class_names)
    twice = [name for name in train.class_names if alike[" ".join(name.casefold().split())] > 1]
    if twice:
        yield f"names that differ by case or spaces only: {some(twice)}"


def file_lines(images: Sequence[Seen]) -> Iterator[str]:
    """Sizes, modes and formats of all images."""
    if images:
        sides = np.array([image.size for image in images])
        names = ("width", "height")
        parts = [
            f"{name} {low} to {high} px (median {np.median(side):.0f})"
            for name, side, low, high in zip(names, sides.T, sides.min(0), sides.max(0))
        ]
        yield f"sizes: {', '.join(parts)}"
    for title, kinds in (("modes", Counter(i.mode for i in images)), ("formats", Counter(i.format for i in images))):
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common() if kind)
        if told:
            yield f"{title}: {told}"


def finding_lines(findings: Sequence[Finding]) -> Iterator[str]:
    """A line for each kind, and its first findings."""
    if not findings:
        yield "nothing broken, twice or odd"
    for kind in KINDS:
        those = [finding for finding in findings if finding.kind == kind]
        if those:
            yield f"{kind}: {len(those)}"
        for finding in those[:MOST_NAMED]:
            yield f"  {some([image.name for image in finding.images], 2)}: {finding.what}"
        if len(those) > MOST_NAMED:
            yield f"  and {len(those) - MOST_NAMED} more in {FINDINGS}"


def finding_rows(findings: Sequence[Finding], names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """A row for each image of each finding; those of one finding have its number."""
    for number, finding in enumerate(findings, 1):
        for image in finding.images:
            yield {
                "number": number,
                "kind": finding.kind,
                "split": image.split,
                "class": names[image.label],
                "image": image.name,
                "what": finding.what,
            }


def preview(task: Task, ctx: RunContext, train: LabelledDataset, batches: int) -> Iterator[PreviewImage]:
    """The images of the first batches of a run: cropped, flipped, coloured, mixed and erased, with their soft labels
    (label smoothing left out). UserError if the images don't fill a batch.
    """
    (mean, std), augment = ctx.preprocessing.statistics, ctx.recipe.augment
    cell = AugmentImages(mean, std, augment.re_prob > 0, augment.mixup > 0 or augment.cutmix > 0)
    for number, (images, labels) in enumerate(first_batches(task, ctx, train, batches)):
        drawn = BatchAug(*task.draw(ctx, draw_generator(ctx, number)))
        inputs = (images, drawn.mix_mask, drawn.erase_boxes, drawn.erase_noise)
        network = cell(*map(Tensor, inputs)).asnumpy().transpose(0, 2, 3, 1)
        pixels = np.clip(np.rint(255 * (network * np.asarray(std) + np.asarray(mean))), 0, 255).astype(np.uint8)
        for image, own, other in zip(pixels, labels, labels[::-1]):
            yield PreviewImage(image, soft_label({int(own): float(drawn.lam)}, int(other), ctx.class_names))


def soft_label(shares: dict[int, float], other: int, names: Sequence[str]) -> str:
    """A class and its share with the one that it is mixed with, the larger first; the name alone where it is one."""
    ((own, share),) = shares.items()
    parts = sorted({own: share, other: 1 - share}.items(), key=lambda item: -item[1]) if own != other else [(own, 1.0)]
    known = [(names[label] if label < len(names) else str(label), part) for label, part in parts if part > 0]
    return known[0][0] if len(known) == 1 else ", ".join(f"{100 * part:.0f} % {name}" for name, part in known)
