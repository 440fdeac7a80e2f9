"""Images annotated as Pascal VOC's: an XML file for each, and lists of each split's."""

from __future__ import annotations

import math
import os
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Sequence

from mindvit.data.classes import read_classes
from mindvit.data.datasets.base import some
from mindvit.data.datasets.coco import Annotations
from mindvit.data.datasets.headers import upright_images
from mindvit.data.decoding import EXTENSIONS
from mindvit.errors import UserError, nearest
from mindvit.runtime.files import on_one_line

XML, IMAGES, LISTS = "Annotations", "JPEGImages", "ImageSets/Main"
ACCEPTED = f"a folder with {XML}/NAME.xml, {IMAGES}/NAME.jpg and {LISTS}/train.txt and val.txt, a NAME a line"
SIDES = ("xmin", "ymin", "xmax", "ymax")
LIKELY = "they are of an image of another size, or <size> is"


@dataclass(frozen=True)
class Described:
    """What an XML file says: the image's width and height, px, or None; each object's name, box and whether it is
    `difficult`.
    """

    file: Path
    size: Optional[tuple[int, int]]
    objects: Sequence[tuple[str, tuple[float, float, float, float], bool]]


def read_voc(root: Path, split: str, train_split: str, classes: Optional[str] = None) -> Annotations:
    """A split of such a folder.

    Boxes are turned from VOC's pixels, counted from 1 and both ends inside, into edges (left and top less 1), and
    `difficult` objects into crowds: no detector is trained on them, and none is blamed for finding or missing them.

    Args:
        root: the folder.
        split: the list's name.
        train_split: the list whose objects name the classes, in alphabetical order, where no file does.
        classes: a file with a class name a line; by default root/classes.txt, if it is there.

    Raises:
        UserError: for what is missing or can't be meant, with the file and the object's number.
    """
    for name in (XML, IMAGES):
        if not (root / name).is_dir():
            raise UserError(f"data_dir {root} has no folder {name}{_below(root)}; give {ACCEPTED}")
    images = listed(root, split)
    described = [read_xml(root / XML / f"{name}.xml") for name in images]
    titles = _titles(root, train_split, classes, described if split == train_split else None)
    unknown = [(item.file, number, name) for item in described for number, name in _unknown(item, titles)]
    if unknown:
        file, number, name = unknown[0]
        raise UserError(
            f"{file}: object {number} is a {name!r}, which is none of the {len(titles)} classes, {some(titles)}"
            f"{nearest(name, titles)}"
        )
    return Annotations(root / XML, _content(root, images, described, titles), sum(map(_bytes, described)), LIKELY)


def listed(root: Path, split: str) -> dict[str, str]:
    """The names in a split's list, each with its image's file name. UserError where one of them has no image."""
    file = root / LISTS / f"{split}.txt"
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(f"{file} can't be read ({reason}); give {ACCEPTED}") from None
    with os.scandir(root / IMAGES) as entries:
        stems = {os.path.splitext(entry.name) for entry in entries if entry.name.lower().endswith(EXTENSIONS)}
    there = {stem: stem + ending for stem, ending in sorted(stems, reverse=True)}
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name = os.path.splitext(line)[0] if line.lower().endswith(EXTENSIONS) else line
        if name and name not in there:
            raise UserError(
                f"{file}: line {number}: {IMAGES} has no image {on_one_line(name)} ({' '.join(EXTENSIONS)})"
            )
        if name in found:
            raise UserError(f"{file}: line {number}: {on_one_line(name)} is there twice")
        if name:
            found[name] = there[name]
    if not found:
        raise UserError(f"{file} names no image")
    return found


