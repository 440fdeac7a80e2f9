"""The data sets of detection that a recipe names."""

from __future__ import annotations

from pathlib import Path

from mindvit.data import decoding
from mindvit.data.datasets import voc, yolo
from mindvit.data.datasets.base import Dataset
from mindvit.data.datasets.coco import AnnotatedDataset, read_annotations
from mindvit.data.datasets.scene_objects import SceneObjects
from mindvit.data.datasets.scenes import DIGITS
from mindvit.errors import UserError
from mindvit.recipe.schema import Recipe

WITH_OBJECTS = ("scenes", "coco", "voc", "yolo")
YEAR = "2017"  # which the official folders and files end with
COCO = (
    "a folder with annotations/train.json, annotations/val.json, train/ and val/, or COCO's own with "
    f"annotations/instances_train{YEAR}.json and train{YEAR}/"
)
ACCEPTED = {"coco": COCO, "voc": voc.ACCEPTED, "yolo": yolo.ACCEPTED}


def open_objects(recipe: Recipe, split: str, masks: bool) -> Dataset:
    """The images of `split` ('train' or 'val'), each with its Objects as target.

    masks: whether they are wanted. Of training, `remarks` tells how many images have more than max_instances objects.
    UserError for a data set without objects, and for files that are missing or wrong.
    """
    data, most = recipe.data, recipe.detection.max_instances
    if data.dataset not in WITH_OBJECTS:
        raise UserError(
            f"{recipe.origins['dataset']}: dataset is {data.dataset}, which has no boxes, but {recipe.model.model} is "
            f"a detector: give dataset: {' or '.join(WITH_OBJECTS)}"
        )
    if data.dataset == "scenes":
        scenes = SceneObjects(split)
        if split == "train" and most < DIGITS[1]:
            scenes.remarks.append(f"scenes have up to {DIGITS[1]} objects: of more than {most}, the largest are taken")
        return scenes
    found = _annotated(recipe, split, masks)
    counts = found.counts()
    if split == "train" and (counts > most).any():
        most_of_all = int(counts.argmax())
        found.remarks.append(
            f"{(counts > most).sum()} of {len(counts)} images have more than max_instances ({most}) objects, up to "
            f"{counts.max()} ({Path(found.name(most_of_all)).name}): the largest are trained on, and "
            f"{(counts - most).clip(0).sum()} are not"
        )
    return found


def _annotated(recipe: Recipe, split: str, masks: bool) -> AnnotatedDataset:
    """The images of a folder. UserError as above."""
    data = recipe.data
    decoding.allow(data.max_pixels)
    accepted = ACCEPTED[data.dataset]
    if data.data_dir is None:
        raise UserError(f"data_dir is not given, but dataset: {data.dataset} needs it: {accepted}")
    root = Path(data.data_dir)
    if not root.is_dir():
        raise UserError(f"data_dir {root} {'is not a folder' if root.exists() else 'does not exist'}; give {accepted}")
    name = data.train_split if split == "train" else data.val_split
    train, keep_empty = split == "train", recipe.detection.empty_images
    remarks: list[str] = []
    if data.dataset == "coco":
        file, folder = _coco(root, name)
        annotations = read_annotations(file)
    elif data.dataset == "yolo":
        annotations, folder, remarks = yolo.read_yolo(root, name, data.classes)
    else:
        if masks:
            raise UserError(
                f"dataset: voc has boxes, but no masks, which {recipe.model.model} learns: give mask: False"
            )
        annotations, folder = voc.read_voc(root, name, data.train_split, data.classes), root / voc.IMAGES
    found = AnnotatedDataset(annotations, folder, train, masks, keep_empty, data.max_pixels)
    found.remarks = [*remarks, *found.remarks]
    return found


def _coco(root: Path, name: str) -> tuple[Path, Path]:
    """The file of a split's annotations, and the folder of its images. UserError if they aren't there."""
    files = [root / "annotations" / f"{base}.json" for base in (name, f"instances_{name}", f"instances_{name}{YEAR}")]
    file = next((path for path in files if path.is_file()), None)
    if file is None:
        raise UserError(f"{root} has no annotations/{name}.json and no annotations/{files[2].name}; give {COCO}")
    folders = [root / name, root / f"{name}{YEAR}", root / "images" / name, root / "images", root]
    return file, next(path for path in folders if path.is_dir())
