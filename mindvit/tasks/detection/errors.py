"""What is wrong with detections, by kind, as TIDE has it (Bolya et al. 2020; https://arxiv.org/abs/2008.08115)."""

from __future__ import annotations

from typing import Any, Iterator, NamedTuple, Sequence

import numpy as np

from mindvit.data.objects import Objects
from mindvit.tasks.detection.inference import Detections, areas, intersections, iou

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU from which on a box is an object's; up to which it is on the background
RIGHT, IGNORED = "right", "ignored"
KINDS = ("localization", "classification", "duplicate", "background", "both")
# the right class with an IoU between the two; another class with an IoU of an object's; an object that a surer box has
# found; no object near; another class with an IoU between the two


class ImageErrors(NamedTuple):
    """What is wrong with an image's n detections of its m objects.

    kinds: of each detection: RIGHT, IGNORED (in a crowd's region) or one of KINDS; nearest: the number of the object
    that it is about, -1 for none; found: (m,) bool; missed: (m,) bool, objects that are not found, not even under
    another class or with a box that is too far off. A crowd is neither.
    """

    kinds: Sequence[str]
    nearest: Sequence[int]
    found: np.ndarray
    missed: np.ndarray


def errors_of(objects: Objects, detected: Detections) -> ImageErrors:
    """detected: the surest first.

    Each in turn takes, of the objects of its class that are not taken, the one with the largest IoU, if that is at
    least FOREGROUND, as in COCO's evaluation.
    """
    overlaps = iou(detected.boxes.astype(np.float64), objects.boxes.astype(np.float64))
    same = detected.labels[:, None] == objects.labels[None]
    found, told = np.zeros(len(objects.labels), bool), np.zeros(len(objects.labels), bool)
    kinds: list[str] = []
    nearest: list[int] = []
    covered = inside(detected.boxes, objects.boxes) >= FOREGROUND
    for own, alike, within in zip(overlaps, same, covered):
        free = np.where(alike & ~found & ~objects.crowd, own, -1)
        if len(free) and free.max() >= FOREGROUND:
            place, kind = int(free.argmax()), RIGHT
            found[place] = True
        elif (within & alike & objects.crowd).any():
            place, kind = int((within & alike & objects.crowd).argmax()), IGNORED
        else:
            place, kind = _kind(np.where(objects.crowd, 0, own), alike)
        if kind in ("localization", "classification"):
            told[place] = True
        kinds.append(kind)
        nearest.append(place)
    return ImageErrors(kinds, nearest, found, ~found & ~told & ~objects.crowd)


def _kind(overlaps: np.ndarray, alike: np.ndarray) -> tuple[int, str]:
    """The object that a false alarm is about, and its kind. overlaps: with each object; alike: those of its class."""
    if not len(overlaps) or overlaps.max() <= BACKGROUND:
        return -1, "background"
    own, other = np.where(alike, overlaps, 0), np.where(alike, 0, overlaps)
    if BACKGROUND <= own.max() < FOREGROUND:
        return int(own.argmax()), "localization"
    if other.max() >= FOREGROUND:
        return int(other.argmax()), "classification"
    if own.max() >= FOREGROUND:
        return int(own.argmax()), "duplicate"
    return int(other.argmax()), "both"


def inside(boxes: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """(n, 4), (m, 4) -> (n, m): the share of each box that lies in a region."""
    own = areas(boxes)
    return intersections(boxes, regions) / np.where(own > 0, own, 1)[:, None]


def rows(images: Sequence[tuple[Objects, Detections, ImageErrors]], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for all classes, then for each: its objects, how many of them are found and missed, and its false alarms by
    kind.
    """
    objects, found, missed = (np.zeros(len(names), np.int64) for _ in range(3))
    wrong = {kind: np.zeros(len(names), np.int64) for kind in KINDS}
    for target, detected, errors in images:
        np.add.at(objects, target.labels[~target.crowd], 1)
        np.add.at(found, target.labels[errors.found], 1)
        np.add.at(missed, target.labels[errors.missed], 1)
        for label, kind in zip(detected.labels, errors.kinds):
            if kind in KINDS and label < len(names):
                wrong[kind][label] += 1
    counts = {"objects": objects, "found": found, "missed": missed, **wrong}
    yield {"class": "all", **{key: int(value.sum()) for key, value in counts.items()}}
    for number, name in enumerate(names):
        yield {"class": name, **{key: int(value[number]) for key, value in counts.items()}}
