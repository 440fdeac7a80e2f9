"""Weights that come with the package: `shipped:NAME` wherever a file with weights is asked for."""

from __future__ import annotations

from pathlib import Path

from mindvit.errors import UserError

SHIPPED = "shipped:"  # before NAME
FOLDER, SUFFIX = Path(__file__).parent / "weights", ".safetensors"


def is_shipped(place: object) -> bool:
    """Whether this is shipped:NAME."""
    return isinstance(place, str) and place.startswith(SHIPPED)


def shipped_file(place: str) -> Path:
    """The file that shipped:NAME means. UserError for a name that there isn't."""
    path = FOLDER / f"{place[len(SHIPPED) :]}{SUFFIX}"
    if path.parent != FOLDER or not path.is_file():
        names = " and ".join(f"{SHIPPED}{other.stem}" for other in sorted(FOLDER.glob(f"*{SUFFIX}")))
        raise UserError(f"no weights {place} come with mindvit, but {names}")
    return path
