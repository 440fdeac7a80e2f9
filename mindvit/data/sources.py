"""Images with random access: class folders, list files, and the digits that ship with the package (MindRecord:
records.py).
"""

from __future__ import annotations

import codecs
import os
import re
import sys
import threading
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mindvit.data import decoding
from mindvit.data.decoding import EXTENSIONS, DecodeError, read_image
from mindvit.data.scan import Scan
from mindvit.errors import UserError
from mindvit.recipe.options import DataOptions
from mindvit.runtime.files import on_one_line

DIGITS_FILE = Path(__file__).with_name("digits.npz")
DIGITS_TRAIN = 1437  # of 1797: about four fifths
LINE = re.compile(r"(.*\S)[ \t]+([0-9]+)")  # of a list file: a path, which may have spaces, and a label
MOST_LABELS = 1_000_000  # in a list; a larger one is no class number, and every class takes memory


class Source(ABC):
    """Images by index: `labels` int32 (count,), `class_names` by label, and `bad`, the reason by name of each
    undecodable image met so far.

    max_pixels: what is larger isn't decoded. passed_over: a phrase for what lies among the images and is none. remarks:
    lines for what may be a mistake.
    """

    max_pixels = decoding.MAX_PIXELS
    passed_over = ""

    is_by_label = False  # whether the data themselves number the classes

    def __init__(self, labels: Iterable[int], class_names: Sequence[str]) -> None:
        self.labels = np.asarray(labels, np.int32)
        self.class_names: tuple[str, ...] = tuple(class_names)
        self.bad: dict[str, str] = {}
        self.remarks: list[str] = []
        self._bad_lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.labels)

    def renumber(self, class_names: Sequence[str]) -> None:
        """Number the classes as they stand in `class_names`, which has all of them."""
        numbers = {name: number for number, name in enumerate(class_names)}
        self.labels = np.array([numbers[name] for name in self.class_names], np.int32)[self.labels]
        self.class_names = tuple(class_names)

    @abstractmethod
    def name(self, index: int) -> str:
        """The image's path, for messages."""

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """The decoded image, RGB, 8 bits; DecodeError if that is impossible."""

    def fingerprint(self) -> str:
        """Eight digits that change with the images' number, names (of file and folder, wherever the data set lies),
        labels or classes; not with pixels.
        """
        crc = zlib.crc32(repr(self.class_names).encode(), zlib.crc32(self.labels.tobytes()))
        for index in range(len(self)):
            crc = zlib.crc32("/".join(self.name(index).rsplit("/", 2)[-2:]).encode("utf-8", "surrogateescape"), crc)
        return f"{crc:08x}"

    def skip(self, error: DecodeError) -> None:
        """Count an undecodable image and, the first time, say so on stderr."""
        with self._bad_lock:
            if error.name not in self.bad:
                self.bad[error.name] = error.reason
                print(f"warning: {error}; another one takes its place", file=sys.stderr, flush=True)


class FileSource(Source):
    """Images in files."""

    def __init__(self, paths: Sequence[str], labels: Iterable[int], class_names: Sequence[str]) -> None:
        super().__init__(labels, class_names)
        self.paths = paths

    def name(self, index: int) -> str:
        """The image's path."""
        return self.paths[index]

    def read(self, index: int) -> Image.Image:
        """The decoded image, RGB; DecodeError if the file can't be read or decoded."""
        return read_image(self.paths[index], self.max_pixels)


class FolderSource(FileSource):
    """Every image below `folder`, whose sub-folders are the classes; numbered by name, or by `class_names` where
    given.
    """

    def __init__(self, folder: Path, class_names: Sequence[str] | None = None) -> None:
        scan = _class_folders(folder)
        found, self.passed_over = list(scan.images), str(scan.passed_over)
        if class_names is not None:
            refuse_unknown(found, class_names, str(folder))
        numbers = {name: number for number, name in enumerate(class_names or found)}
        paths, labels, without = [], [], []
        for name in found:
            inside = scan.images[name]
            paths += inside
            labels += [numbers[name]] * len(inside)
            without += [] if inside else [name]
        if without:
            raise UserError(
                f"class folder {_some(without)} of {folder} has no image ({' '.join(EXTENSIONS)}); add images or "
                "remove the folder" + (f" (passed over: {self.passed_over})" if self.passed_over else "")
            )
        super().__init__(paths, labels, tuple(numbers))


class ListSource(FileSource):
    """The images that a list file names, one 'relative/path label' a line; `class_names`, where given, bounds the
    labels.
    """

    is_by_label = True

    def __init__(self, file: Path, class_names: Sequence[str] | None = None) -> None:
        entries = list(_list_entries(file))
        if not entries:
            raise UserError(f"list file {file} names no image; it needs one line 'relative/path label' for each")
        highest = max(label for _, _, label in entries)
        names = tuple(class_names) if class_names is not None else tuple(str(label) for label in range(highest + 1))
        for number, _, label in entries:
            if label >= len(names):
                raise UserError(
                    f"{file}, line {number}: label {label}, but the {len(names)} training classes have labels 0 to "
                    f"{len(names) - 1}"
                )
        super().__init__(_located(file, entries), [label for _, _, label in entries], names)
        self.remarks += _repeated(file, entries)


