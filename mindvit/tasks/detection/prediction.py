"""What a detector says of images, and how it is written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Iterable, Iterator, Mapping, Optional, Sequence

import numpy as np
from mindspore import Tensor
from PIL import Image

from mindvit.data.classes import numbered
from mindvit.data.objects import Objects
from mindvit.runtime.files import on_one_line, printable
from mindvit.tasks.base import Asked, Formatter, RunContext
from mindvit.tasks.detection.inference import Detections, TestScale, detections
from mindvit.tasks.detection.settings import test_scale
from mindvit.tasks.lines import csv_line, json_list

Answers = Iterable[tuple[str, "Found"]]  # images' paths and what is in them
COLUMNS = ("image", "class", "score", "left", "top", "right", "bottom")


@dataclass(frozen=True)
class Found:
    """Objects in an image, the surest first.

    boxes: (n, 4) float32, left, top, right, bottom in the image's own pixels; scores: (n,) float32, 0..1; labels: (n,)
    int32; names: of each object's class; masks: (n, H, W) bool, or None with a detector that has none.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    masks: Optional[np.ndarray]


def sure(
    detected: Detections, size: tuple[int, int], names: Sequence[str], score_thr: float = Asked.score_thr
) -> Found:
    """The objects in an image of this size whose score is at least score_thr; names: of all classes."""
    told = detected.kept(detected.scores >= score_thr)
    labels, masks = told.labels.astype(np.int32), None
    if told.shares is not None:
        masks = np.array([told.mask(number, size) for number in range(len(labels))], bool).reshape(-1, *size)
    return Found(told.boxes, told.scores, labels, tuple(names[label] for label in labels), masks)


def true(objects: Objects, names: Sequence[str]) -> Found:
    """The objects that are there, crowds apart, as if they were found for certain."""
    single = objects.kept(~objects.crowd)
    labels = single.labels.astype(np.int32)
    named = tuple(names[label] for label in labels)
    return Found(single.boxes, np.ones(len(labels), np.float32), labels, named, single.masks)


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W) bool as COCO's uncompressed run lengths: pixels without and with the object in turn, column by
    column.
    """
    flat = np.concatenate([[False], mask.ravel(order="F")])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff([0, *edges, mask.size])
    return {"size": list(mask.shape), "counts": [int(count) for count in counts]}


class Outputs:
    """uint8 images (B, h, w, 3) -> a row for each, (B, values) float32: its height and width, then all that the
    network says of it.
    """

    def __init__(self, test: TestScale, net: Callable[..., Any]):
        self.test, self.net = test, net

    def __call__(self, images: Tensor) -> Tensor:
        pixels = images.asnumpy()
        x = np.stack([self.test.normalized(image) for image in pixels])
        sizes = np.tile(np.array(pixels.shape[1:3], np.float32), (len(pixels), 1))
        found = [item.asnumpy() for item in self.net(Tensor(x), Tensor(sizes))]
        return Tensor(np.concatenate([sizes, *(item.reshape(len(pixels), -1) for item in found)], 1).astype(np.float32))


class DetectionPrediction:
    """Objects of an image: boxes, classes and masks."""

    def __init__(self, ctx: RunContext):
        self.test = test_scale(ctx.recipe, ctx.inputs)
        self.class_names = numbered(ctx.class_names, ctx.num_classes)

    def __str__(self) -> str:
        return f"objects of {len(self.class_names)} classes"

    def transform(self, image: Image.Image) -> np.ndarray:
        """An RGB image, of the size that the network sees."""
        return self.test.resized(np.asarray(image))

    def cell(self, net: Callable[..., Any]) -> Outputs:
        """uint8 images (B, h, w, 3) -> (B, values)."""
        return Outputs(self.test, net)

    def answer(self, row: np.ndarray, asked: Asked, size: Callable[[], tuple[int, int]]) -> Found:
        """The objects whose score is at least `asked.score_thr`."""
        own, count = size(), 100
        seen, values = row[:2], row[2:]
        parts = [values[: 4 * count].reshape(count, 4), values[4 * count : 5 * count], values[5 * count : 6 * count]]
        if len(values) > 6 * count:
            parts.append(values[6 * count :].reshape(count, 28, 28))
        found = detections(parts, seen, own)
        return sure(found, own, self.class_names, asked.score_thr)

    def formats(self, paths: Sequence[str]) -> Mapping[str, Formatter]:
        """A function for each format, from images' paths and their objects to lines."""
        return {"table": lambda found: self.as_table(found, paths), "csv": self.as_csv, "json": self.as_json}

    def rows(self, found: Answers) -> Iterator[tuple[str, str, float, list[float]]]:
        """Path, class, score and box of each object."""
        for path, objects in found:
            for name, score, box in zip(objects.names, objects.scores, objects.boxes):
                yield path, printable(name), float(score), [round(float(value), 2) for value in box]

    def as_csv(self, found: Answers) -> Iterator[str]:
        """A line for each object."""
        yield ",".join(COLUMNS)
        for path, name, score, box in self.rows(found):
            yield csv_line((path, name, f"{score:.6f}", *box))

    def as_json(self, found: Answers) -> Iterator[str]:
        """A list with an object for each image, one a line; masks as COCO's run lengths."""
        return json_list({"image": path, "objects": self.objects(path, objects)} for path, objects in found)

    def objects(self, path: str, found: Found) -> list[dict[str, Any]]:
        """An image's objects, fit for JSON."""
        items: list[dict[str, Any]] = [
            {"name": name, "score": round(score, 6), "box": box} for _, name, score, box in self.rows([(path, found)])
        ]
        for item, mask in zip(items, () if found.masks is None else found.masks):
            item["mask"] = run_lengths(mask)
        return items

    def as_table(self, found: Answers, paths: Sequence[str]) -> Iterator[str]:
        """Aligned columns."""
        first = max(len(on_one_line(path)) for path in (*paths, "image"))
        second = max(len(on_one_line(name)) for name in (*self.class_names, "class"))
        yield f"{'image':{first}}  {'class':{second}}   score  left, top, right, bottom"
        for path, name, score, box in self.rows(found):
            corners = ", ".join(f"{value:.0f}" for value in box)
            yield f"{on_one_line(path):{first}}  {on_one_line(name):{second}}  {score:6.3f}  {corners}"
