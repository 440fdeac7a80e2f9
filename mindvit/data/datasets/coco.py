"""Images annotated as COCO's: a JSON file with images, annotations and categories, and folders of images."""

from __future__ import annotations

import copy
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Collection, Mapping, Sequence

import numpy as np
from PIL import Image

from mindvit.data.datasets.base import Dataset, Sample
from mindvit.data.decoding import MAX_PIXELS, read_image
from mindvit.data.exif import turned
from mindvit.data.objects import Objects
from mindvit.errors import UserError
from mindvit.runtime.files import on_one_line

LEAST_SIDE = 32  # px: smaller images are not trained on, as in mmdetection
LIKELY = "bbox must be left, top, width, height, and these look like left, top, right, bottom"
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Annotations:
    """What is annotated, in COCO's form.

    where: the file or folder that it was read from; content: images, annotations and categories, whose ids may be
    names of places in files: messages tell them; size: of what was read, bytes. beyond: what is probably wrong where
    most boxes end beyond their images. An image with `upright` is turned as its EXIF says.
    """

    where: Path
    content: Mapping[str, Any]
    size: int
    beyond: str = LIKELY


def read_annotations(path: Path) -> Annotations:
    """An annotation file. UserError if it can't be read or isn't COCO's."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read as JSON ({on_one_line(str(error))})") from None
    missing = [key for key in ("images", "annotations", "categories") if not _is_list(content, key)]
    if missing:
        raise UserError(
            f"{path} has no list {missing[0]!r}: annotations in COCO's form have images, annotations and categories"
        )
    return Annotations(path, content, len(text))


def counts(annotation: Record, image: Record) -> bool:
    """Whether an annotation is an object or a crowd, as mmdetection decides: it has an area, and lies in its image."""
    left, top, width, height = annotation["bbox"]
    across = min(left + width, image["width"]) > max(left, 0)
    down = min(top + height, image["height"]) > max(top, 0)
    has_area = annotation.get("area", 1) > 0 and width >= 1 and height >= 1
    return not annotation.get("ignore") and has_area and across and down


def _is_list(content: Any, key: str) -> bool:
    return isinstance(content, dict) and isinstance(content.get(key), list)


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file can be pixels or an area: no text, no NaN, nothing beyond all images."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e12 < value < 1e12


def checked_image(file: Path, key: Any, item: Record) -> Record:
    """An image's entry with whole sides. UserError for one that can't be used."""
    where = f"{file}: image {key}"
    for field in ("file_name", "width", "height"):
        if field not in item:
            raise UserError(f"{where} has no {field}")
    if not isinstance(item["file_name"], str):
        raise UserError(f"{where}: file_name is {item['file_name']!r}, but must be text")
    sides = {field: item[field] for field in ("width", "height")}
    for field, side in sides.items():
        if not is_number(side) or side < 1 or side != int(side):
            raise UserError(f"{where}: {field} is {side!r}, but must be a whole number of px")
    return {**item, **{field: int(side) for field, side in sides.items()}}


def check_annotation(file: Path, item: Record, key: Any, images: Mapping[Any, Record], masks: bool) -> None:
    """UserError for an annotation that can't be used."""
    where = f"{file}: annotation {key}"
    for field in ("image_id", "category_id"):
        if not isinstance(item.get(field), (int, str, type(None))):
            raise UserError(f"{where}: {field} is {on_one_line(str(item[field]))}, but must be a whole number")
    if not is_number(item.get("area", 1)):
        raise UserError(f"{where}: area is {item['area']!r}, but must be a number of px")
    if item.get("iscrowd") not in (0, 1, None):
        raise UserError(f"{where}: iscrowd is {item['iscrowd']!r}, but must be 0 or 1")
    if item.get("image_id") not in images:
        raise UserError(f"{where} is of image {item.get('image_id')!r}, which the file doesn't have")
    box = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(is_number(side) for side in box):
        raise UserError(f"{where}: bbox is {on_one_line(str(box))}, but must be left, top, width, height in px")
    if masks and not item.get("segmentation"):
        raise UserError(f"{where} has no segmentation, which masks are learnt from (mask: False does without)")