class DigitsSource(Source):
    """Handwritten digits, 8x8 px, grey repeated to RGB (UCI, CC BY 4.0: see README.md beside this file); `split` is
    'train' or 'val'.
    """

    def __init__(self, split: str) -> None:
        with np.load(DIGITS_FILE) as file:
            images, labels, order = file["images"], file["labels"], file["order"]
        self._split = split
        self._chosen = order[:DIGITS_TRAIN] if split == "train" else order[DIGITS_TRAIN:]
        grey = np.rint(images[self._chosen] * (255 / 16)).astype(np.uint8)
        self._images = np.repeat(grey[..., None], 3, axis=-1)  # count 8 8 3
        super().__init__(labels[self._chosen], [str(digit) for digit in range(10)])

    def name(self, index: int) -> str:
        """The digit's number in the original set."""
        return f"digits/{self._split}/{self._chosen[index]}"

    def read(self, index: int) -> Image.Image:
        """The digit as an RGB image, 8x8 px."""
        return Image.fromarray(self._images[index])


def open_source(data: DataOptions, split: str, class_names: Sequence[str] | None = None) -> Source:
    """The images of `split` ('train' or 'val'), none larger than data.max_pixels: see `_open`."""
    decoding.allow(data.max_pixels)
    source = _open(data, split, class_names)
    source.max_pixels = data.max_pixels
    return source


def _open(data: DataOptions, split: str, class_names: Sequence[str] | None) -> Source:
    """The images of `split` ('train' or 'val'); for val pass train's `class_names`, so that both number the classes
    alike.

    UserError for a folder or list file that is missing, empty, unreadable or inconsistent.
    """
    if data.dataset == "digits":
        return DigitsSource(split)
    train, val = data.train_split, data.val_split
    accepted = f"a folder with {train}/ and {val}/ class folders, or with {train}_list.txt and {val}_list.txt"
    if data.data_dir is None:
        raise UserError(
            f"data_dir is not given, but dataset: {data.dataset} needs it: {accepted} (--dataset digits needs "
            "no folder)"
        )
    root, name = Path(data.data_dir), data.train_split if split == "train" else data.val_split
    if not root.exists():
        raise UserError(f"data_dir {root} does not exist; give {accepted}")
    if not root.is_dir():
        raise UserError(f"data_dir {root} is not a folder; give {accepted}")
    list_file, folder = root / f"{name}_list.txt", root / name
    if (root / f"{name}.mindrecord.json").is_file():
        from mindvit.data.datasets.mindrecord import MindRecordSource  # it is a Source itself

        return MindRecordSource(root, name, class_names)
    if list_file.is_file():
        return ListSource(list_file, class_names)
    if not folder.is_dir():
        entries = _entries(root)
        if f"{name}_0000.mindrecord" in entries:
            raise UserError(
                f"data_dir {root} holds {name}_0000.mindrecord without {name}.mindrecord.json: it was not "
                "finished; run "
                f"mindvit prepare again with the same arguments"
            )
        raise UserError(
            f"data_dir {root} has neither {name}/ nor {name}_list.txt; it has "
            f"{_some(entries, 8) if entries else 'nothing'}: give {accepted}, "
            f"or name the split with {split}_split"
        )
    return FolderSource(folder, class_names)


def check_same_classes(train: Source, val: Source) -> None:
    """UserError unless both splits number the same classes; a class without validation images is fine."""
    refuse_unknown(val.class_names, train.class_names, "the validation split")
    if val.class_names != train.class_names:
        missing = [name for name in train.class_names if name not in set(val.class_names)]
        raise UserError(
            f"the validation split lacks class {_some(missing)} and numbers the others differently; open it with the "
            "training split's class_names"
        )


def empty_classes(train: Source) -> list[str]:
    """A line, or none, for the classes that have no training image; in a list file that counts from 1, class 0 has
    none.
    """
    missing = np.flatnonzero(np.bincount(train.labels, minlength=len(train.class_names)) == 0)
    if not len(missing):
        return []
    runs = [
        f"{run[0]}" if len(run) == 1 else f"{run[0]} to {run[-1]}"
        for run in np.split(missing, np.flatnonzero(np.diff(missing) > 1) + 1)
    ]
    numbered = all(name.isdigit() for name in train.class_names)
    names = "" if numbered else f" ({_some([train.class_names[number] for number in missing])})"
    which = f"class {runs[0]}{names} has" if len(missing) == 1 else f"classes {_some(runs, 5)}{names} have"
    return [
        f"of {len(train.class_names)} classes, {which} no image to train on"
        + ("; labels are counted from 0" if numbered else "")
    ]


