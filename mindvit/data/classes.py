"""The order of the classes: which folder belongs to which logit.

Weights that name their classes say it themselves. Of all others it is known only if somebody says it: a list of
classes, a list file with labels, or ImageNet's own order, which ships. The alphabetical order of all folders is what
training tools agree on, but for numbers in names, and it says nothing where some of the folders are missing.
"""

from __future__ import annotations

import functools
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterable, Optional, Sequence, Union

import numpy as np

from mindvit.data.datasets.base import LabelledDataset, refuse_unknown
from mindvit.data.datasets.build import open_dataset
from mindvit.errors import UserError
from mindvit.recipe.options import DataOptions

IMAGENET_FILE = Path(__file__).with_name("imagenet_classes.txt")
IMAGENET = 1000  # classes of ImageNet-1K
ACCEPTED = "a text file with a class a line, or a JSON list, in the order of the logits"


@dataclass(frozen=True)
class ClassList:
    """Classes in the order of the logits. columns: one or more ways to call them all, the usual first; where: the
    file, for messages."""

    columns: tuple[tuple[str, ...], ...]
    where: str

    def __len__(self) -> int:
        return len(self.columns[0])

    @property
    def titles(self) -> tuple[str, ...]:
        """What people call the classes."""
        return self.columns[-1] if self.where.endswith(".json") else self.columns[0]

    def names_of(self, folders: Iterable[str]) -> tuple[str, ...]:
        """All classes by the names that folders have. UserError for a folder that no line names, or two lines name."""
        folders = set(folders)
        names = min(self.columns, key=lambda column: len(folders.difference(column)))
        unknown = sorted(folders.difference(names))
        if unknown:
            raise UserError(
                f"{self.where} has {len(self)} classes, but not {_some(unknown)}, which {_is(unknown)} a "
                f"class folder: every folder must be "
                f"a line of it, or a line's first word"
            )
        return self._each_once(names)

    def distinct_titles(self) -> tuple[str, ...]:
        """The titles of classes that only they tell apart. UserError if two are the same."""
        return self._each_once(self.titles)

    def _each_once(self, names: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted(name for name in set(names) if names.count(name) > 1) if len(set(names)) < len(names) else []
        if twice:
            raise UserError(
                f"{self.where} names class {_some(twice)} more than once: give every class a name of its own"
            )
        return names


def read_classes(file: Union[str, os.PathLike]) -> ClassList:
    """A list of classes: a name a line (`n01440764 tench, Tinca tinca` is known by its first word too), or JSON.

    JSON: a list, {"0": "tench"}, {"0": ["n01440764", "tench"]} as Keras has it, or {"tench": 0} as torchvision has it.
    UserError for a file that can't be read or isn't one of these.
    """
    where = f"classes {file}"
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(f"{where}: can't be read: {reason} ({ACCEPTED})") from None
    if text.lstrip()[:1] in ("[", "{"):
        return _from_json(text, where)
    lines = tuple(line.strip() for line in text.rstrip().splitlines())
    empty = next((number for number, line in enumerate(lines, 1) if not line), None)
    if not lines or empty:
        raise UserError(f"{where}: {f'line {empty}' if lines else 'the file'} is empty ({ACCEPTED})")
    words = tuple(re.split(r"[\s,]", line, maxsplit=1)[0] for line in lines)
    return ClassList((lines,) if words == lines else (lines, words), where)


def _from_json(text: str, where: str) -> ClassList:
    try:
        content: Any = json.loads(text)
        if isinstance(content, dict) and all(isinstance(value, int) for value in content.values()):
            content = {str(number): name for name, number in content.items()}
        if isinstance(content, dict):
            content = [content[str(number)] for number in range(len(content))]
        rows = [[str(item)] if isinstance(item, (str, int)) else list(map(str, item)) for item in content]
        columns = tuple(zip(*rows))
        if not rows or {len(row) for row in rows} != {len(rows[0])} or not columns:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{where}: not JSON that names classes 0, 1, 2, ... ({ACCEPTED})") from None
    return ClassList(columns, f"{where}" if where.endswith(".json") else f"{where} (JSON)")


@functools.cache
def imagenet() -> ClassList:
    """ImageNet-1K's classes: WordNet's numbers, as the folders are called, and a word for each."""
    rows = [line.split(" ", 1) for line in IMAGENET_FILE.read_text(encoding="utf-8").splitlines()]
    return ClassList((tuple(row[0] for row in rows), tuple(row[1] for row in rows)), "ImageNet-1K")


def label_names(known: Sequence[str], count: int) -> tuple[str, ...]:
    """A name for each class: those that are known, ImageNet-1K's for as many without names, or else numbers."""
    return numbered(imagenet().columns[1] if not known and count == IMAGENET else known, count)


def numbered(known: Sequence[str], count: int) -> tuple[str, ...]:
    """A name for each class: those that are known, and numbers for the others."""
    return (*known, *map(str, range(len(known), count)))


def is_ambiguous(names: Sequence[str]) -> bool:
    """Whether tools disagree on the order of these folders: by characters (1 10 2), or by the numbers in them and
    regardless of case (1 2 10)."""

    def natural(name: str) -> list[tuple[int, int, str]]:
        parts = [part for part in re.split(r"(\d+)", name.lower()) if part]
        return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]

    return sorted(names) != sorted(sorted(names), key=natural)


@dataclass(frozen=True)
class Head:
    """What weights say of the classes that they tell apart: how many, and in which order, where they name them.
    where: the file. gives_way: whether data with another number of classes gets a new head, which needs no asking."""

    where: str
    count: Optional[int]
    class_names: tuple[str, ...] = ()
    gives_way: bool = False


