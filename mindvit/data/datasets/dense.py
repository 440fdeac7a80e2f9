"""The data sets of segmentation that a recipe names."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from mindvit.data import decoding
from mindvit.data.classes import read_classes
from mindvit.data.datasets.base import Dataset
from mindvit.data.datasets.label_folder import LabelMapDataset, Labels, Layout, pairs
from mindvit.data.datasets.scenes import SceneMaps
from mindvit.data.transforms.dense import IGNORED
from mindvit.errors import UserError
from mindvit.recipe.schema import Recipe

LABEL_MAPS = ("scenes", "segmentation", "ade20k", "cityscapes")
ADE20K_CLASSES = "objectInfo150.txt"  # of the official folder: numbers, shares, and names in the last column
ADE20K_SPLITS = {"train": "training", "val": "validation"}
# Cityscapes' classes that count, with their `labelIds` (the data set's own scripts, labels.py)
CITYSCAPES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}


def open_label_maps(recipe: Recipe, split: str) -> Dataset:
    """The images of `split` ('train' or 'val'), each with its label map (H, W) as target.

    UserError for a data set without label maps, and for a folder that is missing or inconsistent.
    """
    data = recipe.data
    if data.dataset not in LABEL_MAPS:
        raise UserError(
            f"{recipe.origins['dataset']}: dataset is {data.dataset}, which has no label maps, but "
            f"{recipe.model.model} is a segmentor: give dataset: {' or '.join(LABEL_MAPS)}"
        )
    decoding.allow(data.max_pixels)
    if data.dataset == "scenes":
        return SceneMaps(split)
    root = _root(recipe)
    layout, labels = _described(recipe, root, split)
    files, passed_over = pairs(root, layout)
    dataset = LabelMapDataset(files, labels, data.max_pixels, root / layout.images)
    dataset.passed_over = passed_over
    dataset.look()
    return dataset


def _root(recipe: Recipe) -> Path:
    data = recipe.data
    accepted = {
        "segmentation": "a folder with images/train, images/val, annotations/train, annotations/val and classes.txt",
        "ade20k": f"the official folder, with images/training, annotations/training, ... and {ADE20K_CLASSES}",
        "cityscapes": "the official folder, with leftImg8bit/train, gtFine/train, ...",
    }[data.dataset]
    if data.data_dir is None:
        raise UserError(f"data_dir is not given, but dataset: {data.dataset} needs it: {accepted}")
    root = Path(data.data_dir)
    if not root.is_dir():
        state = "is not a folder" if root.exists() else "does not exist"
        raise UserError(f"data_dir {root} {state}; give {accepted}")
    return root


def _described(recipe: Recipe, root: Path, split: str) -> tuple[Layout, Labels]:
    """Where the files of a split lie, and what their values mean."""
    data, reduced = recipe.data, recipe.segmentation.reduce_zero_label
    name = data.train_split if split == "train" else data.val_split
    if data.dataset == "ade20k":
        name = ADE20K_SPLITS.get(name, name)
        labels = Labels(_ade20k_classes(recipe, root), ADE20K_CLASSES, True if reduced is None else reduced)
        return Layout(f"images/{name}", f"annotations/{name}"), labels
    if data.dataset == "cityscapes":
        table = np.full(256, IGNORED, np.uint8)
        table[list(CITYSCAPES.values())] = range(len(CITYSCAPES))
        layout = Layout(f"leftImg8bit/{name}", f"gtFine/{name}", "_leftImg8bit.png", "_gtFine_labelIds.png")
        return layout, Labels(tuple(CITYSCAPES), "Cityscapes", table=table)
    file = data.classes or root / "classes.txt"
    if not Path(file).is_file():
        raise UserError(
            f"{file} does not exist: dataset: segmentation needs the classes' names, one a line, in the order of their "
            "numbers (or --classes FILE)"
        )
    return Layout(f"images/{name}", f"annotations/{name}"), Labels(
        read_classes(file).distinct_titles(), Path(file).name, bool(reduced)
    )


def _ade20k_classes(recipe: Recipe, root: Path) -> tuple[str, ...]:
    if recipe.data.classes:
        return read_classes(recipe.data.classes).distinct_titles()
    try:
        text = (root / ADE20K_CLASSES).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{root / ADE20K_CLASSES} can't be read ({error.strerror}): it names the classes (or --classes FILE)"
        ) from None
    rows = list(csv.reader(text.splitlines(), delimiter="\t"))[1:]
    return tuple(row[-1].split(",")[0].strip() for row in rows if row)
