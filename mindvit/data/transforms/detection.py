"""Images together with their objects: resized, mirrored and padded, as mmdetection's pipeline does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Sequence

import numpy as np

from mindvit.data.objects import Objects
from mindvit.data.transforms.dense import Size, fit_within, resize, resize_labels

NONE = -1  # the label of places without an object


def resize_objects(objects: Objects, old: Size, new: Size) -> Objects:
    """The objects of an image that was resized; boxes end at its border."""
    factors = np.array([new[1] / old[1], new[0] / old[0]] * 2, np.float32)
    limits = np.array([new[1], new[0]] * 2, np.float32)
    boxes = np.clip(objects.boxes.astype(np.float32) * factors, 0, limits)
    masks = objects.masks
    if masks is not None and old != new:
        resized = [resize_labels(mask, new) for mask in masks]
        masks = np.stack(resized) if resized else np.zeros((0, *new), bool)
    return objects._replace(boxes=boxes, masks=masks)


def mirror_objects(objects: Objects, width: int) -> Objects:
    """The objects of an image that was mirrored, left and right exchanged."""
    boxes = objects.boxes.copy()
    boxes[:, 0], boxes[:, 2] = width - objects.boxes[:, 2], width - objects.boxes[:, 0]
    return objects._replace(boxes=boxes, masks=None if objects.masks is None else objects.masks[:, :, ::-1])


def padded(pixels: np.ndarray, size: Size) -> np.ndarray:
    """(H, W, C) -> (*size, C), zeros to the right and below."""
    result = np.zeros((*size, pixels.shape[2]), pixels.dtype)
    result[: pixels.shape[0], : pixels.shape[1]] = pixels
    return result


def shrunk(size: Size, canvas: Size) -> Size:
    """Height and width of an image of a size in which it just lies on a canvas."""
    factor = min(canvas[0] / size[0], canvas[1] / size[1])
    height, width = (min(max(int(side * factor + 0.5), 1), most) for side, most in zip(size, canvas))
    return height, width


def best_canvas(size: Size, canvases: Sequence[Size]) -> int:
    """The number of the canvas on which an image of a size stays largest, and of several such the smallest one's."""
    shares = [min(1.0, height / size[0], width / size[1]) for height, width in canvases]
    return min(range(len(canvases)), key=lambda number: (-shares[number], canvases[number][0] * canvases[number][1]))


@dataclass(frozen=True)
class DetectionTransform:
    """From an image and its objects to arrays of fixed shapes.

    scales: (longest, shortest) sides within which images are fitted, px; one is drawn for each image; none: images stay
    as they are. canvases: heights and widths of the arrays, of which each image has the one that fits it best, and a
    larger image is fitted in it instead; places: for objects, of which the largest are taken where there are more.
    hflip: how often images are mirrored. with_masks: whether masks are wanted.
    """

    scales: Sequence[Size]
    canvases: Sequence[Size]
    places: int
    hflip: float = 0.0
    with_masks: bool = True

    def group(self, size: Size) -> int:
        """The number of the canvas of an image of a size: where it stays largest, and of several such the smallest."""
        return best_canvas(fit_within(size, max(self.scales, key=min)) if self.scales else size, self.canvases)

    def size(self, size: Size, scale: Size, canvas: Size) -> Size:
        """Height and width that an image of a size is brought to."""
        fitted = fit_within(size, scale)
        return fitted if max(fitted[0] - canvas[0], fitted[1] - canvas[1]) <= 0 else shrunk(size, canvas)

    def __call__(
        self, image: np.ndarray, objects: Objects, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Optional[np.ndarray]]:
        """image: (H, W, C) uint8 -> image (*its canvas, C) uint8; its height and width (2,) int32; boxes (places, 4)
        float32; labels (places,) int32, NONE where there is no object; masks (places, height, width / 8) uint8, eight
        pixels a byte. Crowd regions are left out.
        """
        old = image.shape[0], image.shape[1]
        scale = self.scales[int(rng.integers(len(self.scales)))] if self.scales else (max(old), min(old))
        canvas = self.canvases[self.group(old)]
        new = self.size(old, scale, canvas)
        objects = resize_objects(objects.kept(~objects.crowd), old, new)
        pixels = resize(image, new)
        if rng.random() < self.hflip:
            pixels, objects = pixels[:, ::-1], mirror_objects(objects, new[1])
        return (padded(pixels, canvas), np.array(new, np.int32), *self.placed(objects, canvas))

    def placed(self, objects: Objects, canvas: Size) -> tuple[np.ndarray, np.ndarray, Optional[np.ndarray]]:
        """Boxes, labels and masks in arrays of fixed shapes."""
        sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
        has_area = np.flatnonzero((sides > 0).all(1))
        largest = has_area[np.argsort(-sides[has_area].prod(1), kind="stable")][: self.places]
        objects = objects.kept(np.sort(largest))
        count = len(objects.labels)
        boxes, labels = np.zeros((self.places, 4), np.float32), np.full(self.places, NONE, np.int32)
        boxes[:count], labels[:count] = objects.boxes, objects.labels
        if not self.with_masks or objects.masks is None:
            return boxes, labels, None
        masks = np.zeros((self.places, *canvas), bool)
        masks[:count, : objects.masks.shape[1], : objects.masks.shape[2]] = objects.masks
        return boxes, labels, np.packbits(masks, 2)


@dataclass(frozen=True)
class ObjectRow:
    """A sample with objects -> its rows of a training batch's arrays, without masks where none are wanted."""

    transform: DetectionTransform

    def __call__(self, sample: Any, rng: Optional[np.random.Generator]) -> tuple[np.ndarray, ...]:
        assert rng is not None  # training's samples have one
        *rows, masks = self.transform(np.asarray(sample.image), sample.target, rng)
        return (*rows, masks) if masks is not None else tuple(rows)