def open_ordered(
    data: DataOptions, split: str, head: Optional[Head], say: Callable[[str], None], num_classes: Optional[int] = None
) -> LabelledDataset:
    """The images of a split ('train' or 'val'), numbered as the head has its classes.

    head: of the weights to be measured, or of those that training starts from and keeps; None without any.
    num_classes: of the network, where training asks for that many. `say` is told whence an order comes that isn't the
    folders' own. UserError where the order is unknown, or the classes don't fit the head.
    """
    dataset = open_dataset(data, split)
    given = read_classes(data.classes) if data.classes else None
    if dataset.is_by_label:
        _label(dataset, data, head if split == "val" else None, given)
        return dataset
    names, why = _order(dataset, Folders(data, split), head, given, num_classes)
    if names is not None and names != dataset.class_names:
        missing = len(names) - len(dataset.class_names)
        without = f"; {missing} of them have no folder in {Folders(data, split)}" if missing else ""
        say(f"classes: {len(names)}, in the order of {why}{without}")
        dataset.renumber(names)
    return dataset


@dataclass(frozen=True)
class Folders:
    """How messages call the class folders of a split."""

    data: DataOptions
    split: str

    def __str__(self) -> str:
        name = self.data.train_split if self.split == "train" else self.data.val_split
        return f"{self.data.data_dir}/{name}" if self.data.data_dir else self.data.dataset

    @property
    def ask(self) -> str:
        """What to do where the order is unknown."""
        keep = ", or leave the head out: --new_head" if self.split == "train" else ""
        return f"say it with --classes FILE ({ACCEPTED}){keep}"


def _order(
    dataset: LabelledDataset,
    folders: Folders,
    head: Optional[Head],
    given: Optional[ClassList],
    num_classes: Optional[int],
) -> tuple[Optional[tuple[str, ...]], str]:
    """The classes in the order of the logits, None for the folders' own, and whose order it is."""
    found = dataset.class_names
    if given is not None:
        return _given(given, found, head, num_classes), given.where
    if head is None or head.count is None or (head.gives_way and (num_classes or len(found)) != head.count):
        return None, ""
    if head.class_names:
        return _known(head, found, folders, num_classes), head.where
    is_part = head.count == IMAGENET and set(found) <= set(imagenet().columns[0])
    if is_part and (folders.split == "val" or num_classes == IMAGENET or len(found) == IMAGENET):
        return imagenet().columns[0], imagenet().where
    if len(found) > head.count:
        new = "; --new_head starts a classifier for them" if folders.split == "train" else ""
        raise UserError(
            f"{head.where} tells {head.count} classes apart, but {folders} has {len(found)} class folders{new}"
        )
    if len(found) < head.count:
        raise UserError(
            f"{head.where} has a head of {head.count} classes and doesn't name them, and {folders} has "
            f"{len(found)} class folders: which of the "
            f"classes they are is unknown; {folders.ask}"
        )
    if is_ambiguous(found):
        raise UserError(
            f"{head.where} doesn't name its {head.count} classes, and tools sort the folders of {folders} "
            f"differently, {_some(sorted(found))} here: "
            f"{folders.ask}; ls -v {folders} > FILE sorts by number, LC_ALL=C ls {folders} > FILE by "
            f"character"
        )
    return None, ""


def _given(given: ClassList, found: Sequence[str], head: Optional[Head], num_classes: Optional[int]) -> tuple[str, ...]:
    """The order of a list that the user gives."""
    names = given.names_of(found)
    if num_classes is not None and num_classes != len(names):
        raise UserError(
            f"{given.where} has {len(names)} classes, but num_classes is {num_classes} (leave num_classes out)"
        )
    if head is not None and head.count is not None and len(names) != head.count:
        raise UserError(
            f"{given.where} has {len(names)} classes, but {head.where} has a head of {head.count}: one "
            f"class a line, in the order of the logits"
        )
    if head is not None and sorted(head.class_names) == sorted(names) and head.class_names != names:
        raise UserError(
            f"{given.where} has another order of the classes than {head.where}, which names them itself "
            f"(leave --classes out)"
        )
    return names


def _known(head: Head, found: Sequence[str], folders: Folders, num_classes: Optional[int]) -> Optional[tuple[str, ...]]:
    """The order of a head that names its classes."""
    if folders.split == "val":
        refuse_unknown(found, head.class_names, str(folders))
        return head.class_names
    # training that goes on with the same classes keeps their order; of others, or fewer, it makes classes of its own
    same = set(found) <= set(head.class_names) and (len(found) == len(head.class_names) or num_classes == head.count)
    return head.class_names if same else None


def _label(dataset: LabelledDataset, data: DataOptions, head: Optional[Head], given: Optional[ClassList]) -> None:
    """Name the classes of images that are numbered already."""
    names = given.names_of(()) if given is not None else head.class_names if head is not None else ()
    where = given.where if given is not None else head.where if head is not None else ""
    if head is not None and head.count is not None and not names:
        names = tuple(map(str, range(head.count)))
    if not names:
        return
    highest = int(np.max(dataset.labels))
    if highest >= len(names):
        raise UserError(
            f"{where} has {len(names)} classes, 0 to {len(names) - 1}, but "
            f"{dataset.name(int(np.argmax(dataset.labels)))} has label {highest}"
        )
    if given is not None and head is not None and head.count is not None and len(names) != head.count:
        raise UserError(
            f"{where} has {len(names)} classes, but {head.where} has a head of {head.count}: one class a "
            f"line, in the order of the logits"
        )
    dataset.class_names = names


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are each"
