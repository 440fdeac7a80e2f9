"""Boxes for both sides of a comparison: as an R-CNN proposes them, and as it looks at them again."""

from __future__ import annotations

import numpy as np

PROPOSED = (2000, 2000, 2000, 2000, 819)  # of the levels of an 800 x 1344 px image, while training
SEEN = 512


def boxes_of(count: int, height: int, width: int, seed: int) -> np.ndarray:
    """(count, 4) float32 with sides of 16 to 400 px, several around each of a few dozen places."""
    rng = np.random.default_rng(seed)
    place = rng.uniform(0, 1, (60, 2))[rng.integers(0, 60, count)] * [width, height]
    sides = np.exp(rng.uniform(np.log(16), np.log(400), (count, 2)))
    corner = place + rng.normal(0, 8, (count, 2)) - sides / 2
    found = np.concatenate([corner, corner + sides], 1)
    return np.clip(found, 0, [width, height] * 2).astype(np.float32)


def maps_of(height: int, width: int, channels: int) -> list[np.ndarray]:
    """(1, channels, H, W) of four levels."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((1, channels, height >> i, width >> i)).astype(np.float32) for i in range(2, 6)]
