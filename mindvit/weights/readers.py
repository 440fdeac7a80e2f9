"""Files with weights -> names and NumPy arrays. The format is recognised by the content, not by the name."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, Mapping, Optional, Union

import mindspore as ms
import numpy as np
from safetensors import SafetensorError, deserialize, safe_open

from mindvit.errors import Hint, UserError, nearest
from mindvit.weights.pickles import BFLOAT16, LEGACY_HEAD, Budget, NumpyArray, Pickled, TensorRef, TorchLegacy, TorchZip, widened

STATE = "mindvit."  # prefix of everything in a checkpoint that is not a weight of the network
META = f"{STATE}meta"  # JSON text: model, recipe, versions, epoch, accuracy; or model, origin, checksum, report of a converted file
Arrays = dict[str, np.ndarray]
# where training scripts put the weights, the preferred ones first
WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "network", "model_ema", "state_dict_ema", "ema")
PREFIXES = ("module.", "_orig_mod.")  # of PyTorch's DataParallel and compiler, before every name
SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?",
               "U16": "<u2", "U32": "<u4", "U64": "<u8"}
ELSE = ((b"\x89HDF", "HDF5 (Keras)"), (b"GGUF", "GGUF"), (b"version https://git-lfs", "a pointer of Git LFS, not the file itself (git lfs pull)"),
        (b"<!DOCTYPE", "a web page (did the download need a login?)"), (b"<html", "a web page (did the download need a login?)"),
        (b"\x1f\x8b", "a gzip archive: unpack it"), (b"\x08\x00\x00\x00TFL3", "TensorFlow Lite"))
ACCEPTED = "accepted are MindSpore .ckpt, .safetensors, PyTorch .pth, Paddle .pdparams and .npz"


LEAVE_OUT = Hint("--take", "leave --take out", "leave take out")


@dataclass
class Source:
    """What a file holds: weights by name, mindvit's metadata, its format; which set of weights was taken, the others, bfloat16 tensors, what is no tensor.

    where: how messages call it.
    """

    arrays: Arrays
    meta: dict[str, Any]
    form: str
    taken: Optional[str] = None
    others: list[str] = field(default_factory=list)
    widened: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    where: str = "the given weights"


def read_weights(path: Union[str, os.PathLike]) -> tuple[Arrays, dict]:
    """All arrays of a file by name, and mindvit's metadata. UserError if it holds no weights or is damaged."""
    source = read(path)
    return source.arrays, source.meta


def read(path: Union[str, os.PathLike], take: Optional[str] = None) -> Source:
    """What a file holds; `take` chooses one of the sets of weights in a training checkpoint of PyTorch's or Paddle's."""
    file = Path(path)
    head = _head(file)
    if head[8:9] == b"{":
        source = _safetensors(file)
    elif head.startswith(b"PK"):
        source = _zip(file, take)
    elif head.startswith(LEGACY_HEAD):
        source = _unpickled(TorchLegacy(file, Budget(file)), file, take)
    elif head.startswith(b"\x80"):
        source = _unpickled(Pickled(file, Budget(file)), file, take)
    else:
        source = _checkpoint(file, head)
    for prefix in PREFIXES:
        if source.arrays and all(name.startswith(prefix) for name in source.arrays):
            source.arrays = {name[len(prefix):]: value for name, value in source.arrays.items()}
            source.widened = [name[len(prefix):] for name in source.widened]
    if take != source.taken and take is not None:
        raise UserError(f"{file}: has no {take!r} to take: {source.form} holds one set of weights", [LEAVE_OUT])
    source.where = str(path)
    return source


def _head(file: Path) -> bytes:
    if not file.is_file():
        there = sorted(other.name for other in file.parent.iterdir()) if file.parent.is_dir() else []
        hint = nearest(file.name, there) or (f" (in {file.parent}: {', '.join(there[:8]) or 'nothing'})" if file.parent.is_dir() else " (no such folder)")
        raise UserError(f"no file with weights at {file}{hint}")
    try:
        with file.open("rb") as stream:
            head = stream.read(32)
    except OSError as error:
        raise UserError(f"{file}: can't be read: {error.strerror}") from None
    if not head:
        raise UserError(f"{file}: the file is empty")
    return head


def _safetensors(file: Path) -> Source:
    """Checked by the format's own library; bfloat16, which NumPy hasn't, becomes float32."""
    try:
        with safe_open(str(file), framework="np") as content:
            meta = _meta((content.metadata() or {}).get(META))
        found = deserialize(file.read_bytes())
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UserError(f"{file}: damaged safetensors file: {_first_line(error)}") from None
    unknown = sorted({item["dtype"] for _, item in found} - set(SAFETENSORS))
    if unknown:
        raise UserError(f"{file}: numbers of type {', '.join(unknown)}, which aren't read (accepted: {', '.join(SAFETENSORS)})")
    arrays = {name: np.frombuffer(item["data"], SAFETENSORS[item["dtype"]]).reshape(item["shape"]) for name, item in found}
    wide = [name for name, item in found if item["dtype"] == "BF16"]
    arrays.update({name: widened(arrays[name]) for name in wide})
    return Source(arrays, meta, "safetensors", widened=wide)


