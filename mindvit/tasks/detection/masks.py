"""Masks of objects between the network's small squares and whole images."""

from __future__ import annotations

import numpy as np


def axis_weights(low: float, high: float, pixels: int, cells: int) -> np.ndarray:
    """(pixels, cells) float32: bilinear weights of a square's cells, which lie between low and high, in an image's
    pixels, by their centres.
    """
    place = (np.arange(pixels, dtype=np.float32) + 0.5 - np.float32(low)) / np.float32(high - low) * cells - 0.5
    return np.maximum(1 - np.abs(place[:, None] - np.arange(cells, dtype=np.float32)), 0).astype(np.float32)


def paste(share: np.ndarray, box: np.ndarray, height: int, width: int, threshold: float = 0.5) -> np.ndarray:
    """A mask as large as its image.

    Args:
        share: (28, 28) float32, how sure the network is of each cell of the box, 0..1.
        box: x1, y1, x2, y2 in the image's own pixels.
        height: the image's, px.
        width: the image's, px.
        threshold: from which share on a pixel is the object's.

    Returns:
        (height, width) bool. A box without area has no pixels.
    """
    mask = np.zeros((height, width), bool)
    x1, y1, x2, y2 = (float(value) for value in box)
    if x2 <= x1 or y2 <= y1:
        return mask
    rows = axis_weights(y1, y2, height, share.shape[0])
    columns = axis_weights(x1, x2, width, share.shape[1])
    inside = np.ix_(rows.any(1), columns.any(1))
    mask[inside] = rows[rows.any(1)] @ share.astype(np.float32) @ columns[columns.any(1)].T >= threshold
    return mask
