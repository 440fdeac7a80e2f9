"""Compiled graphs that outlive the process: MindSpore's compile cache, made safe.

MindSpore looks a graph up by its place among those that a process compiles, and checks nothing but Python sources. So
each graph has a folder of its own here, named by everything it depends on; the cache is on only while that graph
compiles; and what lies in a folder counts only once it is complete. Parameters' values are no part of a graph: it takes
them from the network that is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Iterator, Optional, Sequence, Union

import mindspore as ms
from mindspore import Tensor, nn

from mindvit.engine.setup import step_options
from mindvit.errors import UserError
from mindvit.kernels import build
from mindvit.runtime import console, device, files
from mindvit.runtime.quiet import quiet
from mindvit.tasks.base import RunContext

SOURCES = Path(__file__).parents[1]  # all of the package: layers and models too
WHOLE = "whole.json"  # sizes and times of a folder's files, written when they are complete


def compile_step(step: nn.Cell, inputs: Sequence[Tensor], ctx: RunContext) -> bool:
    """Compile a training step; whether it came from the folder where the recipe wants graphs kept.

    UserError if a folder that the recipe names can't be written; without the one that auto takes, a line says so.
    """
    wanted, chosen = ctx.recipe.runtime.compile_cache, ctx.device
    root = device.graphs_folder(wanted)
    if root and not Path(sys.argv[0]).is_file():  # MindSpore reads that file to see whether it has changed
        console.log_once(
            "note: compiled graphs are not kept: this program is no file (compile_cache: none keeps this quiet)"
        )
        root = None
    folder = root and root / key(step, ctx, inputs) / str(chosen.rank)
    with contextlib.ExitStack() as stack:
        try:
            held = folder is not None and stack.enter_context(_held(folder))
            before = _taken(folder) if held and folder else {}
        except OSError as error:
            if wanted != "auto":
                raise UserError(
                    f"compile_cache is {wanted}, but that can't be written: {error.strerror} (give another folder, "
                    "or none)"
                ) from None
            console.log_once(
                f"note: compiled graphs are not kept: {root} can't be written: {error.strerror} (compile_cache: none "
                "keeps this quiet)"
            )
            held = False
        if not held or folder is None:
            step.compile(*inputs)
            return False
        level = chosen.running_level
        with caching(folder):
            step.compile(*inputs)
        # a graph that was compiled at a lower level is not the one that this folder is named for
        return level == chosen.running_level and _completed(folder, before)


def key(step: nn.Cell, ctx: RunContext, inputs: Sequence[Tensor] = ()) -> str:
    """A name for the graph of a training step: of all it is made of, and of what makes it."""
    parts = (
        [(item.shape, str(item.dtype)) for item in inputs],
        sorted(ctx.recipe.affecting_result().items()),
        ctx.recipe.runtime.recompute,
        ctx.info,
        ctx.num_classes,
        step_options(ctx),
        ctx.device.ranks,
        ctx.device.target,
        ctx.device.running_level,
        ctx.device.amp_level,
        str(ctx.device.half),
        device.machine(),
        device.chip(),
        device.has_kernels() and build.library(),
        sys.version,
        ms.__version__,
        _version("mindcv"),
        [(item.name, item.shape, str(item.dtype), item.requires_grad) for item in step.get_parameters()],
    )
    digest = hashlib.sha256(repr(parts).encode())
    for path in sorted(SOURCES.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _version(package: str) -> Optional[str]:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Keep other processes out of `folder`; False if one is in it, or if the file system has no locks to keep one out,
    which a line says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        held = files.try_lock(lock)
        if held is None:
            console.log_once(
                f"note: compiled graphs are not kept: the file system of {folder.parents[1]} has no locks "
                "(compile_cache: none, or a folder elsewhere)"
            )
        yield bool(held)


Files = dict[str, list[int]]


def _taken(folder: Path) -> Files:
    """The files of `folder` if they are complete; else it is emptied. Until somebody says so again they count as not
    complete.
    """
    whole, there = folder / WHOLE, _files(folder)
    if whole.exists():
        with contextlib.suppress(ValueError):  # it isn't even JSON
            noted = json.loads(whole.read_text(encoding="utf-8"))
            whole.unlink()
            if noted == {name: there.get(name) for name in noted}:
                return there
    shutil.rmtree(folder)
    folder.mkdir()
    return {}


@contextlib.contextmanager
def caching(folder: Union[Path, str, None]) -> Iterator[None]:
    """MindSpore's own cache, in `folder` or off, for what is compiled inside: safe where nothing else ever compiles
    into that.
    """
    place = {} if folder is None else {"compile_cache_path": str(folder)}
    with (
        quiet()
    ):  # MindSpore says of this context that the environment has it too, but there the first folder is every graph's
        ms.set_context(enable_compile_cache=folder is not None, **place)
    try:
        yield
    finally:
        with quiet():
            ms.set_context(enable_compile_cache=False)


def _completed(folder: Path, before: Files) -> bool:
    """Note that `folder`, where something has just been compiled, is complete; whether that came from the files
    `before`.
    """
    after = _files(folder)
    with contextlib.suppress(OSError):  # the disk is full: next time it is compiled again
        (folder / WHOLE).write_text(json.dumps(after), encoding="utf-8")
    return bool(before) and after == before  # MindSpore wrote nothing, so it read


def _files(folder: Path) -> Files:
    found = {
        str(path.relative_to(folder)): path.stat()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != WHOLE
    }
    return {name: [status.st_size, status.st_mtime_ns] for name, status in found.items()}
