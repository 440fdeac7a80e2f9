"""PyTorch's two formats written by hand, from the facts of the formats, so that tests of reading need no PyTorch."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any, Optional

import numpy as np

from mindvit.weights.torch_files import LEGACY_MAGIC, LEGACY_PROTOCOL

STORAGES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "uint16": "BFloat16Storage",
    "int64": "LongStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
}


class Call:
    """Pickled as a call of a name: REDUCE with arguments."""

    def __init__(self, name: str, *arguments: Any):
        self.name, self.arguments = name, arguments

    def __reduce__(self) -> tuple:
        return Name(self.name), self.arguments


class Name:
    """Pickled as a reference to `module.name`, whether that exists or not."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self) -> None:
        """Only because what a pickle calls must be callable."""


class View:
    """A tensor: an array's memory seen with offset, shape and strides (in elements); uint16 stands for bfloat16."""

    def __init__(
        self,
        storage: np.ndarray,
        offset: int = 0,
        shape: Optional[tuple[int, ...]] = None,
        strides: Optional[tuple[int, ...]] = None,
    ):
        storage = storage if storage.flags.c_contiguous else np.ascontiguousarray(storage)
        self.storage = storage
        self.offset = offset
        self.shape = storage.shape if shape is None else shape
        self.strides = tuple(step // storage.itemsize for step in storage.strides) if strides is None else strides

    def __reduce__(self) -> tuple:
        return Name("torch._utils._rebuild_tensor_v2"), (
            Stored(self.storage),
            self.offset,
            self.shape,
            self.strides,
            False,
            Call("collections.OrderedDict"),
        )


class Stored:
    """A reference to memory that stands elsewhere in the file."""

    def __init__(self, array: np.ndarray):
        self.array = array


_InPython: Any = vars(pickle)["_Pickler"]  # the pickler in C calls no `save` of a subclass


class _Pickler(_InPython):
    def __init__(self, stream: Any, is_legacy: bool):
        super().__init__(stream, 2)
        self.is_legacy = is_legacy
        self.arrays: dict[str, np.ndarray] = {}

    def save(self, item: Any, *others: Any, **more: Any) -> None:
        """As everywhere, and names."""
        if isinstance(item, Name):
            module, _, name = item.name.rpartition(".")
            self.write(f"c{module}\n{name}\n".encode())
        elif isinstance(item, type):
            self.write(f"c{item.__module__}\n{item.__qualname__}\n".encode())
        else:
            super().save(item, *others, **more)

    def persistent_id(self, item: Any) -> Any:
        if not isinstance(item, Stored):
            return None
        key = next((key for key, array in self.arrays.items() if array is item.array), str(len(self.arrays)))
        self.arrays[key] = item.array
        return ("storage", Name(f"torch.{STORAGES[str(item.array.dtype)]}"), key, "cpu", item.array.size) + (
            (None,) if self.is_legacy else ()
        )


def tensors(tree: Any) -> Any:
    """Arrays as tensors, within dictionaries."""
    return (
        {key: tensors(value) for key, value in tree.items()}
        if isinstance(tree, dict)
        else View(tree)
        if isinstance(tree, np.ndarray)
        else tree
    )


def save_torch(
    path: Path, tree: Any, is_legacy: bool = False, byteorder: str = "little", compression: int = zipfile.ZIP_STORED
) -> Path:
    """What torch.save writes for nested dictionaries of arrays, Views and plain values."""
    stream = io.BytesIO()
    pickler = _Pickler(stream, is_legacy)
    pickler.dump(tensors(tree))
    if not is_legacy:
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("archive/data.pkl", stream.getvalue())
            archive.writestr("archive/byteorder", byteorder)
            for key, array in pickler.arrays.items():
                archive.writestr(f"archive/data/{key}", array.tobytes())
        return path
    system = {
        "protocol_version": LEGACY_PROTOCOL,
        "little_endian": byteorder == "little",
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    with path.open("wb") as file:
        for item in (LEGACY_MAGIC, LEGACY_PROTOCOL, system):
            pickle.dump(item, file, protocol=2)
        file.write(stream.getvalue())
        pickle.dump(sorted(pickler.arrays), file, protocol=2)
        for key in sorted(pickler.arrays):
            file.write(pickler.arrays[key].size.to_bytes(8, "little") + pickler.arrays[key].tobytes())
    return path
