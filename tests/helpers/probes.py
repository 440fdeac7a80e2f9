"""Transforms of a classifier's samples that tell of their process. No MindSpore: worker processes import them."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from mindvit.data.datasets.base import Sample

BLACK = np.zeros((2, 2, 3), np.uint8)


@dataclass(frozen=True)
class Probe:
    """Labels that are what `what` says."""

    what: str

    def __call__(self, sample: Sample, rng: Any) -> tuple[np.ndarray, int]:
        values = {
            "process": os.getpid(),
            "max_pixels": Image.MAX_IMAGE_PIXELS or 0,
            "mindspore": "mindspore" in sys.modules,
            "threads": int(os.environ.get("OPENBLAS_NUM_THREADS", 0)),
            "label": sample.target,
        }
        return BLACK, int(values[self.what])


@dataclass(frozen=True)
class Broken:
    """Fails at images of class `label`."""

    label: int
    error: BaseException

    def __call__(self, sample: Sample, rng: Any) -> tuple[np.ndarray, int]:
        if sample.target == self.label:
            raise self.error
        return BLACK, sample.target


class Stubborn(Exception):
    """Can't be made of what it keeps, as some libraries' can't."""

    def __init__(self, one: str, other: str):
        super().__init__(f"{one} and {other}")
