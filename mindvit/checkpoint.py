"""Checkpoints: one file with everything, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Mapping, Sequence

import mindspore as ms
from mindspore import Parameter

from mindvit.errors import UserError
from mindvit.weights.readers import META


def open_folder(folder: Path, resolved: str) -> None:
    """Make the run's folder and leave the resolved recipe there; UserError if that can't be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.yaml").write_text(resolved + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"ckpt_save_dir {folder} can't be written: {error.strerror} (choose another one)") from None


def save(path: Path, parameters: Sequence[Parameter], meta: Mapping[str, Any]) -> Path:
    """Write parameters and `meta` (JSON) to `path`, with a CRC; what stood there before stays until the new file is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.unfinished.ckpt")
    try:
        ms.save_checkpoint([{"name": item.name, "data": item} for item in parameters], str(unfinished), append_dict={META: json.dumps(meta)}, crc_check=True)
        os.chmod(unfinished, 0o644)  # the framework makes it read-only, which a user moving files stumbles over
        with unfinished.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


class Keeper:
    """Saves one checkpoint an epoch as <model>-<epoch>.ckpt, keeps the newest `keep`, and a copy of the best one."""

    def __init__(self, folder: Path, model: str, keep: int):
        self.folder, self.model, self.keep = folder, model, keep
        self.saved: list[Path] = []

    def save(self, epoch: int, parameters: Sequence[Parameter], meta: Mapping[str, Any], best: bool) -> Path:
        """Checkpoint after `epoch` epochs."""
        path = save(self.folder / f"{self.model}-{epoch}.ckpt", parameters, meta)
        if best:
            link = self.folder / f".{self.model}-best.unfinished.ckpt"
            link.unlink(missing_ok=True)
            try:
                os.link(path, link)  # the same bytes under a second name, which outlives the first
            except OSError:  # a file system without hard links
                shutil.copyfile(path, link)
            os.replace(link, self.folder / f"{self.model}-best.ckpt")
        self.saved = [item for item in self.saved if item != path] + [path]
        while len(self.saved) > self.keep:
            self.saved.pop(0).unlink(missing_ok=True)
        return path
