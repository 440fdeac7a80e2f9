"""PyTorch's and Paddle's files without PyTorch and Paddle: a reader of pickles that makes arrays and plain values, and runs nothing.

A pickle is a program: it names functions and calls them. Here every name is looked up in one table of stand-ins, all of them
below; any other name is refused. The interpreter is the standard library's in Python, whose memory grows with the file alone
(the one in C can be told by four bytes to allocate gigabytes).
"""

from __future__ import annotations

import io
import math
import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Callable, Mapping, Optional

import numpy as np

from mindvit.errors import UserError

# magic number, protocol version and system of PyTorch's files before 1.6, and how the first of them looks in the file
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
LEGACY_HEAD = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
BFLOAT16 = "bfloat16"
STORAGES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "BFloat16Storage": BFLOAT16, "LongStorage": "<i8", "IntStorage": "<i4",
            "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?"}
EXPANSION = 100  # a file's contents may be this many times as large as the file
SLACK = 1 << 24  # bytes


class Budget:
    """How many bytes a file may still become: a small one that swells to gigabytes is a bomb."""

    def __init__(self, file: Path):
        self.file = file
        self.left = EXPANSION * file.stat().st_size + SLACK

    def take(self, count: int) -> None:
        """UserError if the file has become too large."""
        self.left -= count
        if count < 0 or self.left < 0:
            raise UserError(f"{self.file}: its contents claim more than {EXPANSION} times the file's size (a zip bomb, or damaged): not read")


@dataclass(frozen=True)
class Storage:
    """A run of `count` numbers in the file, found by `key`; its first one is number `first` of them."""

    kind: str
    key: str
    count: int
    first: int = 0


@dataclass(frozen=True)
class TensorRef:
    """A tensor as a pickle describes it: a view of a storage that hasn't been read yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def kind(self) -> str:
        """Its number type."""
        return self.storage.kind

    def array(self, fetch: Callable[[Storage], np.ndarray], budget: Budget) -> np.ndarray:
        """Its values; `fetch` reads a storage. bfloat16, which NumPy hasn't, becomes float32. ValueError if it leaves its storage."""
        numbers = (self.offset, *self.shape, *self.strides)
        if len(self.shape) != len(self.strides) or len(self.shape) > 16 or any(not isinstance(number, int) or number < 0 for number in numbers):
            raise ValueError("a tensor with an impossible shape")
        flat, start = fetch(self.storage), self.storage.first + self.offset
        last = start + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides))
        count = math.prod(self.shape)
        if count and last >= len(flat):
            raise ValueError(f"a tensor of shape {self.shape} leaves its storage of {len(flat)} numbers")
        budget.take(count * flat.itemsize)
        if not count:
            view = np.zeros(self.shape, flat.dtype)
        else:
            view = np.lib.stride_tricks.as_strided(flat[start:], self.shape, [stride * flat.itemsize for stride in self.strides])
        return widened(view) if self.kind == BFLOAT16 else np.array(view)


def widened(raw: np.ndarray) -> np.ndarray:
    """bfloat16 as uint16 -> float32: the same numbers."""
    return np.asarray((raw.astype("<u4") << 16).view("<f4").astype(np.float32))


class _Dict(dict):
    """Stands for dictionaries with attributes, which are left out."""

    def __setstate__(self, state: Any) -> None:
        """The attributes."""


class _Inert:
    """Stands for values that no weight depends on (settings of the training run, mostly): it holds nothing."""

    def __init__(self, *arguments: Any):
        """What it was made of is let go."""

    def __setstate__(self, state: Any) -> None:
        """As is what it held."""


class _DType:
    """A NumPy number type."""

    def __init__(self, code: Any, *flags: Any):
        if not isinstance(code, str) or not re.fullmatch(r"[?]|b1|[iuf][1248]", code):
            raise UserError(f"arrays of NumPy's type {code!r}, which no weights are")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1] if state[1] in "<>" else "=")