def decoded_mask(file: Path, annotation: Record, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool, of polygons or of run lengths, compressed or not, whatever iscrowd says."""
    try:
        from pycocotools import mask as codec
    except ImportError as error:
        raise UserError(
            f"pycocotools can't be imported ({error}): masks need it (pip install 'mindvit[coco]')"
        ) from None
    shape = annotation["segmentation"]
    try:
        if isinstance(shape, list):
            rings = [ring for ring in shape if len(ring) >= 6]  # pycocotools takes four numbers for a box
            if not rings:
                raise ValueError("no polygon has three points")
            if not all(np.isfinite(np.array(ring, float)).all() for ring in rings):
                raise ValueError("a point is no number")
            code = codec.merge(codec.frPyObjects(rings, *size))
        else:
            code = codec.frPyObjects(shape, *size) if isinstance(shape["counts"], list) else dict(shape)
            if isinstance(code["counts"], str):
                code["counts"] = code["counts"].encode("ascii")
        found = codec.decode(code).astype(bool)
    except Exception as error:  # pycocotools raises just that for what it doesn't know
        raise UserError(
            f"{file}: annotation {annotation.get('id')}: its segmentation is neither polygons nor run lengths "
            f"({on_one_line(str(error))})"
        ) from None
    if found.shape != size:
        raise UserError(
            f"{file}: annotation {annotation.get('id')}: its run lengths are of {found.shape[1]} x "
            f"{found.shape[0]} px, but the image has {size[1]} x {size[0]}"
        )
    return found


def check_files(file: Path, folder: Path, names: Sequence[str]) -> None:
    """UserError if images are missing."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} of the {len(names)} images of {file.name}: {on_one_line(missing[0])}, ..."
        )


def by_id(file: Path, items: Sequence[Any], kind: str) -> dict[Any, Record]:
    """UserError for one without an id, and for two with the same."""
    found: dict[Any, Record] = {}
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("id"), (int, str)):
            raise UserError(f"{file}: {kind} without an id: {on_one_line(str(item))[:80]}")
        if item["id"] in found:
            raise UserError(f"{file}: two {kind} entries have the id {item['id']}: number them apart")
        found[item["id"]] = item
    return found


