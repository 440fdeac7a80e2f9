"""Objects of an image: their boxes, classes and masks."""

from __future__ import annotations

from typing import Any, NamedTuple, Optional, Protocol, runtime_checkable

import numpy as np


class Objects(NamedTuple):
    """n objects of an image of H x W px.

    boxes: (n, 4) float32, left, top, right, bottom in px; labels: (n,) int32, class numbers from 0 on; masks: (n, H, W)
    bool, or None where there are none; crowd: (n,) bool: regions with many objects, which no detector is to find and
    none is blamed for; areas: (n,) float32, px2, by which they are small, medium or large, or None: of masks or boxes.
    """

    boxes: np.ndarray
    labels: np.ndarray
    masks: Optional[np.ndarray]
    crowd: np.ndarray
    areas: Optional[np.ndarray] = None

    def kept(self, chosen: np.ndarray) -> Objects:
        """Those that are chosen: numbers, or (n,) bool."""
        masks = None if self.masks is None else self.masks[chosen]
        areas = None if self.areas is None else self.areas[chosen]
        return Objects(self.boxes[chosen], self.labels[chosen], masks, self.crowd[chosen], areas)


@runtime_checkable
class Numbered(Protocol):
    """A data set whose images and classes have ids of their own."""

    def ids(self) -> tuple[list[Any], list[Any]]:
        """Of each image, and of each class."""