def read_xml(file: Path) -> Described:
    """An image's XML file. UserError for what can't be meant."""
    try:
        top = ElementTree.parse(file).getroot()
    except ElementTree.ParseError as error:
        raise UserError(f"{file}: broken XML ({error})") from None
    except (OSError, ValueError, LookupError) as error:  # of encodings: ValueError, LookupError
        raise UserError(f"{file} can't be read ({getattr(error, 'strerror', None) or error})") from None
    sides = [_number(top.findtext(f"size/{side}")) for side in ("width", "height")]
    size = (int(sides[0]), int(sides[1])) if min(sides) > 0 else None
    objects = []
    for number, item in enumerate(top.findall("object"), 1):
        name = (item.findtext("name") or "").strip()
        if not name:
            raise UserError(f"{file}: object {number} has no name")
        box = _box(item, f"{file}: object {number} ({on_one_line(name)})")
        objects.append((name, box, _number(item.findtext("difficult")) > 0))
    return Described(file, size, objects)


def _box(item: ElementTree.Element, where: str) -> tuple[float, float, float, float]:
    """Left, top, width, height. UserError for what is no box."""
    texts = [item.findtext(f"bndbox/{side}") for side in SIDES]
    values = [_number(text) for text in texts]
    if not all(map(math.isfinite, values)):
        side, text = next((side, text) for side, text, value in zip(SIDES, texts, values) if not math.isfinite(value))
        said = "is missing" if text is None else f"is {on_one_line(text)!r}"
        raise UserError(f"{where}: {side} {said}, but bndbox must have four numbers, {', '.join(SIDES)}, px")
    for low, high in ((0, 2), (1, 3)):
        if values[low] > values[high]:
            raise UserError(
                f"{where}: {SIDES[low]} is {values[low]:g} and {SIDES[high]} {values[high]:g}: exchange them"
            )
    return values[0] - 1, values[1] - 1, values[2] - values[0] + 1, values[3] - values[1] + 1


def _number(text: Optional[str]) -> float:
    """NaN for what is none."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _titles(
    root: Path, train_split: str, classes: Optional[str], described: Optional[Sequence[Described]]
) -> tuple[str, ...]:
    """The classes by number; described: the training split, if it was read."""
    file = Path(classes) if classes else root / "classes.txt"
    if classes or file.is_file():
        return read_classes(file).distinct_titles()
    if described is None:
        if not (root / LISTS / f"{train_split}.txt").is_file():
            raise UserError(
                f"{root} has neither {LISTS}/{train_split}.txt nor classes.txt: which numbers have the classes? Name "
                "them, one a line (or --classes FILE)"
            )
        described = [read_xml(root / XML / f"{name}.xml") for name in listed(root, train_split)]
    found = sorted({name for item in described for name, _, _ in item.objects})
    if not found:
        raise UserError(f"{root}: no image of {train_split} has an object")
    return tuple(found)


def _unknown(item: Described, titles: Sequence[str]) -> list[tuple[int, str]]:
    return [(number, name) for number, (name, _, _) in enumerate(item.objects, 1) if name not in titles]


def _content(root: Path, images: dict[str, str], described: Sequence[Described], titles: Sequence[str]) -> Any:
    """In COCO's form; images whose XML doesn't tell their size are looked at."""
    without = [name for name, item in zip(images, described) if item.size is None]
    sizes = dict(zip(without, upright_images([str(root / IMAGES / images[name]) for name in without])))
    rows: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for (name, image), item in zip(images.items(), described):
        size = sizes[name] if item.size is None else {"width": item.size[0], "height": item.size[1]}
        rows.append({"id": name, "file_name": image, **size})
        for number, (title, box, difficult) in enumerate(item.objects, 1):
            entry = {"id": f"{name}.xml, object {number}", "image_id": name, "category_id": titles.index(title)}
            annotations.append({**entry, "bbox": list(box), "iscrowd": int(difficult)})
    categories = [{"id": number, "name": title} for number, title in enumerate(titles)]
    return {"images": rows, "annotations": annotations, "categories": categories}


def _bytes(item: Described) -> int:
    return item.file.stat().st_size


def _below(root: Path) -> str:
    """Where such a folder lies below, if it does."""
    found = sorted(root.glob(f"*/{XML}")) or sorted(root.glob(f"*/*/{XML}"))
    return f", but {', '.join(str(place.parent) for place in found[:3])} has" if found else ""
