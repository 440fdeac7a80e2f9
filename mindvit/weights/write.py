"""Weights into files, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Mapping

import numpy as np
from mindspore import Parameter, Tensor
from safetensors.numpy import save

from mindvit.engine import checkpoint
from mindvit.errors import UserError
from mindvit.runtime import files
from mindvit.weights.readers import META, Arrays

SUFFIXES = (".ckpt", ".safetensors")


def check_suffix(path: Path) -> None:
    """UserError for a name that says no format which can be written."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"--out {path}: the name must end in {' or '.join(SUFFIXES)}, which says the format")


def save_weights(path: Path, arrays: Arrays, meta: Mapping[str, Any]) -> None:
    """Write arrays and `meta` in the format that the name's ending says; what stood there before stays until the new file is complete.

    safetensors also say `format: pt`, which transformers asks for. UserError if the file can't be written.
    """
    check_suffix(path)
    try:
        if path.suffix == ".ckpt":
            checkpoint.save(path, [Parameter(Tensor(np.ascontiguousarray(value)), name=name) for name, value in arrays.items()], meta)
            return
        content = save({name: np.ascontiguousarray(value) for name, value in arrays.items()}, {META: json.dumps(meta), "format": "pt"})
        with files.whole(path) as unfinished:
            unfinished.write_bytes(content)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} can't be written: {str(error).splitlines()[0]}") from None


def sha256(path: Path) -> str:
    """A file's checksum, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
