"""Class folders without a split: which images are for training and which for validation, the same tomorrow."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path

from mindvit.data.datasets.base import some
from mindvit.data.datasets.folder import FolderDataset
from mindvit.data.scan import SPLIT
from mindvit.errors import UserError

COLUMNS = ["image", "split"]  # of SPLIT, in the folder
VAL_SHARE = 0.2


class SplitFolder(FolderDataset):
    """The images of one split ('train' or 'val') of a folder whose sub-folders are the classes.

    What SPLIT says counts. Images that it doesn't name are for training; where there is none, the share `val_share` of
    each class, at least one image of two, is for validation: those whose names come first in an order that
    `split_seed` gives.
    """

    def __init__(
        self, folder: Path, split: str, class_names: Sequence[str] | None, val_share: float, split_seed: int
    ) -> None:
        super().__init__(folder, class_names)
        images = [os.path.relpath(path, folder) for path in self.paths]
        known = read_split(folder / SPLIT)
        if known is None:
            known = choose(images, self.labels.tolist(), val_share, split_seed)
            if not write_split(folder / SPLIT, known):
                self.remarks.append(
                    f"{folder / SPLIT} can't be written: the split is the same as long as the images are"
                )
        else:
            self.remarks += compared(known, images, folder / SPLIT)
        wanted = [number for number, image in enumerate(images) if known.get(image, "train") == split]
        if not wanted:
            raise UserError(
                f"{folder} has no image for {split}: {SPLIT} names none, or each class has one image only (remove "
                f"{SPLIT} to split anew)"
            )
        self.paths, self.labels = [self.paths[number] for number in wanted], self.labels[wanted]


def choose(images: Sequence[str], labels: Sequence[int], val_share: float, split_seed: int) -> dict[str, str]:
    """'train' or 'val' for each image, class by class.

    An image's place depends on its own name and the seed alone, so that more images change little.
    """

    def place(number: int) -> bytes:
        name = f"{split_seed}/{images[number]}".encode("utf-8", "surrogateescape")
        return hashlib.blake2b(name, digest_size=8).digest()

    classes: dict[int, list[int]] = {}
    for number, label in enumerate(labels):
        classes.setdefault(label, []).append(number)
    chosen: set[int] = set()
    for numbers in classes.values():
        count = min(max(1, round(val_share * len(numbers))), len(numbers) - 1)
        chosen.update(sorted(numbers, key=place)[:count])
    return {image: "val" if number in chosen else "train" for number, image in enumerate(images)}


def read_split(file: Path) -> dict[str, str] | None:
    """'train' or 'val' by image; None without a file. UserError for one that says something else."""
    if not file.is_file():
        return None
    try:
        rows = list(csv.reader(io.StringIO(file.read_text(encoding="utf-8", errors="surrogateescape"))))
    except OSError as error:
        raise UserError(f"{file} can't be read: {error.strerror}") from None
    wrong = [number for number, row in enumerate(rows[1:], 2) if len(row) != 2 or row[1] not in ("train", "val")]
    if not rows or rows[0] != COLUMNS or wrong:
        where = f", line {wrong[0]}" if wrong else ""
        raise UserError(f"{file}{where}: needs the columns image and split, which is train or val (or remove the file)")
    return {row[0]: row[1] for row in rows[1:]}


def write_split(file: Path, split: dict[str, str]) -> bool:
    """Keep a split; whether that was possible."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *split.items()])
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")  # every rank writes the same
    try:
        unfinished.write_text(text.getvalue(), encoding="utf-8", errors="surrogateescape")
        os.replace(unfinished, file)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        return False
    return True


def compared(known: dict[str, str], images: Sequence[str], file: Path) -> list[str]:
    """Lines for images that came or went since a split was made."""
    new = sorted(set(images) - set(known))
    gone = sorted(set(known) - set(images))
    return [f"{len(new)} images that {file} doesn't name are for training ({some(new, 1)})"] * bool(new) + [
        f"{len(gone)} images that {file} names are gone ({some(gone, 1)})"
    ] * bool(gone)
