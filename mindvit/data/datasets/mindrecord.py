"""Images packed into MindRecord files: a few big files instead of a million small ones, with random access.

MindSpore's FileReader only goes from front to back, and its MindDataset chooses the order itself. The format is simple
enough to be read directly: the SQLite file beside each shard says where an image's bytes begin and end, so one pread an
image gets them. mindspore.mindrecord writes the files and can read them.

A split NAME is NAME_0000.mindrecord, NAME_0001.mindrecord, ... with their .db, and NAME.mindrecord.json, which is
written last: without it the split is unfinished.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mindvit.data.datasets.base import FileDataset, LabelledDataset, refuse_unknown
from mindvit.data.datasets.names import Names
from mindvit.data.decoding import DecodeError, decode, named
from mindvit.errors import UserError
from mindvit.runtime import files

SCHEMA = {"image": {"type": "bytes"}, "label": {"type": "int32"}, "name": {"type": "string"}}
META = "{}.mindrecord.json"
PAGE = 32 << 20  # bytes: MindRecord's unit, and more than any image
HEADER = 1 << 20
LENGTH = struct.Struct("<Q")  # of a blob, before it
AT_ONCE = 64  # images handed to the writer together

Entry = tuple[str, int, int]  # name, label, bytes


@dataclass(frozen=True)
class Shard:
    """An index of one file: each image's name, label, and its place and size in bytes."""

    path: Path
    names: list[str]
    labels: list[int]
    places: list[int]
    sizes: list[int]

    @property
    def entries(self) -> list[Entry]:
        """What it holds, to compare with what it should hold."""
        return list(zip(self.names, self.labels, self.sizes))


def read_shard(path: Path) -> Shard:
    """The index of a MindRecord file that `prepare` wrote; UserError if it is none, or incomplete."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(LENGTH.unpack(file.read(LENGTH.size))[0]))
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}.db?mode=ro", uri=True)) as index:
            rows = index.execute(
                "SELECT name_0, label_0, PAGE_ID_BLOB, PAGE_OFFSET_BLOB, PAGE_OFFSET_BLOB_END FROM INDEXES ORDER "
                "BY ROW_ID"
            ).fetchall()
        start, page = int(header["header_size"]), int(header["page_size"])
    except (OSError, sqlite3.Error, struct.error, ValueError, KeyError, MemoryError) as error:
        raise UserError(
            f"{path} is no MindRecord file of mindvit's, or its .db is missing or damaged ({error}); remove both "
            "and run "
            "mindvit prepare again"
        ) from None
    places = [start + page * number + first for _, _, number, first, _ in rows]
    sizes = [last - first - LENGTH.size for _, _, _, first, last in rows]
    if places and places[-1] + sizes[-1] > path.stat().st_size:
        raise UserError(f"{path} is cut short; remove it and its .db and run mindvit prepare again")
    return Shard(path, [row[0] for row in rows], [int(row[1]) for row in rows], places, sizes)


class MindRecordDataset(LabelledDataset):
    """The images of a split in `root` that `prepare` packed; numbered as they were, or by `class_names` where
    given.
    """

    def __init__(self, root: Path, split: str, class_names: Sequence[str] | None = None) -> None:
        meta = read_meta(root / META.format(split))
        shards = [read_shard(root / name) for name in meta["shards"]]
        found = sum(len(shard.names) for shard in shards)
        if found != meta["count"]:
            raise UserError(
                f"{root / META.format(split)} promises {meta['count']} images, but its files hold {found}; remove "
                "the split's files and run "
                "mindvit prepare again"
            )
        labels = np.array([label for shard in shards for label in shard.labels], np.int32)
        if class_names is not None:
            refuse_unknown(meta["class_names"], class_names, str(root / META.format(split)))
            numbers = {name: number for number, name in enumerate(class_names)}
            labels = np.array([numbers[name] for name in meta["class_names"]], np.int32)[labels]
        super().__init__(labels, class_names if class_names is not None else meta["class_names"])
        self._shard = np.repeat(np.arange(len(shards)), [len(shard.names) for shard in shards])
        self._place = np.array([place for shard in shards for place in shard.places], np.int64)
        self._size = np.array([size for shard in shards for size in shard.sizes], np.int64)
        self._names: Sequence[str] = [name for shard in shards for name in shard.names]
        self._paths = [shard.path for shard in shards]
        self._files = [os.open(path, os.O_RDONLY) for path in self._paths]
        self._fingerprint, self._packed = str(meta["fingerprint"]), tuple(meta["class_names"])
        self.is_by_label = bool(meta["is_by_label"])

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        del state["_files"]  # a worker process opens its own
        return {**state, "_names": Names(self._names)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._files = [os.open(path, os.O_RDONLY) for path in self._paths]

    def name(self, index: int) -> str:
        """The file it is in, and the path that it had."""
        return f"{self._paths[self._shard[index]]}/{self._names[index]}"

    def content(self, index: int) -> bytes:
        """The encoded image; DecodeError if the file isn't what its index says."""
        size = int(self._size[index])
        found = os.pread(self._files[self._shard[index]], LENGTH.size + size, int(self._place[index]))
        if len(found) != LENGTH.size + size or LENGTH.unpack_from(found)[0] != size:
            raise DecodeError(self.name(index), "the MindRecord file and its index disagree")
        return found[LENGTH.size :]

    def read(self, index: int) -> Image.Image:
        """The decoded image, RGB; DecodeError if it can't be decoded."""
        with named(self.name(index)):
            return decode(io.BytesIO(self.content(index)), self.max_pixels)

    def fingerprint(self) -> str:
        """That of the folder or list that was packed: a run may resume with either."""
        return self._fingerprint if self.class_names == self._packed else super().fingerprint()

    def __del__(self) -> None:
        for file in getattr(self, "_files", ()):
            os.close(file)


