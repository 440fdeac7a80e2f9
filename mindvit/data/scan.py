"""The images below a folder, each real folder read once however links lead to it; and what was passed over, by kind."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from mindvit.data.decoding import EXTENSIONS
from mindvit.errors import UserError
from mindvit.runtime.files import on_one_line

# What systems and NAS boxes leave beside one's own files (lower case): no class, and no image in it. Names that begin
# with a dot are passed over anyway.
SIDE_FOLDERS = frozenset(
    (
        # Synology, QNAP
        "@eadir",
        "@tmp",
        "@recycle",
        "@recently-snapshot",
        "@sharebin",
        "@__thumb",
        "#recycle",
        "#snapshot",
        "__macosx",
        "network trash folder",
        "temporary items",
        "lost+found",
        "__pycache__",
        "~snapshot",
        "$recycle.bin",
        "system volume information",
    )
)
SPLIT = "mindvit_split.csv"  # ours: which image is for training, which for validation
MOST_NAMED = 3  # of each kind
MOST_ENDINGS = 6


@dataclass
class PassedOver:
    """What is no image of a class: as text, a phrase for a line; an empty one where there is nothing."""

    endings: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    special: int = 0  # pipes, sockets, devices
    outside: int = 0  # images beside the class folders
    folders: Counter[str] = field(default_factory=Counter)
    links: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        common = sorted(self.endings.items(), key=lambda item: (-item[1], item[0]))[:MOST_ENDINGS]
        others = sum(self.endings.values()) - sum(count for _, count in common)
        parts = [
            f"{count} {ending}" if ending else f"{_several(count, 'file')} without extension"
            for ending, count in common
        ]
        parts += [f"{others} of other kinds"] * (others > 0)
        parts += [_several(self.outside, "image") + " outside of class folders"] * (self.outside > 0)
        parts += [f"{self.hidden} hidden"] * (self.hidden > 0)
        parts += [_several(self.special, "special file")] * (self.special > 0)
        kinds = {"folder": list(self.folders), "symbolic link": self.links, "broken link": self.broken}
        for kind, names in kinds.items():
            if names:
                more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
                parts.append(f"{kind}{'s' * (len(names) > 1)} {', '.join(names[:MOST_NAMED])}{more}")
        return on_one_line(", ".join(parts))


@dataclass(frozen=True)
class _Place:
    """A folder to be read: its class, its path as the user sees it, its real path; of a link: where it lies."""

    kind: str
    path: str
    real: str
    around: str = ""


class Scan:
    """All images below `root`: `images`, sorted paths by class, a sub-folder each, or without `classes` all under ''.

    A link to a folder is followed where it leads to images that aren't counted yet. One that leads back to a folder
    around it, or to one that is counted already, is passed over: real folders come first, so that each image is counted
    once, and in its own class. Links to files are images like others. UserError if a folder can't be read.
    """

    def __init__(self, root: str, classes: bool = False) -> None:
        self.root, self.real = root, os.path.realpath(root)
        self.images: dict[str, list[str]] = {} if classes else {"": []}
        self.passed_over = PassedOver()
        self._seen: set[str] = set()
        self._folders: deque[_Place] = deque()
        self._links: deque[_Place] = deque()
        self._read(_Place("", root, self.real), top=classes)
        while self._folders or self._links:
            if self._folders:
                self._read(self._folders.popleft())
            else:
                self._follow(self._links.popleft())
        self.images = {kind: sorted(self.images[kind]) for kind in sorted(self.images)}

    def _read(self, place: _Place, top: bool = False) -> None:
        if place.real in self._seen:
            return
        self._seen.add(place.real)
        if not top:
            self.images.setdefault(place.kind, [])
        for entry in _entries(place.path):
            if entry.name.startswith("."):
                self.passed_over.hidden += 1
            elif entry.is_symlink():
                self._link(place, entry, top)
            elif entry.is_dir(follow_symlinks=False):
                if entry.name.lower() in SIDE_FOLDERS:
                    self.passed_over.folders[entry.name] += 1
                else:
                    kind = entry.name if top else place.kind
                    self._folders.append(_Place(kind, entry.path, os.path.join(place.real, entry.name)))
            elif not entry.is_file(follow_symlinks=False):
                self.passed_over.special += 1
            else:
                self._file(place, entry, top)

    def _file(self, place: _Place, entry: os.DirEntry[str], top: bool) -> None:
        if top and entry.name == SPLIT:
            return
        if not entry.name.lower().endswith(EXTENSIONS):
            self.passed_over.endings[os.path.splitext(entry.name)[1].lower()] += 1
        elif top:
            self.passed_over.outside += 1
        else:
            self.images[place.kind].append(entry.path)

    def _link(self, place: _Place, entry: os.DirEntry[str], top: bool) -> None:
        # One named as an image isn't looked up: data sets of a million links exist. What can't be read is said then.
        if entry.name.lower().endswith(EXTENSIONS) and not top:
            self._file(place, entry, top)
        elif entry.name.lower() in SIDE_FOLDERS:
            self.passed_over.folders[entry.name] += 1
        elif os.path.isdir(entry.path):  # unlike the entry's own way, not an error for a link to itself
            kind = entry.name if top else place.kind
            self._links.append(_Place(kind, entry.path, os.path.realpath(entry.path), place.real))
        elif os.path.isfile(entry.path):
            self._file(place, entry, top)
        else:
            self.passed_over.broken.append(self._told(entry.path))

    def _follow(self, link: _Place) -> None:
        loop = any(_is_within(folder, link.real) for folder in (self.real, link.around))
        if loop or link.real in self._seen:
            why = "a loop" if loop else "a folder that is counted already"
            self.passed_over.links.append(f"{self._told(link.path)} ({why})")
        else:
            self._folders.append(link)

    def _told(self, link: str) -> str:
        return f"{os.path.relpath(link, self.root)} -> {os.readlink(link)}"


def _entries(folder: str) -> Sequence[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder} can't be read ({error.strerror}); check its permissions") from None


def _is_within(folder: str, other: str) -> bool:
    """Whether `folder` is `other` or below it; both real paths."""
    return f"{folder}/".startswith(f"{other.rstrip('/')}/")


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
