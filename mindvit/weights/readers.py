"""Files with weights -> names and NumPy arrays. The format is recognised by the content, not by the name."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import zipfile
from pathlib import Path
from typing import Iterator, Union

import mindspore as ms
import numpy as np
from safetensors import SafetensorError, safe_open

from mindvit.errors import UserError, nearest

STATE = "mindvit."  # prefix of everything in a checkpoint that is not a weight of the network
META = f"{STATE}meta"  # JSON text: model, recipe, versions, epoch, accuracy
Arrays = dict[str, np.ndarray]


def read_weights(path: Union[str, os.PathLike]) -> tuple[Arrays, dict]:
    """All arrays of a .ckpt, .safetensors or .npz file by name, and its metadata. UserError if it is none of them or damaged."""
    file = Path(path)
    if not file.is_file():
        there = sorted(other.name for other in file.parent.iterdir()) if file.parent.is_dir() else []
        hint = nearest(file.name, there) or (f" (in {file.parent}: {', '.join(there[:8]) or 'nothing'})" if file.parent.is_dir() else " (no such folder)")
        raise UserError(f"no file with weights at {file}{hint}")
    try:
        with file.open("rb") as stream:
            head = stream.read(16)
    except OSError as error:
        raise UserError(f"{file}: can't be read: {error.strerror}") from None
    if not head:
        raise UserError(f"{file}: the file is empty")
    if head[8:9] == b"{":
        return _safetensors(file)
    if head.startswith(b"PK"):
        return _npz(file)
    if head.startswith(b"\x80"):
        raise UserError(f"{file}: a Python pickle (PyTorch or Paddle); accepted are MindSpore .ckpt, .safetensors and .npz")
    return _checkpoint(file)


def _safetensors(file: Path) -> tuple[Arrays, dict]:
    try:
        with safe_open(str(file), framework="np") as content:
            return {name: content.get_tensor(name) for name in content.keys()}, _meta((content.metadata() or {}).get(META))  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UserError(f"{file}: damaged safetensors file: {error}") from None


def _npz(file: Path) -> tuple[Arrays, dict]:
    try:
        with np.load(file, allow_pickle=False) as content:
            if any(name.endswith("data.pkl") for name in content.files):
                raise UserError(f"{file}: a PyTorch file; accepted are MindSpore .ckpt, .safetensors and .npz")
            return {name: content[name] for name in content.files}, {}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{file}: damaged .npz file: {error}") from None


def _checkpoint(file: Path) -> tuple[Arrays, dict]:
    if file.suffix != ".ckpt":
        raise UserError(f"{file}: neither safetensors nor .npz (a MindSpore checkpoint must have a name in .ckpt: the framework reads no other)")
    try:
        with quiet():
            content = ms.load_checkpoint(str(file), crc_check=True)
    except (ValueError, RuntimeError, TypeError, OSError) as error:
        raise UserError(f"{file}: no checkpoint, truncated or damaged ({str(error).splitlines()[0]})") from None
    meta = content.pop(META, None)
    return {name: value.asnumpy() for name, value in content.items() if isinstance(value, ms.Tensor)}, _meta(meta)


def _meta(text: object) -> dict:
    return json.loads(text) if isinstance(text, str) else {}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep MindSpore's own log lines about an error away: the error says it once, in one line."""
    logger = logging.getLogger("MindSpore")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before
