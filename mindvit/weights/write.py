"""Weights into files, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor
from safetensors import numpy as safetensors

from mindvit.errors import UserError
from mindvit.runtime import files
from mindvit.runtime.quiet import quiet
from mindvit.weights.readers import META, Arrays

SUFFIXES = (".ckpt", ".safetensors")


class NotSaved(UserError):
    """A checkpoint couldn't be written; the one before it is as it was."""

    exit_code = 1


def save(path: Path, parameters: Sequence[Parameter], meta: Mapping[str, Any]) -> Path:
    """Write parameters and `meta` (JSON) to `path`, with a CRC; what stood there before stays until the new file is
    complete.

    NotSaved if that fails: a full disk, a folder that is gone.
    """
    with written(path) as unfinished, quiet():
        ms.save_checkpoint(
            [{"name": item.name, "data": item} for item in parameters],
            str(unfinished),
            append_dict={META: json.dumps(meta)},
            crc_check=True,
        )
        os.chmod(unfinished, 0o644)  # the framework makes it read-only, which a user moving files stumbles over
    return path


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """files.atomic_write, whose failure is NotSaved."""
    try:
        with files.atomic_write(path) as unfinished:
            yield unfinished
    except (OSError, RuntimeError) as error:  # the framework makes a RuntimeError of some
        raise NotSaved(
            f"{path} can't be written: {getattr(error, 'strerror', None) or str(error).splitlines()[0]}"
        ) from None


def check_suffix(path: Path) -> None:
    """UserError for a name that says no format which can be written."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"--out {path}: the name must end in {' or '.join(SUFFIXES)}, which says the format")


def save_weights(path: Path, arrays: Arrays, meta: Mapping[str, Any]) -> None:
    """Write arrays and `meta` in the format that the name's ending says; what stood there before stays until the new
    file is complete.

    safetensors also say `format: pt`, which transformers asks for. UserError if the file can't be written.
    """
    check_suffix(path)
    try:
        if path.suffix == ".ckpt":
            save(
                path,
                [Parameter(Tensor(np.ascontiguousarray(value)), name=name) for name, value in arrays.items()],
                meta,
            )
            return
        content = safetensors.save(
            {name: np.ascontiguousarray(value) for name, value in arrays.items()},
            {META: json.dumps(meta), "format": "pt"},
        )
        with files.atomic_write(path) as unfinished:
            unfinished.write_bytes(content)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} can't be written: {str(error).splitlines()[0]}") from None
