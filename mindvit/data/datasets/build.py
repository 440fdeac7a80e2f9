"""The data set that a recipe names, and what is odd about it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mindvit.data import decoding
from mindvit.data.datasets.base import Dataset, LabelledDataset, refuse_unknown, some
from mindvit.data.datasets.digits import DigitsDataset
from mindvit.data.datasets.folder import FolderDataset, entries_of
from mindvit.data.datasets.list_file import ListDataset
from mindvit.data.datasets.split_folder import VAL_SHARE, SplitFolder
from mindvit.data.decoding import EXTENSIONS
from mindvit.data.scan import SPLIT, Scan
from mindvit.errors import UserError
from mindvit.recipe.options import DataOptions
from mindvit.runtime.files import on_one_line


def open_dataset(data: DataOptions, split: str, class_names: Sequence[str] | None = None) -> LabelledDataset:
    """The images of `split` ('train' or 'val'), none larger than data.max_pixels: see `_open`."""
    decoding.allow(data.max_pixels)
    dataset = _open(data, split, class_names)
    dataset.max_pixels = data.max_pixels
    return dataset


def _open(data: DataOptions, split: str, class_names: Sequence[str] | None) -> LabelledDataset:
    """The images of `split` ('train' or 'val'); for val pass train's `class_names`, so that both number the classes
    alike.

    UserError for a folder or list file that is missing, empty, unreadable or inconsistent.
    """
    if data.dataset == "digits":
        return DigitsDataset(split)
    if data.dataset != "imagenet":
        raise UserError(
            f"dataset {data.dataset} has no class for each image, which a classifier needs: give dataset: imagenet or "
            "digits, or a segmentor as model (mindvit.list_models(task='segmentation'))"
        )
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
        from mindvit.data.datasets.mindrecord import MindRecordDataset

        return MindRecordDataset(root, name, class_names)
    if list_file.is_file():
        return ListDataset(list_file, class_names)
    unsplit = not any((root / part).is_dir() for part in (train, val))
    if unsplit and (data.val_share is not None or (root / SPLIT).is_file()):
        return SplitFolder(root, split, class_names, data.val_share or VAL_SHARE, data.split_seed)
    if not folder.is_dir():
        entries = entries_of(root)
        if f"{name}_0000.mindrecord" in entries:
            raise UserError(
                f"data_dir {root} holds {name}_0000.mindrecord without {name}.mindrecord.json: it was not "
                "finished; run "
                f"mindvit prepare again with the same arguments"
            )
        raise UserError(
            f"data_dir {root} has neither {name}/ nor {name}_list.txt; it has "
            f"{some(entries, 8) if entries else 'nothing'}: give {accepted}, "
            f"or name the split with {split}_split" + ", or let it be split: --val_share 0.2" * unsplit
        )
    return FolderDataset(folder, class_names)


def check_same_classes(train: LabelledDataset, val: LabelledDataset) -> None:
    """UserError unless both splits number the same classes; a class without validation images is fine."""
    refuse_unknown(val.class_names, train.class_names, "the validation split")
    if val.class_names != train.class_names:
        missing = [name for name in train.class_names if name not in set(val.class_names)]
        raise UserError(
            f"the validation split lacks class {some(missing)} and numbers the others differently; open it with the "
            "training split's class_names"
        )


def empty_classes(train: LabelledDataset) -> list[str]:
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
    names = "" if numbered else f" ({some([train.class_names[number] for number in missing])})"
    which = f"class {runs[0]}{names} has" if len(missing) == 1 else f"classes {some(runs, 5)}{names} have"
    return [
        f"of {len(train.class_names)} classes, {which} no image to train on"
        + ("; labels are counted from 0" if numbered else "")
    ]


def remarks(train: LabelledDataset) -> list[str]:
    """Lines for what is no error and yet may be a mistake in a training split."""
    return [*empty_classes(train), *train.remarks]


def passed_over(*splits: tuple[str, Dataset]) -> str:
    """What lies in folders and is no image of a class, as the end of a line; an empty text where there is nothing."""
    return "".join(f"; passed over in {name}: {dataset.passed_over}" for name, dataset in splits if dataset.passed_over)


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
