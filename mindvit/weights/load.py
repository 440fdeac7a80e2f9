"""Strict loading: every weight of the network is named in the report, and nothing stays random in silence."""

from __future__ import annotations

import fnmatch
import math
import os
from dataclasses import dataclass, field
from typing import Mapping, Sequence, Union

import numpy as np
from mindspore import Tensor, nn

from mindvit.errors import UserError
from mindvit.layers.resize import bicubic_matrix
from mindvit.weights.readers import STATE, read_weights

POSITION = "pos_embed."  # tensors (1, 1 + side * side, C) that can be resized to another grid
# buffers in the authors' files that no network here needs: BatchNorm's counter, and tables that CrossFormer's code of 2021 saved
UNUSED = ("*.num_batches_tracked", "*.attn.biases", "*.attn.relative_position_index")


class WeightsError(UserError):
    """Weights that don't fit a network; `report` has the particulars."""

    def __init__(self, message: str, report: Report):
        super().__init__(message)
        self.report = report


@dataclass
class Report:
    """Names by what happened to them."""

    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = [f"{len(self.loaded)} loaded"]
        counts += [f"{len(names)} {what}: {_some(names)}" for what, names in (
            ("resized", self.resized), ("missing", self.missing), ("unexpected", self.unexpected), ("of another shape", self.differing),
            ("of no use here", self.unused)) if names]
        return "; ".join(counts)


def _some(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def load_weights(net: nn.Cell, source: Union[str, os.PathLike, Mapping[str, np.ndarray]], may_differ: Sequence[str] = (), resize: bool = False) -> Report:
    """Copy weights into `net` and say what was done.

    source: a file (.ckpt, .safetensors, .npz) or a mapping of name to array; names and layouts are those of the authors' PyTorch
    release. may_differ: shell patterns of names that may be missing, unexpected or of another shape (such weights of the
    network keep their values). resize: interpolate position embeddings of another grid. WeightsError, with nothing
    changed, if anything else differs.
    """
    if isinstance(source, Mapping):
        arrays, origin = dict(source), "the given weights"
    else:
        arrays, meta = read_weights(source)
        origin = str(source) + (f" (model {meta['model']})" if "model" in meta else "")
    report, values = Report(), {}
    report.unused = [name for name in arrays if any(fnmatch.fnmatch(name, pattern) for pattern in UNUSED)]
    arrays = {name: value for name, value in arrays.items() if not name.startswith(STATE) and name not in set(report.unused)}
    for parameter in net.get_parameters():
        name = parameter.name
        if name not in arrays:
            report.missing.append(name)
            continue
        value = np.asarray(arrays.pop(name))
        if value.shape != parameter.shape and resize and name.startswith(POSITION):
            value = resize_position(value, parameter.shape)
            report.resized.append(name)
        if value.shape != parameter.shape:
            report.differing.append(f"{name} {value.shape} instead of {parameter.shape}")
            continue
        values[name] = value
    report.unexpected = sorted(arrays)
    report.loaded = [name for name in values if name not in report.resized]
    _refuse(report, origin, may_differ)
    for parameter in net.get_parameters():
        if parameter.name in values:
            parameter.set_data(Tensor(values[parameter.name].astype(np.float32), parameter.dtype))
    return report


def _refuse(report: Report, origin: str, may_differ: Sequence[str]) -> None:
    def unforeseen(names: list[str]) -> list[str]:
        return [name for name in names if not any(fnmatch.fnmatch(name.split(" ")[0], pattern) for pattern in may_differ)]

    wrong = Report(report.loaded, report.resized, unforeseen(report.missing), unforeseen(report.unexpected), unforeseen(report.differing))
    if wrong.missing or wrong.unexpected or wrong.differing:
        hint = " (resize=True interpolates position embeddings)" if any(name.startswith(POSITION) for name in wrong.differing) else ""
        raise WeightsError(f"{origin} doesn't fit the network: {wrong}{hint}; may_differ names what may", report)


def resize_position(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Position embeddings (1, 1 + s*s, C) on another square grid, bicubic; the class token's stays. UserError if no square."""
    sides = [math.isqrt(size[1] - 1) for size in (value.shape, shape)]
    if any(side * side + 1 != size[1] for side, size in zip(sides, (value.shape, shape))) or value.shape[2] != shape[2]:
        raise UserError(f"position embeddings {value.shape} can't be resized to {shape}: both must be 1 + a square number of tokens of one width")
    matrix = bicubic_matrix(*sides).astype(np.float64)
    grid = value[0, 1:].reshape(sides[0], sides[0], -1)
    grid = np.einsum("ah,bw,hwc->abc", matrix, matrix, grid).reshape(1, -1, shape[2])
    return np.concatenate((value[:, :1], grid.astype(value.dtype)), 1)
