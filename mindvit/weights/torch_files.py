"""PyTorch's two formats and Paddle's: the pickle of names, and where the numbers lie."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import BinaryIO, Optional

import numpy as np

from mindvit.errors import UserError
from mindvit.weights.pickles import BFLOAT16, Budget, Storage, unpickle, unpickled

# magic number, protocol version and system of PyTorch's files before 1.6, and how the first of them looks in the file
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
LEGACY_HEAD = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


class TorchZip:
    """What torch.save has written since 1.6: a zip archive with a pickle and a file for each storage."""

    form = "PyTorch"

    def __init__(self, file: Path, archive: zipfile.ZipFile, budget: Budget):
        self.file, self.archive, self.budget = file, archive, budget
        self.found: dict[str, np.ndarray] = {}
        self.folder = next(name[: -len("data.pkl")] for name in archive.namelist() if name.endswith("data.pkl"))
        order = self.folder + "byteorder"
        if order in archive.namelist() and archive.read(order).strip() != b"little":
            raise UserError(
                f"{file}: its numbers are stored with the high byte first (written on a big-endian machine): save it "
                "anew on another one"
            )
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
            magic, protocol, system = (unpickle(stream, file) for _ in range(3))
            self.tree, wanted = unpickled(stream, file)
            keys = unpickle(stream, file)
            if (
                magic != LEGACY_MAGIC
                or protocol != LEGACY_PROTOCOL
                or not isinstance(system, dict)
                or not isinstance(keys, list)
            ):
                raise UserError(f"{file}: damaged PyTorch file (its header is none)")
            if not system.get("little_endian", True):
                raise UserError(f"{file}: written on a big-endian machine: save it anew on another one")
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
