"""Images with label maps in files, and what people get wrong about them, in a line each."""

from __future__ import annotations

import copy
import os
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import numpy as np
from PIL import Image

from mindvit.data.datasets.base import Dataset, Sample, some
from mindvit.data.decoding import EXTENSIONS, DecodeError, read_image
from mindvit.data.exif import ON_ITS_SIDE, UPRIGHT, header
from mindvit.data.label_maps import read_label_map
from mindvit.data.scan import Scan
from mindvit.data.transforms.dense import IGNORED, reduce_zero_label
from mindvit.errors import UserError
from mindvit.runtime.files import on_one_line

MOST_CLASSES = IGNORED  # labels are 0 to 254
LOOKED_AT = 200  # label maps that are read before a run begins


@dataclass(frozen=True)
class Layout:
    """Where a split's files lie below a data set's folder: the images below `images`, and for each of them, NAME +
    `image_end`, the map of the same place and name below `maps`, NAME + `map_end`.
    """

    images: str
    maps: str
    image_end: str = ""
    map_end: str = ".png"


@dataclass(frozen=True)
class Labels:
    """What the values in label maps mean. table: the class of each of 256 values, IGNORED for none; None: the values
    are classes, or, with `reduced`, classes + 1 and 0 for none.
    """

    class_names: tuple[str, ...]
    where: str
    reduced: bool = False
    table: Optional[np.ndarray] = field(default=None, compare=False)

    def classes(self, values: np.ndarray) -> np.ndarray:
        """Values -> class numbers and IGNORED."""
        if self.table is not None:
            return self.table[np.where(values < len(self.table), values, 0)]
        return reduce_zero_label(values) if self.reduced else values


def pairs(root: Path, layout: Layout) -> tuple[list[tuple[str, str]], str]:
    """The image and the label map of each sample, in alphabetical order, and a phrase for what else lies there.

    UserError if a folder or a map is missing, none of the names fit, or two images have the same map.
    """
    folders = root / layout.images, root / layout.maps
    for folder in folders:
        if not folder.is_dir():
            raise UserError(
                f"data_dir {root} has no folder {folder.relative_to(root)}: it needs {layout.images} with images and "
                f"{layout.maps} with a label map, NAME{layout.map_end}, for each"
            )
    scan = Scan(str(folders[0]))
    images = [path for path in scan.images[""] if not layout.image_end or path.endswith(layout.image_end)]
    if not images:
        raise UserError(f"{folders[0]} holds no image (*{layout.image_end or ' '.join(EXTENSIONS)})")
    found: list[tuple[str, str]] = []
    lacking: list[tuple[str, str]] = []
    for path in images:
        name = os.path.relpath(path, folders[0])
        stem = name[: -len(layout.image_end)] if layout.image_end else os.path.splitext(name)[0]
        label_map = folders[1] / f"{stem}{layout.map_end}"
        (found if label_map.is_file() else lacking).append((path, str(label_map)))
    if not found:
        others = sorted(entry.name for entry in folders[1].iterdir())
        raise UserError(
            f"none of the {len(images)} images in {folders[0]} has a label map of its name in {folders[1]}: "
            f"{os.path.relpath(lacking[0][0], folders[0])} needs {os.path.relpath(lacking[0][1], folders[1])}, and "
            f"there is {some(others) or 'nothing'}"
        )
    if lacking:
        raise UserError(
            f"{len(lacking)} of {len(images)} images have no label map: {on_one_line(lacking[0][0])} needs "
            f"{on_one_line(lacking[0][1])} (add it, or take the image away)"
        )
    images_of: dict[str, str] = {}
    for path, label_map_path in found:
        other = images_of.setdefault(label_map_path, path)
        if other != path:
            raise UserError(
                f"{on_one_line(other)} and {on_one_line(path)} have one label map, {on_one_line(label_map_path)}: "
                "take one of them away, or give it a name and a map of its own"
            )
    return found, str(scan.passed_over)


