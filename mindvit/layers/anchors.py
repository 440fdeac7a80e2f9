"""Anchor boxes of a feature pyramid."""

from __future__ import annotations

from typing import Sequence

import numpy as np


class AnchorGrid:
    """Anchors on every place of every level, centred on (x stride, y stride), with no offset of half a stride.

    strides: of the levels, px; an anchor's area is (scale stride)^2, its height over its width one of ratios. Anchors
    go by level, y, x, ratio, scale.
    """

    def __init__(self, strides: Sequence[int], scales: Sequence[float], ratios: Sequence[float]):
        self.strides, self.scales, self.ratios = tuple(strides), tuple(scales), tuple(ratios)

    @property
    def per_place(self) -> int:
        """Anchors on each place."""
        return len(self.scales) * len(self.ratios)

    def base(self, stride: int) -> np.ndarray:
        """(per_place, 4) float32: the anchors of the place in the corner."""
        height = np.sqrt(np.array(self.ratios, np.float32))
        scales = np.array(self.scales, np.float32)
        heights = (np.float32(stride) * height[:, None] * scales).ravel()
        widths = (np.float32(stride) * (1 / height)[:, None] * scales).ravel()
        return np.stack([-0.5 * widths, -0.5 * heights, 0.5 * widths, 0.5 * heights], 1).astype(np.float32)

    def _corners(self, sizes: Sequence[tuple[int, int]], level: int) -> np.ndarray:
        height, width = sizes[level]
        y, x = np.mgrid[:height, :width].astype(np.float32) * self.strides[level]
        return np.stack([x, y, x, y], -1).reshape(-1, 1, 4).astype(np.float32)

    def anchors(self, sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
        """Each level's (height width per_place, 4) float32. sizes: height and width of each level's map."""
        return [
            (self._corners(sizes, level) + self.base(stride)).reshape(-1, 4)
            for level, stride in enumerate(self.strides)
        ]

    def corners(self, sizes: Sequence[tuple[int, int]]) -> np.ndarray:
        """(anchors, 2) float32: y and x of each anchor's place, px. An image that ends before it doesn't have it."""
        places = [self._corners(sizes, level).repeat(self.per_place, 1) for level in range(len(self.strides))]
        return np.ascontiguousarray(np.concatenate([place.reshape(-1, 4)[:, [1, 0]] for place in places]))

    def count(self, size: tuple[int, int]) -> int:
        """Anchors of an image of this height and width, px, whose maps have its sides over the strides, rounded up."""
        return self.per_place * sum(-(-size[0] // stride) * -(-size[1] // stride) for stride in self.strides)
