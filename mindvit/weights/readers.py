"""Files with weights -> names and NumPy arrays. The format is recognised by the content, not by the name."""

from __future__ import annotations

import contextlib
import dataclasses
import json
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

from mindvit.errors import UserError, nearest
from mindvit.runtime.quiet import quiet
from mindvit.weights import prefixes
from mindvit.weights.foreign import foreign_format
from mindvit.weights.pickles import (
    BFLOAT16,
    Budget,
    Inert,
    NumpyArray,
    TensorRef,
    described,
    widened,
)
from mindvit.weights.prefixes import LEAVE_OUT
from mindvit.weights.sets import EMA, MODEL, average_of, optimizer_values
from mindvit.weights.torch_files import LEGACY_HEAD, Pickled, TorchLegacy, TorchZip

STATE = "mindvit."  # prefix of everything in a checkpoint that is not a weight of the network
# JSON text: model, recipe, versions, epoch, accuracy; or model, origin, checksum, report of a converted file
META = f"{STATE}meta"
AVERAGE = f"{STATE}ema."  # prefix of the moving average of a weight in a checkpoint of ours
Arrays = dict[str, np.ndarray]
PICKLED = (TorchZip.form, TorchLegacy.form, Pickled.form)
DEEPEST = 3  # dictionaries within dictionaries in which weights are looked for
SAFETENSORS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
}
ACCEPTED = "accepted are MindSpore .ckpt, .safetensors, PyTorch .pth, Paddle .pdparams and .npz"


@dataclass
class WeightsFile:
    """What a file holds: weights by name, mindvit's metadata, its format; which set of weights was taken, the others,
    bfloat16 tensors, what is no tensor.

    optimizer: names of what training keeps beside the weights. where: how messages call it. is_by_name: whether they
    were asked for by a network's name, so that a head for other classes may give way to a new one.
    """

    arrays: Arrays
    meta: dict[str, Any]
    form: str
    taken: Optional[str] = None
    others: list[str] = field(default_factory=list)
    widened: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    optimizer: list[str] = field(default_factory=list)
    where: str = "the given weights"
    is_by_name: bool = False

    @property
    def is_average(self) -> bool:
        """Whether the weights that were taken are a moving average."""
        return self.taken is not None and prefixes.is_average(self.taken)


def read_weights(path: Union[str, os.PathLike]) -> tuple[Arrays, dict]:
    """All arrays of a file by name, an optimizer's and averages too, and mindvit's metadata.

    UserError if it holds no weights or is damaged.
    """
    source = _read(path, None)
    return source.arrays, source.meta


def read(path: Union[str, os.PathLike], take: Optional[str] = None) -> WeightsFile:
    """The weights in a file, told apart from what training keeps beside them.

    take: which set of weights: `model`, `ema` (their moving average), or a name in a training checkpoint of PyTorch's
    or Paddle's. None: the one that scored better in validation, where the file says so, else `model`. UserError if the
    file lacks the set.
    """
    return select(_read(path, take), take)


def _read(path: Union[str, os.PathLike], take: Optional[str]) -> WeightsFile:
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
    if not source.meta and source.form not in PICKLED:
        _peel(source, file, take)
    source.where = str(path)
    return source


def select(content: WeightsFile, take: Optional[str] = None) -> WeightsFile:
    """One set of weights of all that a file holds: see `read`. UserError if the file lacks the set."""
    if content.taken:  # out of a pickle, whose sets are kept apart
        return content
    own = {name[len(AVERAGE) :]: name for name in content.arrays if name.startswith(AVERAGE)}
    averages = own or average_of(content.arrays)
    apart = set(averages.values())
    rest = {name: value for name, value in content.arrays.items() if not name.startswith(STATE) and name not in apart}
    optimizer = set() if content.form in PICKLED else optimizer_values(rest)  # which has a dictionary of its own
    sets = {MODEL: {name: name for name in rest if name not in optimizer}}
    if averages:
        sets[EMA] = {**sets[MODEL], **averages} if own else averages  # what is frozen in training is its own average
    if not averages and prefixes.is_average(content.meta.get("taken") or ""):  # converted, the average alone
        sets = {EMA: sets[MODEL]}
    better = content.meta.get("best_weights")
    taken = take or (better if better in sets else next(iter(sets)))
    if taken not in sets:
        raise UserError(
            f"{content.where}: {_why_not(taken, sets, content)}", [LEAVE_OUT] if set(sets) <= {MODEL, EMA} else []
        )
    chosen, wide = sets[taken], set(content.widened)
    return dataclasses.replace(
        content,
        arrays={name: content.arrays[there] for name, there in chosen.items()},
        optimizer=sorted(optimizer),
        taken=taken if set(sets) != {MODEL} else None,
        others=[name for name in sets if name != taken],
        widened=[name for name, there in chosen.items() if there in wide],
    )


