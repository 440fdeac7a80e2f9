"""Images annotated as YOLO's: a text file for each, with a line an object, in shares of the image's sides."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Optional, Sequence

import numpy as np

from mindvit.data.classes import read_classes
from mindvit.data.datasets.base import some
from mindvit.data.datasets.coco import Annotations
from mindvit.data.datasets.headers import upright_images
from mindvit.data.scan import Scan
from mindvit.errors import UserError
from mindvit.recipe.files import read_yaml
from mindvit.runtime.files import on_one_line

ACCEPTED = (
    "a folder with images/train, images/val, labels/train and labels/val (or train/images, train/labels, ...) and the "
    "classes' names in data.yaml or classes.txt"
)
FORM = "class, centre x, centre y, width, height; or class and the corners of a polygon, x1 y1 x2 y2 x3 y3 ..."
BOX = 5  # columns; polygons have an odd number, from POLYGON on
POLYGON = 7
ROUNDING = 1e-3  # how far beyond 0..1 a number may be
LIKELY = "the numbers must be shares of the image's sides"


def read_yolo(root: Path, split: str, classes: Optional[str] = None) -> tuple[Annotations, Path, list[str]]:
    """A split of such a folder.

    Args:
        root: the folder.
        split: its name.
        classes: a file with a class name a line; by default data.yaml's `names`, or else root/classes.txt.

    Returns:
        What is annotated, the folder of its images, and lines for what may be a mistake: images without a file of
        labels, which count as images without objects, and files of labels without an image.

    Raises:
        UserError: for what is missing or can't be meant, with the file and the line.
    """
    titles = class_names(root, classes)
    folder, labels = _folders(root, split)
    paths = Scan(str(folder)).images[""]
    if not paths:
        raise UserError(f"{folder} holds no image")
    names = [os.path.relpath(path, folder) for path in paths]
    files = [labels / f"{os.path.splitext(name)[0]}.txt" for name in names]
    lacking = [name for name, file in zip(names, files) if not file.is_file()]
    if len(lacking) == len(names):
        raise UserError(
            f"none of the {len(names)} images in {folder} has labels: {on_one_line(names[0])} needs {files[0]}"
        )
    rows: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    size = 0
    for name, file, image in zip(names, files, upright_images(paths)):
        rows.append({"id": name, "file_name": name, **image})
        for number, line in enumerate(_lines(file), 1):
            size += len(line)
            if line.strip():
                where = f"{file}: line {number}"
                item = parsed(line.split(), where, (image["width"], image["height"]), titles)
                key = f"{file.relative_to(labels)}, line {number}"
                annotations.append({"id": key, "image_id": name, **item})
    categories = [{"id": number, "name": title} for number, title in enumerate(titles)]
    content = {"images": rows, "annotations": annotations, "categories": categories}
    return Annotations(labels, content, size, LIKELY), folder, _remarks(labels, lacking, files)


def class_names(root: Path, classes: Optional[str]) -> tuple[str, ...]:
    """The classes by number. UserError if nothing names them."""
    described = root / "data.yaml"
    if classes or not described.is_file():
        file = Path(classes) if classes else root / "classes.txt"
        if not file.is_file():
            raise UserError(f"{file} does not exist, nor does {described.name}: give {ACCEPTED}")
        return read_classes(file).distinct_titles()
    content = read_yaml(described)
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise UserError(f"{described}: names must have the numbers 0 to {len(names) - 1}, each once")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{described}: names must be a list of the classes' names, or number: name")
    if content.get("nc", len(names)) != len(names):
        raise UserError(f"{described}: nc is {content['nc']}, but there are {len(names)} names")
    return tuple(map(str, names))


def parsed(texts: Sequence[str], where: str, size: tuple[int, int], titles: Sequence[str]) -> dict[str, Any]:
    """An object in COCO's form, without its ids. UserError for a line that is none.

    Args:
        texts: the line's columns.
        where: the file and the line.
        size: the image's width and height, px.
        titles: the classes.
    """
    if len(texts) != BOX and (len(texts) < POLYGON or len(texts) % 2 == 0):
        raise UserError(f"{where} has {len(texts)} columns, but must have {FORM}")
    try:
        values = np.array([float(text) for text in texts])
    except ValueError:
        wrong = next(text for text in texts if not _is_number(text))
        raise UserError(f"{where}: {on_one_line(wrong)!r} is no number; a line has {FORM}") from None
    label, places = values[0], values[1:]
    if label not in range(len(titles)):
        raise UserError(
            f"{where}: class {texts[0]}, but there are {len(titles)} classes, 0 to {len(titles) - 1}: {some(titles)}"
        )
    if not (places >= -ROUNDING).all() or not (places <= 1 + ROUNDING).all():
        wrong = texts[1 + int(np.argmax(~((places >= -ROUNDING) & (places <= 1 + ROUNDING))))]
        raise UserError(f"{where}: {wrong} is not within 0 and 1: numbers are shares of the image's sides, not px")
    points = places.reshape(-1, 2) * size
    if len(texts) == BOX:
        (left, top), (width, height) = points[0] - points[1] / 2, points[1]
        return {"category_id": int(label), "bbox": [float(value) for value in (left, top, width, height)]}
    low, high = points.min(0), points.max(0)
    after = np.roll(points, -1, 0)
    area = abs(float((points[:, 0] * after[:, 1] - points[:, 1] * after[:, 0]).sum())) / 2
    bbox = [float(value) for value in (*low, *(high - low))]
    outline = [[float(value) for value in points.ravel()]]
    return {"category_id": int(label), "bbox": bbox, "segmentation": outline, "area": area}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _folders(root: Path, split: str) -> tuple[Path, Path]:
    """Where a split's images and labels lie. UserError if they don't."""
    for images, labels in (("images/{}", "labels/{}"), ("{}/images", "{}/labels")):
        folder, other = root / images.format(split), root / labels.format(split)
        if folder.is_dir():
            if not other.is_dir():
                raise UserError(f"{folder} has images, but there is no folder {other} with their labels")
            return folder, other
    there = sorted(str(path.relative_to(root)) for path in (*root.glob("images/*/"), *root.glob("*/images")))
    found = f", only {some(there)}" if there else ""
    raise UserError(f"{root} has no folder images/{split}{found}; give {ACCEPTED}")


def _lines(file: Path) -> list[str]:
    """A file's lines; none if it isn't there."""
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(f"{file} can't be read ({reason})") from None


def _remarks(labels: Path, lacking: Sequence[str], files: Sequence[Path]) -> list[str]:
    found = []
    if lacking:
        found.append(f"{len(lacking)} of {len(files)} images have no file in {labels}: no objects ({some(lacking)})")
    known = {str(file) for file in files}
    lonely = sorted(str(file.relative_to(labels)) for file in labels.rglob("*.txt") if str(file) not in known)
    lonely = [name for name in lonely if name != "classes.txt"]
    if lonely:
        found.append(f"{labels}: {len(lonely)} files of labels have no image ({some(lonely)})")
    return found
