"""From images to label maps of their own sizes: whole images, sliding windows, several scales and flips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Iterable, Optional, Sequence

import numpy as np
from mindspore import Tensor

from mindvit.errors import UserError

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Sliding:
    """Windows of `crop` px (height, width), `stride` px apart; the last ones end at the image's border."""

    crop: Size
    stride: Size

    def __post_init__(self) -> None:
        if not all(0 < step <= side for step, side in zip(self.stride, self.crop)):
            raise UserError(
                f"sliding windows: stride {self.stride} must be at least 1 and at most the crop's {self.crop} px, or "
                "pixels would be left out"
            )

    def windows(self, size: Size) -> list[tuple[slice, slice]]:
        """Rows and columns of each window on an image, row by row."""
        rows, columns = (
            [
                slice(max(min(start * step + crop, side) - crop, 0), min(start * step + crop, side))
                for start in range(max(side - crop + step - 1, 0) // step + 1)
            ]
            for side, crop, step in zip(size, self.crop, self.stride)
        )
        return [(row, column) for row in rows for column in columns]


def resize(maps: np.ndarray, size: Size) -> np.ndarray:
    """(..., H, W) float32 -> (..., *size), bilinear with half-pixel centres, as the network resizes its logits."""
    for axis, side in ((-1, size[1]), (-2, size[0])):
        inputs = maps.shape[axis]
        if inputs == side:
            continue
        scale = np.float32(inputs) / np.float32(side)
        places = np.maximum(scale * (np.arange(side, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
        low = np.minimum(places.astype(np.int64), inputs - 1)
        share = (places - low).astype(np.float32)
        if axis == -2:
            share = share[:, None]
        high = np.minimum(low + 1, inputs - 1)
        maps = np.take(maps, low, axis) * (1 - share) + np.take(maps, high, axis) * share
    return maps


def softmax(logits: np.ndarray) -> np.ndarray:
    """(classes, H, W) -> probabilities."""
    powers = np.exp(logits - logits.max(0, keepdims=True))
    return powers / powers.sum(0, keepdims=True)


class SegmentationInference:
    """A segmentor's answers for images of any size.

    net: (1, C, H, W) -> logits (1, classes, H, W). sliding: how windows slide over images; None: images go in whole. A
    graph is compiled for every size that the network sees, so windows of one size need one.
    """

    def __init__(self, net: Callable[[Tensor], Any], sliding: Optional[Sliding] = None):
        self.net = net
        self.sliding = sliding

    def logits(self, image: np.ndarray) -> np.ndarray:
        """(C, H, W) normalized -> (classes, H, W), the mean of the windows that see a pixel."""
        if self.sliding is None:
            return self._forward(image)
        total: Optional[np.ndarray] = None
        count = np.zeros(image.shape[1:], np.float32)
        for rows, columns in self.sliding.windows((image.shape[1], image.shape[2])):
            found = self._forward(np.ascontiguousarray(image[:, rows, columns]))
            if total is None:
                total = np.zeros((found.shape[0], *image.shape[1:]), np.float32)
            total[:, rows, columns] += found
            count[rows, columns] += 1
        assert total is not None  # an image has a window
        return total / count

    def probabilities(self, image: np.ndarray, size: Size, flip: bool = False) -> np.ndarray:
        """(C, H, W) -> (classes, *size), of an image whose own height and width are `size`; flip: it goes in
        mirrored, and what comes out is turned back.
        """
        found = softmax(resize(self.logits(np.ascontiguousarray(image[:, :, ::-1]) if flip else image), size))
        return found[:, :, ::-1] if flip else found

    def average(self, images: Iterable[tuple[np.ndarray, bool]], size: Size) -> np.ndarray:
        """The mean probabilities (classes, *size) of one image at several scales, each with whether to mirror it."""
        total, count = np.zeros(1, np.float32), 0
        for image, flip in images:
            total = total + self.probabilities(image, size, flip)
            count += 1
        return total / count

    def label_map(self, image: np.ndarray, size: Size) -> np.ndarray:
        """(C, H, W) -> the likeliest class of each pixel, (*size) int32."""
        return resize(self.logits(image), size).argmax(0).astype(np.int32)

    def _forward(self, image: np.ndarray) -> np.ndarray:
        return np.asarray(self.net(Tensor(image[None])).asnumpy()[0])


def scales(ratios: Sequence[float], flip: bool) -> list[tuple[float, bool]]:
    """The passes of a multi-scale test in mmsegmentation's order: every ratio, as it is and then mirrored."""
    return [(ratio, mirrored) for ratio in ratios for mirrored in ((False, True) if flip else (False,))]
