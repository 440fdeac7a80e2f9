"""PyTorch's and Paddle's files without PyTorch and Paddle: a reader of pickles that makes arrays and plain values, and
runs nothing.

A pickle is a program: it names functions and calls them. Here nothing is ever imported: the names of tensor
constructors are looked up in one table of stand-ins, all of them below, and any other name stands for an object that
does nothing (settings, paths, counters, whatever a training script leaves beside the weights). So nothing can be run,
whatever a file asks for. Names that no honest file of weights has (`os.system`, `builtins.eval`) would do no harm
either; they are refused so that whoever was given such a file learns of it. The interpreter is the standard library's
in Python, whose memory grows with the file alone (the one in C can be told by four bytes to allocate gigabytes).
"""

from __future__ import annotations

import math
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Callable

import numpy as np

from mindvit.errors import UserError
from mindvit.weights.pickle_rules import BUILTINS, HARMLESS, REFUSED, REFUSED_NAMES

BFLOAT16 = "bfloat16"
STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": BFLOAT16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
MOST_NAMES = 1000  # of which a message could tell one
# bytes a number of the types that no weights have; others have one
OTHER_STORAGES = {
    "torch.ComplexFloatStorage": 8,
    "torch.ComplexDoubleStorage": 16,
    "torch.ComplexHalfStorage": 4,
    "torch.QInt32Storage": 4,
}
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
            raise UserError(
                f"{self.file}: its contents claim more than {EXPANSION} times the file's size (a zip bomb, or "
                "damaged): not read"
            )


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
        """Its values; `fetch` reads a storage. bfloat16, which NumPy hasn't, becomes float32. ValueError if it leaves
        its storage.
        """
        numbers = (self.offset, *self.shape, *self.strides)
        if (
            len(self.shape) != len(self.strides)
            or len(self.shape) > 16
            or any(not isinstance(number, int) or number < 0 for number in numbers)
        ):
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
            view = np.lib.stride_tricks.as_strided(
                flat[start:], self.shape, [stride * flat.itemsize for stride in self.strides]
            )
        return widened(view) if self.kind == BFLOAT16 else np.array(view)


def widened(raw: np.ndarray) -> np.ndarray:
    """bfloat16 as uint16 -> float32: the same numbers."""
    return np.asarray((raw.astype("<u4") << 16).view("<f4").astype(np.float32))


class _Dict(dict):
    """Stands for dictionaries with attributes, which are left out."""

    def __setstate__(self, state: Any) -> None:
        """The attributes."""


class Inert(dict):
    """Stands for a value that no weight depends on, and for the class or function that makes it: it does nothing with
    what it is given.

    Items are kept, as of a dictionary, since training scripts have dictionaries of their own classes around the
    weights. It is itself when compared, and so it can be a key.
    """

    asked = ""  # the name it stands for

    def __init__(self, *arguments: Any, **named: Any):
        """What it was made of is let go."""
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """As are its attributes, and the items of lists and sets."""

    append = extend = add = update = __setstate__  # type: ignore[assignment]
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other


class _DType:
    """A NumPy number type, or one that no weights have: `dtype` is None then."""

    def __init__(self, code: Any, *flags: Any):
        self.code = str(code)[:20]
        self.dtype = np.dtype(code) if isinstance(code, str) and re.fullmatch(r"[?]|b1|[iuf][1248]", code) else None

    def __setstate__(self, state: Any) -> None:
        if self.dtype is not None:
            self.dtype = self.dtype.newbyteorder(state[1] if state[1] in "<>" else "=")


class NumpyArray:
    """A NumPy array; `value` is there once its state is, unless it is of texts, dates or objects: `kind` says what."""

    value: np.ndarray
    kind = ""

    def __init__(self, *arguments: Any):
        """Empty; its state brings the value."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, is_fortran, raw = state
        if kind.dtype is None:
            self.kind = kind.code
            return
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # Python 2's
        self.value = np.frombuffer(raw, kind.dtype).reshape(shape, order="F" if is_fortran else "C")


def _numpy_from_buffer(raw: Any, kind: Any, shape: Any, order: Any) -> NumpyArray:
    array = NumpyArray()
    array.__setstate__((1, shape, kind, order == "F", bytes(raw)))
    return array


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *others: Any) -> Any:
    if isinstance(storage, Inert):
        return storage
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    return TensorRef(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor: Any, *others: Any) -> Any:
    return tensor


def _rebuild_from_type(maker: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor of a class of its own, or with attributes: as the tensor that it is."""
    return maker(*arguments) if maker in (_rebuild_tensor, _rebuild_parameter, _rebuild_from_numpy) else Inert()


def _rebuild_from_numpy(array: Any, *others: Any) -> Any:
    """A tensor of a device that PyTorch saves as a NumPy array (TPUs)."""
    return array


def _new(kind: Any, *others: Any) -> Any:
    """copyreg's: an object of a class, without its state."""
    return kind() if isinstance(kind, type) and issubclass(kind, Inert) else Inert()


