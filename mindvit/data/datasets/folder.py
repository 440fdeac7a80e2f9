"""Images in class folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mindvit.data.datasets.base import FileDataset, refuse_unknown, some
from mindvit.data.decoding import EXTENSIONS
from mindvit.data.scan import Scan
from mindvit.errors import UserError


class FolderDataset(FileDataset):
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
                f"class folder {some(without)} of {folder} has no image ({' '.join(EXTENSIONS)}); add images or "
                "remove the folder" + (f" (passed over: {self.passed_over})" if self.passed_over else "")
            )
        super().__init__(paths, labels, tuple(numbers))


def _class_folders(folder: Path) -> Scan:
    scan = Scan(str(folder), classes=True)
    if not scan.images:
        entries = entries_of(folder)
        inside = f"only {some(entries)}" if entries else "nothing"
        raise UserError(
            f"{folder} has no class folder ({inside}); it needs one folder of images for each class"
            + (f" (passed over: {scan.passed_over})" if str(scan.passed_over) and entries else "")
        )
    return scan


def entries_of(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} can't be read ({error.strerror}); check its permissions") from None
