"""Checkpoints: one file with everything, written whole or not at all, and found again by the run that resumes."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence

from mindspore import Parameter, Tensor

from mindvit.errors import UserError
from mindvit.runtime import files
from mindvit.weights.readers import Arrays, read_weights
from mindvit.weights.write import NotSaved, save, written

__all__ = ["CheckpointManager", "Found", "NotSaved", "newest", "of_file", "restore", "run_lock", "save"]

Found = tuple[Path, Arrays, dict[str, Any]]


@contextlib.contextmanager
def run_lock(folder: Path, complain: Callable[[str], None]) -> Iterator[None]:
    """Make the run's folder, keep other runs out for the time being, and clear away what a killed one left half-
    written.

    UserError if the folder can't be written or another run is in it; `complain` is told if the file system has no
    locks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise cannot_write(folder, error) from None
    with lock:
        held = files.try_lock(lock)  # the system lets go of it when the process ends, however it ends
        if held is False:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            raise UserError(
                f"ckpt_save_dir {folder} is in use by another run (process {owner}): wait for it, or choose another one"
            )
        if held is None:
            complain(
                f"WARNING: the file system of ckpt_save_dir {folder} has no locks: nothing keeps a second run out of it"
            )
        try:
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
        except OSError as error:
            raise cannot_write(folder, error) from None
        if held:
            files.clear(folder)
        yield


def cannot_write(folder: Path, error: OSError) -> UserError:
    """That a run's folder can't be written, before there is anything to lose."""
    return UserError(
        f"ckpt_save_dir {folder} can't be written: {error.strerror} (make room or rights there, or choose another one)"
    )


def newest(folder: Path, model: str, complain: Callable[[str], None]) -> Optional[Found]:
    """The checkpoint of `model` with the most steps in a run's folder; damaged ones are complained of and passed
    over.
    """
    found: list[Found] = []
    for path in folder.glob(f"{model}-*.ckpt"):
        try:
            arrays, meta = read_weights(path)
        except UserError as error:
            complain(f"passed over: {error}")
            continue
        if "step" in meta:
            found.append((path, arrays, meta))
    return max(
        found,
        key=lambda item: (item[2]["step"], item[2].get("score") is not None, not item[0].stem.endswith("-best")),
        default=None,
    )


def of_file(path: str) -> Found:
    """The checkpoint in a file. UserError if it is no checkpoint of a run."""
    arrays, meta = read_weights(path)
    if "step" not in meta:
        raise UserError(
            f"{path} holds weights, but not the state of a run: --resume takes what train.py saved (--ckpt_path FILE "
            "starts from weights)"
        )
    return Path(path), arrays, meta


def restore(parameters: Sequence[Parameter], found: Found) -> None:
    """Give a run its whole state back. UserError, with nothing changed, if the checkpoint lacks a part of it or has
    other shapes.
    """
    path, arrays, _ = found
    wrong = [
        item.name for item in parameters if item.name not in arrays or arrays[item.name].shape != tuple(item.shape)
    ]
    if wrong:
        raise UserError(
            f"{path} is the checkpoint of another run: {len(wrong)} tensors are missing or differ, {wrong[0]} first "
            f"(--resume none starts anew; --ckpt_path FILE takes weights alone)"
        )
    for item in parameters:
        item.set_data(Tensor(arrays[item.name], item.dtype))


class CheckpointManager:
    """Saves checkpoints as <model>-<epoch>.ckpt and keeps the newest `keep`; beside them <model>-best.ckpt, and
    <model>-within.ckpt for any other moment.
    """

    def __init__(self, folder: Path, model: str, keep: int):
        self.folder, self.model, self.keep = folder, model, keep
        self.saved: list[Path] = []

    def register_existing(self, epochs: int) -> None:
        """Look after the checkpoints that an earlier start of the run left, up to `epochs`."""
        numbered = [self.after(epoch) for epoch in range(1, epochs + 1)]
        self.saved = [path for path in numbered if path.exists()]

    def after(self, epoch: int) -> Path:
        """Where the checkpoint after `epoch` epochs goes."""
        return self.folder / f"{self.model}-{epoch}.ckpt"

    @property
    def mid_epoch(self) -> Path:
        """Where a checkpoint goes that isn't one of the epochs' own."""
        return self.folder / f"{self.model}-within.ckpt"

    def save_mid_epoch(self, parameters: Sequence[Parameter], meta: Mapping[str, Any]) -> Path:
        """Checkpoint in the middle of an epoch, or after one whose own is not due; the last such one is replaced."""
        return save(self.mid_epoch, parameters, meta)

    def save(self, epoch: int, parameters: Sequence[Parameter], meta: Mapping[str, Any]) -> Path:
        """Checkpoint after `epoch` epochs."""
        path = save(self.after(epoch), parameters, meta)
        self.mid_epoch.unlink(missing_ok=True)
        self.saved = [item for item in self.saved if item != path] + [path]
        while len(self.saved) > self.keep:
            self.saved.pop(0).unlink(missing_ok=True)
        return path

    def save_best(self, epoch: int, parameters: Sequence[Parameter], meta: Mapping[str, Any]) -> Path:
        """The best checkpoint so far, which is that after `epoch` epochs: where that one was saved it becomes the same
        file.
        """
        best, path = save(self.folder / f"{self.model}-best.ckpt", parameters, meta), self.after(epoch)
        if not path.exists():
            return best
        with written(path) as link:
            try:
                os.link(best, link)  # the same bytes under a second name, each of which outlives the other
            except OSError:  # a file system without hard links
                shutil.copyfile(best, link)
        return path
