"""From images to label maps of their own sizes: whole images, sliding windows, several scales and flips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Iterator, NamedTuple, Optional, Sequence, Union

import numpy as np
from mindspore import Tensor

from mindvit.data.transforms import dense
from mindvit.errors import UserError
from mindvit.layers.resample import bilinear_places

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
        low, share = bilinear_places(inputs, side)
        if axis == -2:
            share = share[:, None]
        high = np.minimum(low + 1, inputs - 1)
        maps = np.take(maps, low, axis) * (1 - share) + np.take(maps, high, axis) * share
    return maps


def softmax(logits: np.ndarray) -> np.ndarray:
    """(classes, H, W) -> probabilities."""
    powers = np.exp(logits - logits.max(0, keepdims=True))
    return powers / powers.sum(0, keepdims=True)


class Pass(NamedTuple):
    """What the network said of an image at one scale: logits (classes, h, w), and whether it was mirrored."""

    logits: np.ndarray
    mirrored: bool

    def resized(self, size: Size) -> np.ndarray:
        """(classes, *size), of the image as it was."""
        found = resize(self.logits, size)
        return found[:, :, ::-1] if self.mirrored else found


def probabilities(passes: Sequence[Pass], size: Size) -> np.ndarray:
    """(classes, *size): the passes' mean, of an image whose own height and width are `size`."""
    total = softmax(passes[0].resized(size))
    for item in passes[1:]:
        total = total + softmax(item.resized(size))
    return total / np.float32(len(passes))


def label_map(passes: Sequence[Pass], size: Size) -> np.ndarray:
    """(*size) int32: the likeliest class of each pixel."""
    found = passes[0].resized(size) if len(passes) == 1 else probabilities(passes, size)
    return found.argmax(0).astype(np.int32)


class SegmentationInference:
    """A segmentor's logits for images of any size.

    net: (B, C, H, W) -> logits (B, classes, H, W). sliding: how windows slide over images, `at_once` of them in a
    batch; None: images go in whole. A graph is compiled for every size that the network sees, so windows of one size
    need one.
    """

    def __init__(self, net: Callable[[Tensor], Any], sliding: Optional[Sliding] = None, at_once: int = 1):
        self.net, self.sliding, self.at_once = net, sliding, at_once

    def logits(self, image: np.ndarray) -> np.ndarray:
        """(C, H, W) normalized -> (classes, H, W), the mean of the windows that see a pixel."""
        if self.sliding is None:
            return self._forward([image])[0]
        windows = self.sliding.windows((image.shape[1], image.shape[2]))
        total: Optional[np.ndarray] = None
        count = np.zeros(image.shape[1:], np.float32)
        for first in range(0, len(windows), self.at_once):
            part = windows[first : first + self.at_once]
            outputs = self._forward([image[:, rows, columns] for rows, columns in part])
            for (rows, columns), found in zip(part, outputs):
                if total is None:
                    total = np.zeros((found.shape[0], *image.shape[1:]), np.float32)
                total[:, rows, columns] += found
                count[rows, columns] += 1
        assert total is not None  # an image has a window
        return total / count

    def _forward(self, images: Sequence[np.ndarray]) -> np.ndarray:
        batch = np.stack(images)
        if self.sliding is not None:  # batches have one size, so that one graph does
            batch = np.concatenate([batch, np.repeat(batch[-1:], self.at_once - len(images), 0)])
        return np.asarray(self.net(Tensor(batch)).asnumpy())


@dataclass(frozen=True)
class TestScale:
    """How images are prepared for a test.

    scale: (longer, shorter) side, px, within which they are fitted, times each of `ratios`; None: their own. flip: each
    mirrored too. divisor: their sides are enlarged to multiples of it, or, where windows slide over them, only those
    that are shorter than a window's. mean, std: of pixels in 0..1.
    """

    scale: Optional[Size]
    divisor: int
    mean: Sequence[float]
    std: Sequence[float]
    ratios: Sequence[float] = (1.0,)
    flip: bool = False

    def resized(self, image: np.ndarray, ratio: float = 1.0, window: Optional[Size] = None) -> np.ndarray:
        """(H, W, 3) uint8 -> (h, w, 3) as the network or, where there are any, its windows can take it."""
        scale = dense.scaled(self.scale or (max(image.shape[:2]), min(image.shape[:2])), ratio)
        if window is None:
            return dense.align_resize(image, scale, self.divisor)
        found = dense.resize(image, dense.fit_within((image.shape[0], image.shape[1]), scale))
        sides = [max(side, shortest) for side, shortest in zip(found.shape, window)]
        return dense.resize(found, (sides[0], sides[1]))

    def normalized(self, image: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 -> (3, h, w) float32."""
        return dense.normalize(image, np.array(self.mean), np.array(self.std))

    def images(self, image: np.ndarray, window: Optional[Size] = None) -> Iterator[tuple[np.ndarray, bool]]:
        """(H, W, 3) uint8 -> the images (3, h, w) float32 that the network sees, each with whether it is mirrored."""
        for ratio in self.ratios:
            pixels = self.normalized(self.resized(image, ratio, window))
            for mirrored in (False, True) if self.flip else (False,):
                yield np.ascontiguousarray(pixels[:, :, ::-1]) if mirrored else pixels, mirrored


class ImageInference:
    """Images (H, W, 3) uint8 -> what the network says of each, as many passes as the test has scales and flips."""

    def __init__(self, inference: SegmentationInference, test: TestScale):
        self.inference, self.test = inference, test

    def __call__(self, image: Union[Tensor, np.ndarray]) -> list[Pass]:
        pixels = image.asnumpy() if isinstance(image, Tensor) else image
        sliding = self.inference.sliding
        inputs = self.test.images(pixels, sliding.crop if sliding else None)
        return [Pass(self.inference.logits(found), mirrored) for found, mirrored in inputs]