def _zip(file: Path, take: Optional[str]) -> Source:
    budget = Budget(file)
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if len(set(names)) < len(names):
                raise UserError(f"{file}: damaged archive (an entry is there twice)")
            budget.take(sum(entry.file_size for entry in archive.infolist()))
            if any(name.endswith("data.pkl") for name in names):
                return _unpickled(TorchZip(file, archive, budget), file, take)
        with np.load(file, allow_pickle=False) as content:
            return Source({name: content[name] for name in content.files}, {}, ".npz")
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, KeyError, MemoryError) as error:
        raise UserError(f"{file}: truncated or damaged archive (.npz or PyTorch): {_first_line(error)}") from None


def _unpickled(content: Union[TorchZip, TorchLegacy, Pickled], file: Path, take: Optional[str]) -> Source:
    chosen, taken, others = _chosen(content.tree, file, take)
    source, budget = Source({}, {}, content.form, taken, others), Budget(file)
    for name, value in chosen.items():
        value = _tensor(value)
        if value is None or not isinstance(name, str):
            source.ignored.append(str(name))
            continue
        try:
            source.arrays[name] = value.array(content.fetch, budget) if isinstance(value, TensorRef) else value.value
        except (ValueError, KeyError, TypeError, OverflowError, MemoryError, zipfile.BadZipFile, EOFError, AttributeError) as error:
            raise UserError(f"{file}: truncated or damaged {content.form} file: {name[:80]}: {_first_line(error)}") from None
        if isinstance(value, TensorRef) and value.kind == BFLOAT16:
            source.widened.append(name)
    return source


def _tensor(value: Any) -> Union[TensorRef, NumpyArray, None]:
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):  # Paddle's (name in the graph, array)
        value = value[1]
    return value if isinstance(value, (TensorRef, NumpyArray)) else None


def _chosen(tree: Any, file: Path, take: Optional[str]) -> tuple[Mapping[Any, Any], Optional[str], list[str]]:
    """The weights in what a pickle holds, the name that they are wrapped in, and those of other sets of weights."""
    if not isinstance(tree, dict):
        raise UserError(f"{file}: holds no weights by name, but a {type(tree).__name__.strip('_')} (save model.state_dict())")
    wrapped = [key for key, value in tree.items() if isinstance(key, str) and isinstance(value, dict) and any(map(_tensor, value.values()))]
    if take is not None and take not in wrapped:
        there = f", but {', '.join(wrapped)}" if wrapped else "; its weights aren't wrapped"
        raise UserError(f"{file}: has no {take!r} to take{there}", [] if wrapped else [LEAVE_OUT])
    known = [key for key in WRAPPERS if key in wrapped]
    name = take or next(iter([*known, *wrapped]), None)
    if name and (take or known or len(wrapped) == 1):
        return tree[name], name, [key for key in wrapped if key != name]
    if any(map(_tensor, tree.values())):
        return tree, None, []
    if not wrapped:
        raise UserError(f"{file}: holds no weights by name")
    choices = [
        Hint(
            "--take", f"say which, --take {' or '.join(wrapped)}", f"say which, take={' or '.join(map(repr, wrapped))}"
        )
    ]
    raise UserError(f"{file}: holds several sets of weights, {', '.join(wrapped)}", choices)


def _checkpoint(file: Path, head: bytes) -> Source:
    """MindSpore's own format; its reader takes no file whose name ends otherwise than in .ckpt, so that it gets one that does."""
    what = next((name for magic, name in ELSE if head.lstrip().startswith(magic)), "")
    if what:
        raise UserError(f"{file}: {what}; {ACCEPTED}")
    try:
        with quiet(), _as_ckpt(file) as path:
            content = ms.load_checkpoint(str(path), crc_check=True)
    except (ValueError, RuntimeError, TypeError, OSError) as error:
        raise UserError(f"{file}: no checkpoint, truncated or damaged ({_first_line(error)}); {ACCEPTED}") from None
    meta = content.pop(META, None)
    arrays, wide = {}, []
    for name, value in content.items():
        if not isinstance(value, ms.Tensor):
            continue
        if value.dtype == ms.bfloat16:
            wide.append(name)
            value = value.astype(ms.float32)
        arrays[name] = value.asnumpy()
    return Source(arrays, _meta(meta), "MindSpore checkpoint", widened=wide)


@contextlib.contextmanager
def _as_ckpt(file: Path) -> Iterator[Path]:
    """The file under a name that ends in .ckpt: its own, a link to it, or a copy where links can't be made."""
    if file.suffix == ".ckpt":
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="mindvit-") as folder:
        path = Path(folder) / "weights.ckpt"
        try:
            path.symlink_to(file.resolve())
        except OSError:
            shutil.copyfile(file, path)
        yield path


def _meta(text: object) -> dict:
    return json.loads(text) if isinstance(text, str) else {}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


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