def read_meta(path: Path) -> dict[str, Any]:
    """What a split's file says; UserError if it is damaged."""
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        known = {key: meta[key] for key in ("class_names", "count", "fingerprint", "shards")}
        return {**known, "is_by_label": meta.get("is_by_label", False)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} can't be read ({error}); run mindvit prepare again") from None


def plan(dataset: FileDataset, root: Path, shard_bytes: int) -> list[list[int]]:
    """Indices of the images of each shard, in order; a shard ends where it would grow beyond `shard_bytes`.
    UserError for a file that is gone or too big.
    """
    shards: list[list[int]] = [[]]
    held = 0
    for index, path in enumerate(dataset.paths):
        try:
            size = os.path.getsize(path)
        except OSError as error:
            raise UserError(f"{path} can't be read ({error.strerror})") from None
        if size + LENGTH.size >= PAGE:
            raise UserError(
                f"{path} has {size >> 20} MiB, more than a MindRecord page of {PAGE >> 20} MiB holds; make it smaller "
                "or remove it"
            )
        if shards[-1] and held + size > shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append(index)
        held += size
    return shards


def entry(dataset: FileDataset, root: Path, index: int) -> Entry:
    """What a shard says of an image: its path below `root`, whose bytes that are no text are spelt out."""
    path = os.path.relpath(dataset.paths[index], root)
    return files.printable(path), int(dataset.labels[index]), os.path.getsize(dataset.paths[index])


def write_shard(
    path: Path, dataset: FileDataset, root: Path, indices: Sequence[int], done: Callable[[int], Any]
) -> None:
    """Write one file and its .db, in a folder of their own first, so that a shard is either whole or not there."""
    from mindspore.mindrecord import FileWriter

    with unfinished(path.parent) as folder:
        writer = FileWriter(str(folder / path.name), shard_num=1)
        writer.set_header_size(HEADER)
        writer.set_page_size(PAGE)
        writer.add_schema(SCHEMA, "images: encoded bytes, label, path")
        writer.add_index(["label", "name"])
        for first in range(0, len(indices), AT_ONCE):
            part = indices[first : first + AT_ONCE]
            writer.write_raw_data([raw(dataset, root, index) for index in part])
            done(len(part))
        writer.commit()
        for name in (path.name, f"{path.name}.db"):
            os.chmod(folder / name, 0o644)  # MindSpore's are for their writer alone
        os.replace(folder / f"{path.name}.db", f"{path}.db")
        os.replace(folder / path.name, path)


def raw(dataset: FileDataset, root: Path, index: int) -> dict[str, Any]:
    """An image as the writer takes it."""
    name, label, _ = entry(dataset, root, index)
    try:
        return {"image": Path(dataset.paths[index]).read_bytes(), "label": label, "name": name}
    except OSError as error:
        raise UserError(f"{dataset.paths[index]} can't be read ({error.strerror})") from None


@contextlib.contextmanager
def unfinished(out: Path) -> Iterator[Path]:
    """An empty folder within `out` that is gone afterwards."""
    folder = out / ".unfinished"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was cut off
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def pack(
    dataset: FileDataset, root: Path, out: Path, split: str, shard_bytes: int, done: Callable[[int], Any]
) -> list[Path]:
    """Pack a split's images; the files. Shards that are there already stay; done(count) is called as images are in
    place.

    UserError if a shard that is there holds other images, or the result isn't what was to be packed.
    """
    paths = []
    for number, indices in enumerate(plan(dataset, root, shard_bytes)):
        path = out / f"{split}_{number:04d}.mindrecord"
        wanted = [entry(dataset, root, index) for index in indices]
        if not (path.exists() and Path(f"{path}.db").exists()):
            write_shard(path, dataset, root, indices, done)
        else:
            done(len(indices))
        if read_shard(path).entries != wanted:
            raise UserError(
                f"{path} holds other images than those of {root} (were they, or --shard_size, changed?): give an "
                "empty folder, or remove it"
            )
        paths.append(path)
    meta = {
        "class_names": list(dataset.class_names),
        "count": len(dataset),
        "fingerprint": dataset.fingerprint(),
        "shards": [path.name for path in paths],
        "is_by_label": dataset.is_by_label,
    }
    place = out / META.format(split)
    with files.atomic_write(place) as path:
        path.write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
    check(MindRecordDataset(out, split), dataset)
    return paths


def check(packed: MindRecordDataset, dataset: FileDataset) -> None:
    """UserError unless both have the same labels, and the same bytes at both ends of every shard, as MindSpore counts
    them too.
    """
    from mindspore.mindrecord import FileReader

    ends = [0, *np.flatnonzero(np.diff(packed._shard)), len(packed) - 1]
    same = np.array_equal(packed.labels, dataset.labels) and all(
        packed.content(index) == Path(dataset.paths[index]).read_bytes() for index in ends
    )
    counted = 0
    for path in packed._paths:
        reader = FileReader(str(path))
        counted += reader.len()
        reader.close()
    if not same or counted != len(dataset):
        raise UserError(
            f"{packed._paths[0].parent} doesn't hold the {len(dataset)} images that were to be packed (MindSpore "
            f"counts {counted}); "
            "remove it and run again"
        )
