"""Refuses a wrong Python, NumPy or MindSpore in one line, before any of them fails in its own words."""

from __future__ import annotations

import os
import re
import sys
from importlib import metadata
from typing import Iterator

PYTHON = ((3, 9), (3, 12))
MINDSPORE = ((2, 7), (2, 10))
NUMPY = ((1, 25), (1, 26))
PROTOBUF = re.compile(r"protobuf\s*>=\s*(\d+\.[\d.]+)")  # how MindSpore's wheel says which it needs
OTHERS = ("pyyaml", "pillow", "safetensors", "tqdm")


class EnvironmentMismatch(ImportError):
    """This process has a library that mindvit doesn't run with."""


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def _range(bounds: tuple[tuple[int, int], tuple[int, int]]) -> str:
    return f"{bounds[0][0]}.{bounds[0][1]} to {bounds[1][0]}.{bounds[1][1]}"


def problems() -> Iterator[str]:
    """What is wrong with this Python and its libraries, a line each: what was found, what is accepted, what to type."""
    if not PYTHON[0] <= sys.version_info[:2] <= PYTHON[1]:
        yield (
            f"mindvit needs Python {_range(PYTHON)} (the range of MindSpore's wheels), "
            f"this is {sys.version.split()[0]}: "
            "make an environment with one of them, e.g. make PYTHON=python3.11 quickstart"
        )
    for name, bounds, wanted in (("numpy", NUMPY, "numpy>=1.25,<2"), ("mindspore", MINDSPORE, "mindspore>=2.7,<2.11")):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield f"mindvit needs {name}, which is not installed: pip install '{wanted}'"
            continue
        if not bounds[0] <= _numbers(version) <= bounds[1]:
            yield f"mindvit needs {name} {_range(bounds)}, this is {version}: pip install '{wanted}'"
    yield from _old_protobuf()
    missing = [name for name in OTHERS if not any(metadata.distributions(name=name))]
    if missing:
        yield f"mindvit needs {', '.join(missing)}: pip install {' '.join(missing)}"


def _old_protobuf() -> Iterator[str]:
    """That the protobuf that MindSpore can't be imported with is there: other packages, trackers say, bring it."""
    try:
        required = metadata.requires("mindspore") or []
        version = metadata.version("protobuf")
    except metadata.PackageNotFoundError:
        return
    for least in (found[1] for found in map(PROTOBUF.match, required) if found):
        if _numbers(version) < _numbers(least):
            yield f"this MindSpore needs protobuf {least} or newer, this is {version}: pip install 'protobuf>={least}'"


def quiet_log() -> None:
    """MindSpore's own log: errors only, unless the user asks for more."""
    os.environ.setdefault("GLOG_v", "3")


def check() -> None:
    """EnvironmentMismatch, with the first of the `problems`, unless all is well."""
    quiet_log()
    problem = next(problems(), None)
    if problem is not None:
        raise EnvironmentMismatch(problem)
