"""The data sets of detection that a recipe names."""

from __future__ import annotations

from pathlib import Path

from mindvit.data import decoding
from mindvit.data.datasets.base import Dataset
from mindvit.data.datasets.coco import CocoDataset
from mindvit.data.datasets.scene_objects import SceneObjects
from mindvit.errors import UserError
from mindvit.recipe.schema import Recipe

WITH_OBJECTS = ("scenes", "coco")
YEAR = "2017"  # which the official folders and files end with
ACCEPTED = (
    "a folder with annotations/train.json, annotations/val.json, train/ and val/, or COCO's own with "
    f"annotations/instances_train{YEAR}.json and train{YEAR}/"
)


def open_objects(recipe: Recipe, split: str, masks: bool) -> Dataset:
    """The images of `split` ('train' or 'val'), each with its Objects as target.

    masks: whether they are wanted. UserError for a data set without objects, and for files that are missing or wrong.
    """
    data = recipe.data
    if data.dataset not in WITH_OBJECTS:
        raise UserError(
            f"{recipe.origins['dataset']}: dataset is {data.dataset}, which has no boxes, but {recipe.model.model} is "
            f"a detector: give dataset: {' or '.join(WITH_OBJECTS)}"
        )
    if data.dataset == "scenes":
        return SceneObjects(split)
    decoding.allow(data.max_pixels)
    if data.data_dir is None:
        raise UserError(f"data_dir is not given, but dataset: coco needs it: {ACCEPTED}")
    root = Path(data.data_dir)
    if not root.is_dir():
        raise UserError(f"data_dir {root} {'is not a folder' if root.exists() else 'does not exist'}; give {ACCEPTED}")
    name = data.train_split if split == "train" else data.val_split
    files = [root / "annotations" / f"{base}.json" for base in (name, f"instances_{name}", f"instances_{name}{YEAR}")]
    file = next((path for path in files if path.is_file()), None)
    if file is None:
        raise UserError(f"{root} has no annotations/{name}.json and no annotations/{files[2].name}; give {ACCEPTED}")
    folders = [root / name, root / f"{name}{YEAR}", root / "images" / name, root / "images", root]
    folder = next(path for path in folders if path.is_dir())
    return CocoDataset(file, folder, split == "train", masks, recipe.detection.empty_images, data.max_pixels)