def _encode(text: Any, *others: Any) -> bytes:
    return str(text).encode("latin1")


# all that means something in a file of weights, and what stands for it
STANDS_FOR: dict[str, Any] = {
    "collections.OrderedDict": _Dict,
    "yacs.config.CfgNode": _Dict,
    "argparse.Namespace": Inert,
    "torch.device": Inert,
    "torch.Size": tuple,
    **{
        f"torch._utils.{name}": maker
        for name, maker in (
            ("_rebuild_tensor", _rebuild_tensor),
            ("_rebuild_tensor_v2", _rebuild_tensor),
            ("_rebuild_parameter", _rebuild_parameter),
            ("_rebuild_parameter_with_state", _rebuild_parameter),
            ("_rebuild_device_tensor_from_numpy", _rebuild_from_numpy),
            ("_rebuild_device_tensor_from_cpu_tensor", _rebuild_parameter),
        )
    },
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "_codecs.encode": _encode,
    "copyreg._reconstructor": _new,
    "copy_reg._reconstructor": _new,
    **{
        f"{module}.{name}": maker
        for module in ("builtins", "__builtin__")
        for name, maker in (("tuple", tuple), *((name, Inert) for name in BUILTINS))
    },
    **dict.fromkeys(HARMLESS, Inert),
    "numpy.dtype": _DType,
    "numpy.ndarray": NumpyArray,
    **{
        f"numpy.{core}.multiarray.{name}": maker
        for core in ("core", "_core")
        for name, maker in (("_reconstruct", NumpyArray), ("scalar", Inert))
    },
    **{f"numpy.{core}.numeric._frombuffer": _numpy_from_buffer for core in ("core", "_core")},
}


_PythonUnpickler: Any = vars(pickle)["_Unpickler"]


class _Reader(_PythonUnpickler):
    """Looks names up in the table; storages are told apart by what `persistent_load` is given."""

    dispatch = dict(_PythonUnpickler.dispatch)

    def __init__(self, stream: BinaryIO):
        super().__init__(stream, encoding="latin1")
        self.stand_ins: dict[str, type[Inert]] = {}  # by the name they stand for
        self.storages: dict[str, Storage] = {}  # all that the pickle refers to, by key

    def load_build(self) -> None:
        """Give the stand-ins that take a state theirs; nothing else has attributes that a pickle may set."""
        if not hasattr(type(self.stack[-2]), "__setstate__"):
            raise ValueError("a state for a value that has none")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        asked = f"{module}.{name}"
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if asked in STANDS_FOR:
            return STANDS_FOR[asked]
        if module.split(".")[0] in REFUSED or asked in REFUSED_NAMES or _is_attribute(module, name):
            raise UserError(
                f"it is a pickle that asks for {asked}, which no weights need: refused, and nothing was run"
            )
        if asked not in self.stand_ins and len(self.stand_ins) < MOST_NAMES:
            self.stand_ins[asked] = type("Inert", (Inert,), {"asked": asked})
        return self.stand_ins.get(asked, Inert)

    def persistent_load(self, pid: Any) -> Any:
        what, kind, key, _, count, *view = pid
        if what == "storage" and isinstance(kind, type) and issubclass(kind, Inert) and isinstance(count, int):
            self.storages[str(key)] = Storage(f"V{OTHER_STORAGES.get(kind.asked, 1)}", str(key), count)
            return kind()  # of numbers that no weights are (complex, quantised): so is the tensor
        if what != "storage" or kind not in STORAGES.values() or not isinstance(count, int) or not isinstance(key, str):
            raise ValueError(f"an unknown kind of reference, {str(what)[:40]!r}")
        self.storages[key] = Storage(kind, key, count)
        if view and view[0] is not None:
            return Storage(kind, key, count, int(view[0][1]))
        return self.storages[key]


def _is_attribute(module: str, name: str) -> bool:
    """Whether a name leads into something that means something here, or into the insides of anything."""
    return f"{module}.{name.split('.')[0]}" in STANDS_FOR or any(
        re.fullmatch("__.*__", part) for part in name.split(".")
    )


def described(value: Any) -> str:
    """What a pickle holds that isn't a dictionary, for a message."""
    if isinstance(value, Inert):
        return f"an object of {value.asked}" if value.asked else "settings"
    if isinstance(value, _DType):
        return f"NumPy's type {value.code!r}"
    return f"a {type(value).__name__.strip('_')}"


def unpickle(stream: BinaryIO, file: Path) -> Any:
    """The next pickle in `stream`. UserError if it wants what no weights need, or is damaged."""
    return unpickled(stream, file)[0]


def unpickled(stream: BinaryIO, file: Path) -> tuple[Any, dict[str, Storage]]:
    """The same, and all storages that it refers to."""
    try:
        reader = _Reader(stream)
        return reader.load(), reader.storages
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    except Exception as error:  # a damaged file can make the interpreter raise anything
        raise UserError(f"{file}: truncated or damaged pickle ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