class LabelMapDataset(Dataset):
    """Images with label maps (H, W), whose values are class numbers or IGNORED.

    UserError for an image and a map of other sizes, a map that holds colours, and a label that is no class: for the
    first maps when it is made, for the others when they are read.
    """

    def __init__(self, files: Sequence[tuple[str, str]], labels: Labels, max_pixels: int, root: Path) -> None:
        super().__init__(labels.class_names)
        self.files, self.labels, self.max_pixels, self.root = files, labels, max_pixels, root
        if not 1 <= len(labels.class_names) <= MOST_CLASSES:
            raise UserError(
                f"{labels.where} names {len(labels.class_names)} classes, but there can be 1 to {MOST_CLASSES}: "
                f"{IGNORED} marks pixels that count nowhere"
            )

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """The image's path."""
        return self.files[index][0]

    def key(self, index: int) -> str:
        """The image's path below the split's folder, without what tells its format."""
        return os.path.splitext(os.path.relpath(self.files[index][0], self.root))[0]

    def read(self, index: int) -> Image.Image:
        """The image as it is stored, RGB; DecodeError if it can't be decoded."""
        return read_image(self.files[index][0], self.max_pixels)

    def target(self, index: int) -> np.ndarray:
        """The label map; DecodeError or UserError if it can't be one."""
        return self._checked(index, self._values(index), None)

    def __getitem__(self, index: int) -> Sample:
        image = self.read(index)
        return Sample(image, self._checked(index, self._values(index), image.size))

    def without(self, paths: Collection[str]) -> LabelMapDataset:
        """The same without these images."""
        result = copy.copy(self)
        result.files = [files for files in self.files if files[0] not in paths]
        return result

    def fingerprint(self) -> str:
        """Eight digits that change with the images' number, names or classes, and with what labels mean."""
        crc = zlib.crc32(repr((self.class_names, self.labels.reduced)).encode())
        for index in range(len(self)):
            crc = zlib.crc32(self.key(index).encode("utf-8", "surrogateescape"), crc)
        return f"{crc:08x}"

    def look(self) -> np.ndarray:
        """Read up to LOOKED_AT maps, spread over the data set: pixels of each class, (classes,) int64.

        What is remarkable goes to `remarks`. UserError as above, and if no map at all has a labelled pixel.
        """
        indices = np.unique(np.linspace(0, len(self) - 1, min(len(self), LOOKED_AT)).astype(int))
        counts, seen = np.zeros(IGNORED + 1, np.int64), np.zeros(0, np.int64)
        turned, blank = [], []
        for index in map(int, indices):
            path = self.files[index][0]
            try:
                values = self._values(index)
                size, orientation = header(path)
            except DecodeError as error:
                raise UserError(f"{error}; repair or remove it") from None
            pixels = np.bincount(self._checked(index, values, size).ravel(), minlength=IGNORED + 1)
            counts += pixels
            blank += [self.files[index][1]] * (not pixels[:IGNORED].any())
            seen = np.union1d(seen, values)
            turned += [path] * (orientation != UPRIGHT)
        if not counts[:IGNORED].any() and all((self.target(index) == IGNORED).all() for index in range(len(self))):
            nothing = "0 and 255 count nowhere (reduce_zero_label)" if self.labels.reduced else "255 counts nowhere"
            raise UserError(f"no pixel of the {len(self)} label maps for {self.root} has a class: {nothing}")
        if blank:
            self.remarks.append(
                f"{len(blank)} of {len(indices)} label maps have no pixel with a class, {on_one_line(blank[0])} first"
            )
        self._remark(counts, seen, turned, len(indices))
        return counts[: len(self.class_names)]

    def _remark(self, counts: np.ndarray, seen: np.ndarray, turned: Sequence[str], number: int) -> None:
        empty = [name for place, name in enumerate(self.class_names) if counts[place] == 0]
        if empty:
            binary = set(seen) == {0, IGNORED} and len(self.class_names) > 1
            self.remarks.append(
                f"{len(empty)} of {len(self.class_names)} classes have no pixel in {number} label maps: {some(empty)}"
                + ("; they hold 0 and 255 alone, and 255 counts nowhere: save the second class as 1" if binary else "")
            )
        if turned:
            self.remarks.append(
                f"{len(turned)} of {number} images have an EXIF orientation, {on_one_line(turned[0])} first: they are "
                "taken as they are stored, and so must their label maps lie"
            )

    def _values(self, index: int) -> np.ndarray:
        return read_label_map(self.files[index][1], self.max_pixels)

    def _checked(self, index: int, values: np.ndarray, size: Optional[tuple[int, int]]) -> np.ndarray:
        """The map with class numbers. size: the image's (width, height), if it is known."""
        path, map_path = map(on_one_line, self.files[index])
        if size is not None and size != values.shape[::-1]:
            height, width = values.shape
            on_side = size == (height, width) and header(self.files[index][0])[1] in ON_ITS_SIDE
            raise UserError(
                f"{path} is {size[0]} x {size[1]} px, but its label map {map_path} is {width} x {height}"
                + ("; the image's EXIF orientation turns it, and the map was drawn on the turned one: " * on_side)
                + ("save the image turned, without that tag" * on_side)
            )
        labels = self.labels.classes(values)
        wrong = (labels >= len(self.class_names)) & (labels != IGNORED)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise UserError(self._beyond(map_path, values, int(values[row, column]), (int(row), int(column))))
        return labels.astype(np.uint8)

    def _beyond(self, map_path: str, values: np.ndarray, value: int, place: tuple[int, int]) -> str:
        count, first = len(self.class_names), int(self.labels.reduced)
        from_one = value == count and not self.labels.reduced and values.min() > 0
        hint = "; if they are counted from 1: reduce_zero_label: True" if from_one else ""
        return (
            f"label map {map_path} has {value} at row {place[0]}, column {place[1]}, but {self.labels.where} names "
            f"{count} classes: labels are {first} to {count - 1 + first}, and {IGNORED} where nothing counts{hint}"
        )
