"""What both environments of the interoperability test share: names and shapes of the oracle, its filling, its rules
for names. NumPy only.
"""

from __future__ import annotations

import functools
import json
import lzma
import re
import sys
from pathlib import Path
from typing import Optional

import numpy as np
import yaml

HERE = Path(__file__).parent
GOLDENS = HERE.parent / "goldens"
sys.path[:0] = [str(GOLDENS)]

import fill  # noqa: E402

PAIRS = {
    "crossvit": ("crossvit_9", "crossvit_tiny"),
    "cvt": ("cvt_13_224", "cvt_21_224"),
    "crossformer": ("crossformer_tiny", "crossformer_small"),
    "xcit": ("xcit_nano_12_p16_224", "xcit_tiny_12_p16_224"),
}  # two networks a family
DETECTORS = {"crossformer_small": "retinanet_s", "crossformer_base": "upernet_b"}


@functools.cache
def _content() -> dict:
    return dict(json.loads(lzma.decompress((GOLDENS / "names.json.xz").read_bytes())))


@functools.cache
def lists() -> dict[str, dict[str, tuple[int, ...]]]:
    """Names and shapes of every state dict in the oracle, by `origin/file`."""
    return {file: {name: tuple(shape) for name, shape in rows} for file, rows in _content()["lists"].items()}


def names(origin: str, network: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network in an origin's form."""
    return lists()[_content()["files"][origin][network]]


@functools.cache
def rules(table: str) -> list[tuple[str, str]]:
    """The oracle's substitutions from another project's names to the official ones; written apart from those that are
    tested.
    """
    if table not in (maps := yaml.safe_load((HERE / "name_maps.yaml").read_text())):
        return []
    return [(pattern, text) for pattern, text in maps[table]["rules"]]


def official_name(name: str, table: str) -> str:
    """A name after all substitutions of a table."""
    for pattern, text in rules(table):
        name = re.sub(pattern, text, name)
    return name


def filling(name: str, shape: tuple[int, ...], table: str = "") -> Optional[np.ndarray]:
    """The oracle's value for a tensor of another project; None for counters and the like."""
    official = official_name(name, table)
    part = re.match(r"cls_attn_blocks\.\d+\.attn\.([qkv])\.", name)
    if part:  # timm's query, key or value is a third of the official tensor
        whole = fill.fill(official, (3 * shape[0], *shape[1:]))
        return np.split(whole, 3)["qkv".index(part[1])]
    if table.startswith("paddlevit") and len(shape) == 2:
        return np.ascontiguousarray(fill.fill(official, shape[::-1]).T)
    return fill.fill(official, shape) if official else None


def deviation(ours: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference over max(1, largest reference)."""
    return float(np.abs(ours - reference).max() / max(1.0, np.abs(reference).max()))
