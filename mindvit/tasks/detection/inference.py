"""From images to what is detected in them, in their own pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, NamedTuple, Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindvit.data.transforms.dense import Size, fit_within, normalize, resize, scaled
from mindvit.data.transforms.detection import best_canvas, shrunk
from mindvit.models.detection.detector import DETECTIONS, OVERLAP
from mindvit.tasks.detection.masks import paste


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

    def kept(self, chosen: np.ndarray) -> Detections:
        """Those that are chosen: numbers, or (n,) bool."""
        shares = None if self.shares is None else self.shares[chosen]
        return Detections(self.boxes[chosen], self.scores[chosen], self.labels[chosen], shares)

    def mirrored(self, width: int) -> Detections:
        """In an image of this width, left and right exchanged."""
        boxes = self.boxes.copy()
        boxes[:, 0], boxes[:, 2] = width - self.boxes[:, 2], width - self.boxes[:, 0]
        return self._replace(boxes=boxes, shares=None if self.shares is None else self.shares[:, :, ::-1])


@dataclass(frozen=True)
class TestScale:
    """How images are prepared for a test.

    scale: longest and shortest side within which they are fitted, px, times each of `ratios`; None: their own. divisor:
    sides are padded to multiples of this. mean, std: of pixels in 0..1. flip: each mirrored too. score_thr: what is
    less sure isn't told. canvases: heights and widths that images are padded to instead, each to the one that fits it
    best, on which a larger image is made smaller; none: the divisor's.
    """

    scale: Optional[Size]
    divisor: int
    mean: Sequence[float]
    std: Sequence[float]
    ratios: Sequence[float] = (1.0,)
    flip: bool = False
    score_thr: float = 0.0
    canvases: Sequence[Size] = ()

    def resized(self, image: np.ndarray, ratio: float = 1.0) -> np.ndarray:
        """(H, W, 3) uint8, of the size that the network sees."""
        size = own = image.shape[0], image.shape[1]
        if self.scale is not None or ratio != 1:
            size = fit_within(own, scaled(self.scale or (max(own), min(own)), ratio))
        canvas = self.canvas(size)
        if canvas[0] < size[0] or canvas[1] < size[1]:
            size = shrunk(own, canvas)
        return image if size == own and self.scale is None else resize(image, size)

    def canvas(self, size: Size) -> Size:
        """Height and width that an image of a size is padded to."""
        if self.canvases:
            return self.canvases[best_canvas(size, self.canvases)]
        height, width = (-(-side // self.divisor) * self.divisor for side in size)
        return height, width

    def normalized(self, image: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 -> (3, h', w') float32, zeros beyond the image."""
        x = normalize(image, np.array(self.mean), np.array(self.std))
        padded = np.zeros((x.shape[0], *self.canvas((x.shape[1], x.shape[2]))), np.float32)
        padded[:, : x.shape[1], : x.shape[2]] = x
        return padded


class DetectionInference:
    """Detections of one image (H, W, 3) uint8, in its own pixels. net: a detector."""

    def __init__(self, net: Callable[..., Any], test: TestScale):
        self.net, self.test = net, test

    def __call__(self, image: Tensor) -> Detections:
        pixels = image.asnumpy()
        passes = [
            self.seen(pixels, ratio, mirrored)
            for ratio in self.test.ratios
            for mirrored in ((False, True) if self.test.flip else (False,))
        ]
        found = passes[0] if len(passes) == 1 else merged(passes)
        return found.kept(found.scores >= self.test.score_thr)

    def seen(self, pixels: np.ndarray, ratio: float, mirrored: bool) -> Detections:
        """What the network sees at one scale, in the image as it is."""
        resized = self.test.resized(pixels, ratio)
        size = np.array([resized.shape[:2]], np.float32)
        x = self.test.normalized(np.ascontiguousarray(resized[:, ::-1]) if mirrored else resized)
        outputs = self.net(Tensor(x[None]), Tensor(size, ms.float32))
        found = detections([item.asnumpy()[0] for item in outputs], size[0], pixels.shape[:2])
        return found.mirrored(pixels.shape[1]) if mirrored else found


def merged(passes: Sequence[Detections], overlap: float = OVERLAP, most: int = DETECTIONS) -> Detections:
    """Several passes' detections of an image as one's, as mmdetection's DetTTAModel has it: of those of a class that
    overlap with an IoU above `overlap` the surest, and of all the `most` surest. Each keeps its own mask.
    """
    shares = None if passes[0].shares is None else np.concatenate([np.asarray(item.shares) for item in passes])
    boxes, scores, labels = (np.concatenate([item[place] for item in passes]) for place in range(3))
    together = Detections(boxes, scores, labels, shares)
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(order) and len(kept) < most:
        best, order = order[0], order[1:]
        kept.append(int(best))
        other = (labels[order] != labels[best]) | (iou(boxes[[best]], boxes[order])[0] <= overlap)
        order = order[other]
    return together.kept(np.array(kept, np.int64))


def areas(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) -> (n,), px2."""
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def intersections(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n, 4), (m, 4) boxes -> (n, m), px2."""
    low, high = np.maximum(one[:, None, :2], other[None, :, :2]), np.minimum(one[:, None, 2:], other[None, :, 2:])
    return np.maximum(high - low, 0).prod(2)


def iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n, 4), (m, 4) boxes -> (n, m): their intersection over their union."""
    shared = intersections(one, other)
    union = areas(one)[:, None] + areas(other)[None] - shared
    return shared / np.where(union > 0, union, 1)


def detections(outputs: Sequence[np.ndarray], seen: np.ndarray, own: Sequence[int]) -> Detections:
    """What a detector's outputs for one image mean, whose height and width are `seen` for the network, and `own`."""
    boxes, scores, labels = outputs[:3]
    count = int((scores > 0).sum())
    factors = np.array([own[1] / seen[1], own[0] / seen[0]] * 2, np.float32)
    limits = np.array([own[1], own[0]] * 2, np.float32)
    shares = outputs[3][:count] if len(outputs) > 3 else None
    return Detections(np.minimum(boxes[:count] * factors, limits), scores[:count], labels[:count], shares)
