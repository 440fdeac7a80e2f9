"""Images that a list file names."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mindvit.data.datasets.base import FileDataset, some
from mindvit.errors import UserError

LINE = re.compile(r"(.*\S)[ \t]+([0-9]+)")  # of a list file: a path, which may have spaces, and a label


MOST_LABELS = 1_000_000  # in a list; a larger one is no class number, and every class takes memory


class ListDataset(FileDataset):
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
        f"an image again {how} ({some(places, 1)})"
        for places, how in ((again, "that is named already"), (torn, "with another label"))
        if places
    ]
    return ["; ".join(told)] if told else []