def remarks(train: Source) -> list[str]:
    """Lines for what is no error and yet may be a mistake in a training split."""
    return [*empty_classes(train), *train.remarks]


def passed_over(*splits: tuple[str, Source]) -> str:
    """What lies in folders and is no image of a class, as the end of a line; an empty text where there is nothing."""
    return "".join(f"; passed over in {name}: {source.passed_over}" for name, source in splits if source.passed_over)


def _class_folders(folder: Path) -> Scan:
    scan = Scan(str(folder), classes=True)
    if not scan.images:
        entries = _entries(folder)
        inside = f"only {_some(entries)}" if entries else "nothing"
        raise UserError(
            f"{folder} has no class folder ({inside}); it needs one folder of images for each class"
            + (f" (passed over: {scan.passed_over})" if str(scan.passed_over) and entries else "")
        )
    return scan


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} can't be read ({error.strerror}); check its permissions") from None


def find_images(places: Sequence[str]) -> list[str]:
    """Files as they are named, and every image below folders, in alphabetical order.

    What is passed over there is said on stderr.
    UserError for a place that isn't there or holds no image.
    """
    found: list[str] = []
    for place in places:
        if not os.path.exists(place):
            broken = f": a broken link to {os.readlink(place)}" if os.path.islink(place) else ""
            raise UserError(f"no image or folder {place}{broken}")
        if not os.path.isdir(place):
            found.append(place)
            continue
        scan = Scan(place)
        told = str(scan.passed_over)
        if not scan.images[""]:
            raise UserError(
                f"folder {place} holds no image ({' '.join(EXTENSIONS)})" + (f"; passed over: {told}" if told else "")
            )
        if told:
            print(f"passed over in {on_one_line(place)}: {told}", file=sys.stderr, flush=True)
        found += scan.images[""]
    return found


def _list_entries(file: Path) -> Iterator[tuple[int, str, int]]:
    """Line number, path and label; blanks or a tab before the label, any line ends, UTF-8 or Windows' UTF-16."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror}); check its permissions") from None
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16", "replace") if wide else content.decode("utf-8-sig", "surrogateescape")
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would take some characters of names for line ends
        line = line.strip(" \t\r")
        if not line:
            continue
        match = LINE.fullmatch(line)
        if not match:
            raise UserError(
                f"{file}, line {number}: {line!r} is not 'relative/path label' with a label of 0, 1, 2, ..."
            )
        if len(match[2]) > 9 or int(match[2]) >= MOST_LABELS:
            raise UserError(
                f"{file}, line {number}: label {match[2]} is too large; labels are class numbers, "
                f"0 to {MOST_LABELS - 1} at most"
            )
        yield number, match[1], int(match[2])


def _located(file: Path, entries: Iterable[tuple[int, str, int]]) -> list[str]:
    """The paths of a list's images; UserError for one that isn't there.

    Windows' \\ is taken for / where the path as it stands is none.
    """
    # One listing a folder instead of one look-up a file: a million look-ups over a network take minutes.
    inside: dict[str, set[str]] = {}

    def is_there(path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in inside:
            inside[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        return name in inside[folder]

    paths = []
    for number, given, _ in entries:
        path = os.path.join(file.parent, given)
        if not is_there(path):
            path = os.path.join(file.parent, given.replace("\\", "/"))
            if "\\" not in given or not is_there(path):
                raise UserError(
                    f"{file}, line {number}: {os.path.join(file.parent, given)} does not exist; "
                    f"paths are relative to {file.parent}"
                )
        paths.append(path)
    return paths


def _repeated(file: Path, entries: Iterable[tuple[int, str, int]]) -> list[str]:
    """A line, or none, for images that a list names more than once: they count as often, and of two labels one is
    wrong.
    """
    first: dict[str, tuple[int, int]] = {}
    again: list[str] = []
    torn: list[str] = []
    for number, path, label in entries:
        line, before = first.setdefault(path, (number, label))
        if line != number:
            (again if before == label else torn).append(f"{path} in lines {line} and {number}")
    told = [
        f"{len(places)} {'lines' if len(places) > 1 else 'line'} of {file} {'name' if len(places) > 1 else 'names'} "
        f"an image again {how} ({_some(places, 1)})"
        for places, how in ((again, "that is named already"), (torn, "with another label"))
        if places
    ]
    return ["; ".join(told)] if told else []


def refuse_unknown(names: Sequence[str], known: Sequence[str], where: str) -> None:
    """UserError, naming the place, for class names that the training split doesn't have."""
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise UserError(
            f"{where} has {len(names)} classes, of which {_some(unknown)} {'is' if len(unknown) == 1 else 'are'} not "
            "among the "
            f"{len(known)} training classes; both splits need the same class names"
        )


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
