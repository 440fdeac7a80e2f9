"""Pictures with random access: class folders, list files, and the digits that ship with the package (MindRecord: records.py)."""

from __future__ import annotations

import io
import os
import sys
import threading
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from mindvit.errors import UserError
from mindvit.recipe import DataOptions

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
# What a file may hold, whatever its name says (ImageNet has a PNG named .JPEG). Naming the plug-ins also registers them before threads start.
FORMATS = tuple(plugin.format for plugin in (
    JpegImagePlugin.JpegImageFile, PngImagePlugin.PngImageFile, BmpImagePlugin.BmpImageFile, WebPImagePlugin.WebPImageFile,
    TiffImagePlugin.TiffImageFile, GifImagePlugin.GifImageFile))

DIGITS_FILE = Path(__file__).with_name("digits.npz")
DIGITS_TRAIN = 1437  # of 1797: about four fifths


class BadPicture(Exception):
    """A picture that can't be decoded: `name` of the file and the `reason`."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"picture {name} can't be decoded ({reason})")
        self.name, self.reason = name, reason


class Source(ABC):
    """Pictures by index: `labels` int32 (count,), `class_names` by label, and `bad`, the reason by name of each undecodable picture met so far."""

    is_by_label = False  # whether the data themselves number the classes

    def __init__(self, labels: Iterable[int], class_names: Sequence[str]) -> None:
        self.labels = np.asarray(labels, np.int32)
        self.class_names: tuple[str, ...] = tuple(class_names)
        self.bad: dict[str, str] = {}
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
        """The picture's path, for messages."""

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """The decoded picture, RGB, 8 bits; BadPicture if that is impossible."""

    def fingerprint(self) -> str:
        """Eight digits that change with the pictures' number, names (of file and folder, wherever the data set lies), labels or classes; not with pixels."""
        crc = zlib.crc32(repr(self.class_names).encode(), zlib.crc32(self.labels.tobytes()))
        for index in range(len(self)):
            crc = zlib.crc32("/".join(self.name(index).rsplit("/", 2)[-2:]).encode("utf-8", "surrogateescape"), crc)
        return f"{crc:08x}"

    def skip(self, error: BadPicture) -> None:
        """Count an undecodable picture and, the first time, say so on stderr."""
        with self._bad_lock:
            if error.name not in self.bad:
                self.bad[error.name] = error.reason
                print(f"warning: {error}; another one takes its place", file=sys.stderr, flush=True)


class FileSource(Source):
    """Pictures in files."""

    def __init__(self, paths: Sequence[str], labels: Iterable[int], class_names: Sequence[str]) -> None:
        super().__init__(labels, class_names)
        self.paths = paths

    def name(self, index: int) -> str:
        """The picture's path."""
        return self.paths[index]

    def read(self, index: int) -> Image.Image:
        """The decoded picture, RGB; BadPicture if the file can't be read or decoded."""
        return read_picture(self.paths[index])


class FolderSource(FileSource):
    """Every picture below `folder`, whose sub-folders are the classes; numbered by name, or by `class_names` where given."""

    def __init__(self, folder: Path, class_names: Sequence[str] | None = None) -> None:
        found = _class_folders(folder)
        if class_names is not None:
            refuse_unknown(found, class_names, str(folder))
        numbers = {name: number for number, name in enumerate(class_names or found)}
        paths, labels, without = [], [], []
        for name in found:
            inside = sorted(pictures_in(folder / name))
            paths += inside
            labels += [numbers[name]] * len(inside)
            without += [] if inside else [name]
        if without:
            raise UserError(f"class folder {_some(without)} of {folder} has no picture ({' '.join(EXTENSIONS)}); add pictures or remove the folder")
        super().__init__(paths, labels, tuple(numbers))


class ListSource(FileSource):
    """The pictures that a list file names, one 'relative/path label' a line; `class_names`, where given, bounds the labels."""

    is_by_label = True

    def __init__(self, file: Path, class_names: Sequence[str] | None = None) -> None:
        entries = list(_list_entries(file))
        if not entries:
            raise UserError(f"list file {file} names no picture; it needs one line 'relative/path label' for each")
        highest = max(label for _, _, label in entries)
        names = tuple(class_names) if class_names is not None else tuple(str(label) for label in range(highest + 1))
        for number, _, label in entries:
            if label >= len(names):
                raise UserError(f"{file}, line {number}: label {label}, but the {len(names)} training classes have labels 0 to {len(names) - 1}")
        paths = [os.path.join(file.parent, path) for _, path, _ in entries]
        _refuse_missing(file, [number for number, _, _ in entries], paths)
        super().__init__(paths, [label for _, _, label in entries], names)


class DigitsSource(Source):
    """Handwritten digits, 8x8 px, grey repeated to RGB (UCI, CC BY 4.0: see README.md beside this file); `split` is 'train' or 'val'."""

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
        """The digit as an RGB picture, 8x8 px."""
        return Image.fromarray(self._images[index])


