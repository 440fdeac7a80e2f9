"""The worst deviations from goldens, printed, kept where they are asked for, and held to their tolerances."""

from __future__ import annotations

import os
from pathlib import Path

FILE = "MINDVIT_DEVIATIONS"  # in the environment: a file for a row of a Markdown table each


def report(what: str, worst: float, tolerance: float) -> None:
    """Print the worst deviation (pytest -s) and fail beyond the tolerance."""
    print(f"\n{what}: {worst:.1e} of {tolerance:.1e}")
    if FILE in os.environ:
        with Path(os.environ[FILE]).open("a", encoding="utf-8") as stream:
            stream.write(f"| {what} | {worst:.1e} | {tolerance:.1e} |\n")
    assert worst < tolerance, what
