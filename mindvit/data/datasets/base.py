"""Images with random access: what every data set offers to the loader."""

from __future__ import annotations

import sys
import threading
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple, Optional

import numpy as np
from PIL import Image

from mindvit.data import decoding
from mindvit.data.datasets.names import Names
from mindvit.data.decoding import DecodeError, read_image
from mindvit.errors import UserError


class Sample(NamedTuple):
    """An image (RGB, 8 bits) and what is to be learnt of it: of a classifier's data set, the class number."""

    image: Image.Image
    target: Any


class Dataset(ABC):
    """Images by index, with their targets.

    class_names: by class number; bad: the reason by name of each undecodable image met so far; max_pixels: what is
    larger isn't decoded; passed_over: a phrase for what lies among the images and is none; remarks: lines for what may
    be a mistake; is_by_label: whether the data themselves number the classes; groups: int32 (count,), where images of
    different batches lie in arrays of different shapes: which batches each belongs to.
    """

    max_pixels = decoding.MAX_PIXELS
    passed_over = ""
    is_by_label = False
    groups: Optional[np.ndarray] = None

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names: tuple[str, ...] = tuple(class_names)
        self.bad: dict[str, str] = {}
        self.remarks: list[str] = []
        self._bad_lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """All but the lock: worker processes have a copy each."""
        return {name: value for name, value in vars(self).items() if name != "_bad_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _bad_lock=threading.Lock())

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """The image's path, for messages."""

    def key(self, index: int) -> str:
        """What files about the image are called."""
        return PurePath(self.name(index)).stem

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """The decoded image, RGB, 8 bits; DecodeError if that is impossible."""

    def image_size(self, index: int) -> tuple[int, int]:
        """The image's height and width, px; where nothing tells them, it is decoded."""
        image = self.read(index)
        return image.height, image.width

    @abstractmethod
    def target(self, index: int) -> Any:
        """What is to be learnt of the image."""

    def class_counts(self) -> tuple[int, ...]:
        """How many images each class has, where an image has one class; else empty."""
        return ()

    def __getitem__(self, index: int) -> Sample:
        """The image with its target; DecodeError if it can't be decoded."""
        return Sample(self.read(index), self.target(index))

    @abstractmethod
    def fingerprint(self) -> str:
        """Eight digits that change with the images' number, names (of file and folder, wherever the data set lies),
        targets or classes; not with pixels.
        """

    def skip(self, error: DecodeError) -> None:
        """Count an undecodable image and, the first time, say so on stderr."""
        with self._bad_lock:
            if error.name not in self.bad:
                self.bad[error.name] = error.reason
                print(f"warning: {error}; another one takes its place", file=sys.stderr, flush=True)


class LabelledDataset(Dataset):
    """Images of one class each: `labels` int32 (count,)."""

    def __init__(self, labels: Iterable[int], class_names: Sequence[str]) -> None:
        super().__init__(class_names)
        self.labels = np.asarray(labels, np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    def target(self, index: int) -> int:
        """The class number."""
        return int(self.labels[index])

    def class_counts(self) -> tuple[int, ...]:
        """How many images each class has."""
        return tuple(np.bincount(self.labels, minlength=len(self.class_names)).tolist())

    def renumber(self, class_names: Sequence[str]) -> None:
        """Number the classes as they stand in `class_names`, which has all of them."""
        numbers = {name: number for number, name in enumerate(class_names)}
        self.labels = np.array([numbers[name] for name in self.class_names], np.int32)[self.labels]
        self.class_names = tuple(class_names)

    def fingerprint(self) -> str:
        """Eight digits that change with the images' number, names, labels or classes; not with pixels."""
        crc = zlib.crc32(repr(self.class_names).encode(), zlib.crc32(self.labels.tobytes()))
        for index in range(len(self)):
            crc = zlib.crc32("/".join(self.name(index).rsplit("/", 2)[-2:]).encode("utf-8", "surrogateescape"), crc)
        return f"{crc:08x}"


class FileDataset(LabelledDataset):
    """Images in files."""

    def __init__(self, paths: Sequence[str], labels: Iterable[int], class_names: Sequence[str]) -> None:
        super().__init__(labels, class_names)
        self.paths = paths

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "paths": Names(self.paths)}

    def name(self, index: int) -> str:
        """The image's path."""
        return self.paths[index]

    def read(self, index: int) -> Image.Image:
        """The decoded image, RGB; DecodeError if the file can't be read or decoded."""
        return read_image(self.paths[index], self.max_pixels)


def refuse_unknown(names: Sequence[str], known: Sequence[str], where: str) -> None:
    """UserError, naming the place, for class names that the training split doesn't have."""
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise UserError(
            f"{where} has {len(names)} classes, of which {some(unknown)} {'is' if len(unknown) == 1 else 'are'} not "
            "among the "
            f"{len(known)} training classes; both splits need the same class names"
        )


def some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