def open_source(data: DataOptions, split: str, class_names: Sequence[str] | None = None) -> Source:
    """The pictures of `split` ('train' or 'val'); for val pass train's `class_names`, so that both number the classes alike.

    UserError for a folder or list file that is missing, empty, unreadable or inconsistent.
    """
    if data.dataset == "digits":
        return DigitsSource(split)
    accepted = f"a folder with {data.train_split}/ and {data.val_split}/ class folders, or with {data.train_split}_list.txt and {data.val_split}_list.txt"
    if data.data_dir is None:
        raise UserError(f"data_dir is not given, but dataset: {data.dataset} needs it: {accepted} (--dataset digits needs no folder)")
    root, name = Path(data.data_dir), data.train_split if split == "train" else data.val_split
    if not root.exists():
        raise UserError(f"data_dir {root} does not exist; give {accepted}")
    if not root.is_dir():
        raise UserError(f"data_dir {root} is not a folder; give {accepted}")
    list_file, folder = root / f"{name}_list.txt", root / name
    if (root / f"{name}.mindrecord.json").is_file():
        from mindvit.data.records import MindRecordSource  # it is a Source itself

        return MindRecordSource(root, name, class_names)
    if list_file.is_file():
        return ListSource(list_file, class_names)
    if not folder.is_dir():
        entries = _entries(root)
        if f"{name}_0000.mindrecord" in entries:
            raise UserError(f"data_dir {root} holds {name}_0000.mindrecord without {name}.mindrecord.json: it was not finished; run "
                            f"python -m mindvit.tools.prepare again with the same arguments")
        raise UserError(f"data_dir {root} has neither {name}/ nor {name}_list.txt; it has {_some(entries, 8) if entries else 'nothing'}: give {accepted}, "
                        f"or name the split with {split}_split")
    return FolderSource(folder, class_names)


def check_same_classes(train: Source, val: Source) -> None:
    """UserError unless both splits number the same classes; a class without validation pictures is fine."""
    refuse_unknown(val.class_names, train.class_names, "the validation split")
    if val.class_names != train.class_names:
        missing = [name for name in train.class_names if name not in set(val.class_names)]
        raise UserError(f"the validation split lacks class {_some(missing)} and numbers the others differently; open it with the training split's class_names")


def read_picture(path: str) -> Image.Image:
    """The picture in a file, RGB, 8 bits, EXIF orientation ignored as torchvision's loader does; BadPicture if it can't be read or decoded."""

    def content() -> bytes:
        with open(path, "rb") as file:
            return file.read()

    return decoded(path, content)


def decoded(name: str, content: Callable[[], bytes]) -> Image.Image:
    """The picture whose encoded bytes `content` fetches; BadPicture, under `name`, if it can't be fetched or decoded."""
    try:
        return decode(content())
    except (MemoryError, BadPicture):
        raise
    except Image.UnidentifiedImageError:
        raise BadPicture(name, f"not one of {', '.join(FORMATS)}") from None
    except Exception as error:  # damaged files make Pillow's readers raise nearly anything
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadPicture(name, reason or type(error).__name__) from None


def decode(content: bytes) -> Image.Image:
    """An encoded picture as RGB, 8 bits: alpha is dropped, 16-bit grey scaled; any exception of Pillow's if it can't be decoded."""
    if not content:
        raise ValueError("the file is empty")
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        image.load()
        return as_rgb(image)


def as_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as RGB, 8 bits: alpha is dropped, 16-bit grey scaled."""
    if image.mode == "RGB":
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):  # Pillow would clip at 255: nearly all white
        return Image.fromarray(np.rint(np.clip(np.asarray(image), 0, 65535) / 257).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")  # the same colours, without Pillow's warning
    return image.convert("RGB")


def _class_folders(folder: Path) -> list[str]:
    entries = _entries(folder)
    found = [name for name in entries if (folder / name).is_dir()]
    if not found:
        inside = f"only {_some(entries)}" if entries else "nothing"
        raise UserError(f"{folder} has no class folder ({inside}); it needs one folder of pictures for each class")
    return found


def _entries(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} can't be read ({error.strerror}); check its permissions") from None


def pictures_in(folder: Path) -> Iterator[str]:
    """Paths of all pictures below a folder, known by their extension; hidden files and folders are left out. UserError if it can't be read."""
    for name in _entries(folder):
        path = os.path.join(folder, name)
        if name.lower().endswith(EXTENSIONS):
            yield path
        elif os.path.isdir(path):
            yield from pictures_in(Path(path))


def find_pictures(places: Sequence[str]) -> list[str]:
    """Files as they are named, and every picture below folders, in alphabetical order. UserError for a place that isn't there or holds no picture."""
    found: list[str] = []
    for place in places:
        inside = sorted(pictures_in(Path(place))) if os.path.isdir(place) else [place]
        if not os.path.exists(place):
            raise UserError(f"no picture or folder {place}")
        if not inside:
            raise UserError(f"folder {place} holds no picture ({' '.join(EXTENSIONS)})")
        found += inside
    return found


def _list_entries(file: Path) -> Iterator[tuple[int, str, int]]:
    try:
        lines = file.read_text("utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror}); check its permissions") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            path, _, label = line.strip().rpartition(" ")
            if not path or not (label.isascii() and label.isdigit()):
                raise UserError(f"{file}, line {number}: {line.strip()!r} is not 'relative/path label' with a label of 0, 1, 2, ...")
            yield number, path.strip(), int(label)


def _refuse_missing(file: Path, numbers: Sequence[int], paths: Sequence[str]) -> None:
    # One listing a folder instead of one look-up a file: a million look-ups over a network take minutes.
    inside: dict[str, set[str]] = {}
    for number, path in zip(numbers, paths):
        folder, name = os.path.split(path)
        if folder not in inside:
            inside[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in inside[folder]:
            raise UserError(f"{file}, line {number}: {path} does not exist; paths are relative to {file.parent}")


def refuse_unknown(names: Sequence[str], known: Sequence[str], where: str) -> None:
    """UserError, naming the place, for class names that the training split doesn't have."""
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise UserError(f"{where} has {len(names)} classes, of which {_some(unknown)} {'is' if len(unknown) == 1 else 'are'} not among the "
                        f"{len(known)} training classes; both splits need the same class names")


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