def _why_not(take: str, sets: Mapping[str, Any], content: WeightsFile) -> str:
    """Why a set of weights can't be taken."""
    if take == EMA:
        return "holds no moving average of the weights (a run keeps one with ema: True)"
    if take == MODEL:
        source = content.meta.get("source", "a checkpoint")
        return f"holds the moving average of the weights alone, which was taken from {source}"
    if set(sets) == {MODEL}:
        return f"has no {take!r} to take: it holds one set of weights"
    return f"has no {take!r} to take, but {', '.join(sets)}"


def _head(file: Path) -> bytes:
    if not file.is_file():
        there = sorted(other.name for other in file.parent.iterdir()) if file.parent.is_dir() else []
        hint = nearest(file.name, there) or (
            f" (in {file.parent}: {', '.join(there[:8]) or 'nothing'})" if file.parent.is_dir() else " (no such folder)"
        )
        raise UserError(f"no file with weights at {file}{hint}")
    try:
        with file.open("rb") as stream:
            head = stream.read(32)
    except OSError as error:
        raise UserError(f"{file}: can't be read: {error.strerror}") from None
    if not head:
        raise UserError(f"{file}: the file is empty")
    return head


def _safetensors(file: Path) -> WeightsFile:
    """Checked by the format's own library; bfloat16, which NumPy hasn't, becomes float32."""
    try:
        with safe_open(str(file), framework="np") as content:
            meta = _meta((content.metadata() or {}).get(META))
        found = deserialize(file.read_bytes())
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UserError(f"{file}: damaged safetensors file: {_first_line(error)}") from None
    unknown = sorted({item["dtype"] for _, item in found} - set(SAFETENSORS))
    if unknown:
        raise UserError(
            f"{file}: numbers of type {', '.join(unknown)}, which aren't read (accepted: {', '.join(SAFETENSORS)})"
        )
    arrays = {
        name: np.frombuffer(item["data"], SAFETENSORS[item["dtype"]]).reshape(item["shape"]) for name, item in found
    }
    wide = [name for name, item in found if item["dtype"] == "BF16"]
    arrays.update({name: widened(arrays[name]) for name in wide})
    return WeightsFile(arrays, meta, "safetensors", widened=wide)


def _zip(file: Path, take: Optional[str]) -> WeightsFile:
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
            return WeightsFile({name: content[name] for name in content.files}, {}, ".npz")
    except (
        OSError,
        ValueError,
        zipfile.BadZipFile,
        EOFError,
        NotImplementedError,
        RuntimeError,
        KeyError,
        MemoryError,
    ) as error:
        raise UserError(f"{file}: truncated or damaged archive (.npz or PyTorch): {_first_line(error)}") from None


def _peel(source: WeightsFile, file: Path, take: Optional[str]) -> None:
    """Take off what training tools added to the names of a flat file, and choose where there are several sets of
    weights.
    """
    found = prefixes.split(source.arrays)
    if any(item.is_known and not item.prefix for item in found) and len(found) > 1:
        return  # averages beside weights that have no prefix: see select

    def shapes(item: prefixes.WeightSet) -> dict[str, tuple[int, ...]]:
        return {name: source.arrays[there].shape for there, name in item.names.items()}

    chosen = found[0] if len(found) == 1 else prefixes.choose(found, shapes, file, take)
    source.taken, source.others = chosen.label or None, [item.label for item in found if item is not chosen]
    source.widened = [chosen.names[name] for name in source.widened if name in chosen.names]
    source.ignored += chosen.unused
    source.arrays = _renamed(source.arrays, chosen, file)


def _renamed(values: Mapping[str, Any], chosen: prefixes.WeightSet, file: Path) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, ours in chosen.names.items():
        if ours in result:
            raise UserError(
                f"{file}: two tensors would be called {ours} without the prefixes of training tools "
                f"(one of them is {name})"
            )
        result[ours] = values[name]
    return result


