"""A data set's file names as worker processes have them: in two arrays, which all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np

CODING = "utf-8", "surrogateescape"  # names that are no text come back as they were


class Names(Sequence[str]):
    """Texts, kept as bytes one after another: a million of them take neither a million objects nor a copy each."""

    def __init__(self, names: Sequence[str]) -> None:
        encoded = [name.encode(*CODING) for name in names]
        self.content = np.frombuffer(b"".join(encoded), np.uint8)
        self.ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        return self.content[self.ends[number] : self.ends[number + 1]].tobytes().decode(*CODING)