class AnnotatedDataset(Dataset):
    """Annotated images with their objects.

    folder: of the images; train: images smaller than LEAST_SIDE and, unless keep_empty, those without objects are left
    out, as in mmdetection. Classes are numbered in the order of the categories, whatever their ids. UserError, with the
    file and the annotation's id, for what can't be meant; what is left out or put right is told in `remarks`.
    """

    def __init__(
        self,
        annotations: Annotations,
        folder: Path,
        train: bool,
        masks: bool,
        keep_empty: bool = False,
        max_pixels: int = MAX_PIXELS,
    ):
        content, file = annotations.content, annotations.where
        self.file, self.size, self.beyond = file, annotations.size, annotations.beyond
        self.folder, self.masks, self.max_pixels = folder, masks, max_pixels
        categories = by_id(file, content["categories"], "category")
        super().__init__([str(item.get("name", key)) for key, item in categories.items()])
        self.categories = {key: number for number, key in enumerate(categories)}
        images = {key: checked_image(file, key, item) for key, item in by_id(file, content["images"], "image").items()}
        self.annotations: dict[Any, list[Record]] = {key: [] for key in images}
        self._sort(content["annotations"], images)
        self.images = [
            item
            for key, item in images.items()
            if not train or (min(item["width"], item["height"]) >= LEAST_SIDE and (keep_empty or self.annotations[key]))
        ]
        if len(self.images) < len(images):
            self.remarks.append(
                f"{file.name}: {len(images) - len(self.images)} of {len(images)} images are not trained on: they have "
                f"no objects, or a side under {LEAST_SIDE} px"
            )
        for key, items in self.annotations.items():
            self.annotations[key] = [item for item in items if counts(item, images[key])]
        if not self.images:
            raise UserError(f"{file} has no image {'with objects' if train else 'at all'}")
        if train and not self.counts().any():
            raise UserError(f"{file} has no object to learn: all are crowds, without area or to be ignored")
        check_files(file, folder, [item["file_name"] for item in self.images])

    def _sort(self, items: Sequence[Any], images: Mapping[Any, Record]) -> None:
        """Give each image its annotations, and tell of what is odd."""
        ids: set[Any] = set()
        twice: list[Any] = []
        beyond, without_area, unknown = [], [], []
        for number, item in enumerate(items):
            if not isinstance(item, dict) or not isinstance(item.get("id", ""), (int, str)):
                raise UserError(f"{self.file}: annotation number {number} is {on_one_line(str(item))[:80]}, not COCO's")
            key = item.get("id", f"number {number}")
            check_annotation(self.file, item, key, images, self.masks)
            twice += [key] * (key in ids)
            ids.add(key)
            if item.get("category_id") not in self.categories:
                unknown.append(key)
                continue
            left, top, width, height = item["bbox"]
            image = images[item["image_id"]]
            if width < 1 or height < 1 or item.get("area", 1) <= 0:
                without_area.append(key)
            elif left + width > image["width"] + 1 or top + height > image["height"] + 1 or min(left, top) < -1:
                beyond.append(key)
            self.annotations[item["image_id"]].append(item)
        if len(beyond) > len(items) / 2:
            raise UserError(
                f"{self.file}: {len(beyond)} of {len(items)} boxes end beyond their image (annotation {beyond[0]}): "
                f"{self.beyond}"
            )
        for keys, what in (
            (twice, "have the id of another: all count"),
            (unknown, "are of a category that the file doesn't have: they are left out"),
            (without_area, "have no area: they are left out"),
            (beyond, "end beyond their image: they are cut there"),
        ):
            if keys:
                self.remarks.append(f"{self.file.name}: {len(keys)} annotations {what} (the first: {keys[0]})")

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """The image's path."""
        return str(self.folder / self.images[index]["file_name"])

    def image_size(self, index: int) -> tuple[int, int]:
        """The image's height and width, px, as the annotations tell them."""
        return self.images[index]["height"], self.images[index]["width"]

    def read(self, index: int) -> Image.Image:
        """The image, turned as its EXIF says if just then it has the sides that the annotations are for."""
        path, item = self.name(index), self.images[index]
        image, wanted = read_image(path, self.max_pixels), (item["width"], item["height"])
        if image.size == wanted and not item.get("upright"):
            return image
        image = turned(image, path)
        if image.size != wanted:
            raise UserError(
                f"{path} has {image.width} x {image.height} px, but {self.file.name} says {wanted[0]} x {wanted[1]}: "
                "its boxes would lie elsewhere"
            )
        return image

    def target(self, index: int) -> Objects:
        """The image's objects."""
        item = self.images[index]
        found = self.annotations[item["id"]]
        boxes = np.array([annotation["bbox"] for annotation in found], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([self.categories[annotation["category_id"]] for annotation in found], np.int32)
        crowd = np.array([bool(annotation.get("iscrowd")) for annotation in found], bool)
        masks = None
        if self.masks:
            shape = (item["height"], item["width"])
            masks = np.array([decoded_mask(self.file, annotation, shape) for annotation in found], bool).reshape(
                -1, *shape
            )
        areas = [annotation.get("area", np.prod(annotation["bbox"][2:])) for annotation in found]
        return Objects(boxes, labels, masks, crowd, np.array(areas, np.float32))

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.read(index), self.target(index))

    def ids(self) -> tuple[list[Any], list[Any]]:
        """What the annotations call each image and each class."""
        return [item["id"] for item in self.images], list(self.categories)

    def counts(self) -> np.ndarray:
        """(images,): objects in each, without crowds."""
        found = (self.annotations[item["id"]] for item in self.images)
        return np.array([sum(not item.get("iscrowd") for item in items) for items in found], np.int64)

    def without(self, paths: Collection[str]) -> AnnotatedDataset:
        """The same without these images."""
        result = copy.copy(self)
        result.images = [item for index, item in enumerate(self.images) if self.name(index) not in paths]
        return result

    def fingerprint(self) -> str:
        """Eight digits that change with the images, the classes and the annotations."""
        names = [(item["file_name"], len(self.annotations[item["id"]])) for item in self.images]
        return f"{zlib.crc32(repr((self.class_names, names, self.size)).encode()):08x}"
