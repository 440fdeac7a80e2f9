"""From images to what is detected in them, in their own pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, NamedTuple, Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindvit.data.transforms.dense import Size, fit_within, normalize, resize
from mindvit.tasks.detection.masks import paste

MULTIPLE = 32  # of the sides of what a network takes


class Detections(NamedTuple):
    """n objects that were found in an image, the surest first.

    boxes: (n, 4) float32, left, top, right, bottom in the image's own pixels; scores: (n,) float32, 0..1; labels: (n,)
    int32; shares: (n, 28, 28) float32, how sure each cell of a box is the object's, or None without masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    shares: Optional[np.ndarray]

    def mask(self, number: int, size: Size) -> np.ndarray:
        """(H, W) bool of one object in an image of this size."""
        assert self.shares is not None
        return paste(self.shares[number], self.boxes[number], *size)


@dataclass(frozen=True)
class TestScale:
    """How images are prepared for a test.

    scale: longest and shortest side within which they are fitted, px; None: as they are. divisor: sides are padded to
    multiples of this. mean, std: of pixels in 0..1.
    """

    scale: Optional[Size]
    divisor: int
    mean: Sequence[float]
    std: Sequence[float]

    def resized(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8, of the size that the network sees."""
        size = image.shape[0], image.shape[1]
        return image if self.scale is None else resize(image, fit_within(size, self.scale))

    def normalized(self, image: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 -> (3, h', w') float32, zeros beyond the image."""
        x = normalize(image, np.array(self.mean), np.array(self.std))
        height, width = (-(-side // self.divisor) * self.divisor for side in x.shape[1:])
        padded = np.zeros((x.shape[0], height, width), np.float32)
        padded[:, : x.shape[1], : x.shape[2]] = x
        return padded


class DetectionInference:
    """Detections of one image (H, W, 3) uint8, in its own pixels. net: a detector."""

    def __init__(self, net: Callable[..., Any], test: TestScale):
        self.net, self.test = net, test

    def __call__(self, image: Tensor) -> Detections:
        pixels = image.asnumpy()
        resized = self.test.resized(pixels)
        size = np.array([resized.shape[:2]], np.float32)
        outputs = self.net(Tensor(self.test.normalized(resized)[None]), Tensor(size, ms.float32))
        return detections([item.asnumpy()[0] for item in outputs], size[0], pixels.shape[:2])


def detections(outputs: Sequence[np.ndarray], seen: np.ndarray, own: Sequence[int]) -> Detections:
    """What a detector's outputs for one image mean, whose height and width are `seen` for the network, and `own`."""
    boxes, scores, labels = outputs[:3]
    count = int((scores > 0).sum())
    factors = np.array([own[1] / seen[1], own[0] / seen[0]] * 2, np.float32)
    limits = np.array([own[1], own[0]] * 2, np.float32)
    shares = outputs[3][:count] if len(outputs) > 3 else None
    return Detections(np.minimum(boxes[:count] * factors, limits), scores[:count], labels[:count], shares)