class NumpyArray:
    """A NumPy array; `value` is there once its state is."""

    value: np.ndarray

    def __init__(self, *arguments: Any):
        """Empty; its state brings the value."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, is_fortran, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # Python 2's
        self.value = np.frombuffer(raw, kind.dtype).reshape(shape, order="F" if is_fortran else "C")


def _numpy_from_buffer(raw: Any, kind: Any, shape: Any, order: Any) -> NumpyArray:
    array = NumpyArray()
    array.__setstate__((1, shape, kind, order == "F", bytes(raw)))
    return array


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *others: Any) -> TensorRef:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    return TensorRef(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor: Any, *others: Any) -> Any:
    return tensor


def _encode(text: Any, *others: Any) -> bytes:
    return str(text).encode("latin1")


# all that a pickle may name, and what stands for it
STANDS_FOR: dict[str, Any] = {
    "collections.OrderedDict": _Dict, "yacs.config.CfgNode": _Dict, "argparse.Namespace": _Inert, "torch.device": _Inert, "torch.Size": tuple,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor, "torch._utils._rebuild_parameter": _rebuild_parameter, "_codecs.encode": _encode,
    "builtins.tuple": tuple, "__builtin__.tuple": tuple, "builtins.set": _Inert, "__builtin__.set": _Inert,
    "numpy.dtype": _DType, "numpy.ndarray": NumpyArray,
    **{f"numpy.{core}.multiarray.{name}": maker for core in ("core", "_core") for name, maker in (("_reconstruct", NumpyArray), ("scalar", _Inert))},
    **{f"numpy.{core}.numeric._frombuffer": _numpy_from_buffer for core in ("core", "_core")},
    **{f"torch.{name}": _Inert for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32")},
}


_PythonUnpickler: Any = vars(pickle)["_Unpickler"]


class _Reader(_PythonUnpickler):
    """Looks names up in the table; storages are told apart by what `persistent_load` is given."""

    dispatch = dict(_PythonUnpickler.dispatch)

    def load_build(self) -> None:
        """Give the stand-ins that take a state theirs; nothing else has attributes that a pickle may set."""
        if not hasattr(type(self.stack[-2]), "__setstate__"):
            raise ValueError("a state for a value that has none")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if f"{module}.{name}" not in STANDS_FOR:
            raise UserError(f"it is a pickle that asks for {module}.{name}, which no weights need: refused, and nothing was run")
        return STANDS_FOR[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> Storage:
        what, kind, key, _, count, *view = pid
        if what != "storage" or kind not in STORAGES.values() or not isinstance(count, int) or not isinstance(key, str):
            raise ValueError(f"an unknown kind of reference, {str(what)[:40]!r}")
        if view and view[0] is not None:
            return Storage(kind, key, count, int(view[0][1]))
        return Storage(kind, key, count)


def unpickle(stream: BinaryIO, file: Path) -> Any:
    """The next pickle in `stream`. UserError if it wants more than values and arrays, or is damaged."""
    try:
        return _Reader(stream, encoding="latin1").load()
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    except Exception as error:  # a damaged file can make the interpreter raise anything
        raise UserError(f"{file}: truncated or damaged pickle ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


class TorchZip:
    """What torch.save has written since 1.6: a zip archive with a pickle and a file for each storage."""

    form = "PyTorch"

    def __init__(self, file: Path, archive: zipfile.ZipFile, budget: Budget):
        self.file, self.archive, self.budget = file, archive, budget
        self.found: dict[str, np.ndarray] = {}
        self.folder = next(name[:-len("data.pkl")] for name in archive.namelist() if name.endswith("data.pkl"))
        order = self.folder + "byteorder"
        if order in archive.namelist() and archive.read(order).strip() != b"little":
            raise UserError(f"{file}: its numbers are stored with the high byte first (written on a big-endian machine): save it anew on another one")
        self.tree = unpickle(io.BytesIO(archive.read(self.folder + "data.pkl")), file)

    def fetch(self, storage: Storage) -> np.ndarray:
        """A storage's numbers."""
        if storage.key not in self.found:
            raw = self.archive.read(f"{self.folder}data/{storage.key}")
            self.found[storage.key] = np.frombuffer(raw, _raw_type(storage.kind), storage.count)
        return self.found[storage.key]


class TorchLegacy:
    """What torch.save wrote before 1.6: five pickles, then the storages."""

    form = "PyTorch (legacy format)"

    def __init__(self, file: Path, budget: Budget):
        with file.open("rb") as stream:
            magic, protocol, system, self.tree, keys = (unpickle(stream, file) for _ in range(5))
            if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL or not isinstance(system, dict) or not isinstance(keys, list):
                raise UserError(f"{file}: damaged PyTorch file (its header is none)")
            if not system.get("little_endian", True):
                raise UserError(f"{file}: written on a big-endian machine: save it anew on another one")
            wanted = {storage.key: storage for storage in _storages(self.tree)}
            self.found = {str(key): _legacy_storage(stream, wanted.get(str(key)), file) for key in keys}

    def fetch(self, storage: Storage) -> np.ndarray:
        """A storage's numbers."""
        return self.found[storage.key]


def _legacy_storage(stream: BinaryIO, storage: Optional[Storage], file: Path) -> np.ndarray:
    kind = _raw_type(storage.kind if storage else "<f4")
    count = int.from_bytes(stream.read(8), "little", signed=True)
    if storage is None or not 0 <= count * kind.itemsize <= file.stat().st_size - stream.tell():
        raise UserError(f"{file}: truncated or damaged PyTorch file (a storage of {count} numbers isn't there)")
    return np.frombuffer(stream.read(count * kind.itemsize), kind)


class Pickled:
    """A plain pickle of names and arrays, as Paddle writes it."""

    form = "Paddle"

    def __init__(self, file: Path, budget: Budget):
        with file.open("rb") as stream:
            self.tree = unpickle(stream, file)

    def fetch(self, storage: Storage) -> np.ndarray:
        """There are none."""
        raise ValueError("a storage outside PyTorch's formats")


def _raw_type(kind: str) -> np.dtype:
    return np.dtype("<u2" if kind == BFLOAT16 else kind)


def _storages(tree: Any) -> list[Storage]:
    """Storages of all tensors in nested dictionaries and lists, each container once."""
    found, waiting, seen = [], [tree], set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, TensorRef):
            found.append(item.storage)
        elif isinstance(item, (Mapping, list, tuple)) and id(item) not in seen:
            seen.add(id(item))
            waiting.extend(item.values() if isinstance(item, Mapping) else item)
    return found