def _unpickled(content: Union[TorchZip, TorchLegacy, Pickled], file: Path, take: Optional[str]) -> WeightsFile:
    chosen, tree, others = _chosen(content.tree, file, take)
    source, budget = WeightsFile({}, {}, content.form, chosen.label or None, others), Budget(file)
    source.ignored = [str(name) for name, value in tree.items() if _tensor(value) is None or not isinstance(name, str)]
    source.ignored += chosen.unused
    for name, item in _renamed(tree, chosen, file).items():
        value: Any = _tensor(item)
        try:
            source.arrays[name] = value.array(content.fetch, budget) if isinstance(value, TensorRef) else value.value
        except (
            ValueError,
            KeyError,
            TypeError,
            OverflowError,
            MemoryError,
            zipfile.BadZipFile,
            EOFError,
            AttributeError,
        ) as error:
            raise UserError(
                f"{file}: truncated or damaged {content.form} file: {name[:80]}: {_first_line(error)}"
            ) from None
        if isinstance(value, TensorRef) and value.kind == BFLOAT16:
            source.widened.append(name)
    return source


def _tensor(value: Any) -> Union[TensorRef, NumpyArray, None]:
    if (
        isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)
    ):  # Paddle's (name in the graph, array)
        value = value[1]
    if isinstance(value, NumpyArray) and value.kind:  # of texts or objects
        return None
    return value if isinstance(value, (TensorRef, NumpyArray)) else None


def _chosen(tree: Any, file: Path, take: Optional[str]) -> tuple[prefixes.WeightSet, Mapping[Any, Any], list[str]]:
    """The weights in what a pickle holds, the dictionary they are in, and what other sets of weights are called."""
    if not isinstance(tree, dict) or (isinstance(tree, Inert) and not tree):
        raise UserError(f"{file}: holds no weights by name, but {described(tree)} (save model.state_dict())")
    trees = dict(_dictionaries(tree))
    found = [item for wrapper, content in trees.items() for item in prefixes.split(_names(content), wrapper)]
    # dictionaries deep inside are an optimiser's moments and the like, unless they have a network's names
    found = [item for item in found if item.is_known or "." not in item.wrapper]
    if not found:
        raise UserError(f"{file}: holds no weights by name")

    def shapes(item: prefixes.WeightSet) -> dict[str, tuple[int, ...]]:
        return {name: _shape(trees[item.wrapper][there]) for there, name in item.names.items()}

    chosen = prefixes.choose(found if take is not None else _preferred(found), shapes, file, take)
    return chosen, trees[chosen.wrapper], [item.label for item in found if item is not chosen and item.label]


def _preferred(found: list[prefixes.WeightSet]) -> list[prefixes.WeightSet]:
    """Those of known families, or else those that are called as weights are, or the only one in a dictionary of its
    own.

    And else the one that is in none.
    """
    known = [item for item in found if item.is_known]
    called = [item for item in found if item.wrapper in prefixes.WRAPPERS]
    wrapped = [item for item in found if item.wrapper]
    bare = [item for item in found if not item.wrapper]
    return known or called or (wrapped if len(wrapped) == 1 else bare or wrapped)


def _dictionaries(tree: Mapping[Any, Any]) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """A pickle's dictionaries with tensors under texts, by the keys that lead there; each once."""
    waiting: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), tree)]
    seen = {id(tree)}
    for path, item in waiting:
        if _names(item):
            yield ".".join(path), item
        dictionaries = [(key, value) for key, value in item.items() if isinstance(key, str) and isinstance(value, dict)]
        inside = [(key, value) for key, value in dictionaries if id(value) not in seen]
        if len(path) < DEEPEST:
            seen.update(id(value) for _, value in inside)
            waiting += [((*path, key), value) for key, value in inside]


def _names(tree: Mapping[Any, Any]) -> list[str]:
    return [name for name, value in tree.items() if isinstance(name, str) and _tensor(value) is not None]


def _shape(value: Any) -> tuple[int, ...]:
    value = _tensor(value)
    return value.shape if isinstance(value, TensorRef) else np.shape(getattr(value, "value", ()))


def _checkpoint(file: Path, head: bytes) -> WeightsFile:
    """MindSpore's own format; its reader takes no file whose name ends otherwise than in .ckpt, so that it gets one
    that does.
    """
    if what := foreign_format(head):
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
    return WeightsFile(arrays, _meta(meta), "MindSpore checkpoint", widened=wide)


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
