"""What a segmentor says of images, and how it is written down."""

from __future__ import annotations

from typing import Any, Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from mindspore import Tensor
from PIL import Image

from mindvit.data.classes import numbered
from mindvit.runtime.files import on_one_line, printable
from mindvit.tasks.base import Asked, Formatter, RunContext
from mindvit.tasks.lines import csv_line, json_list
from mindvit.tasks.segmentation.inference import Pass, SegmentationInference, Size, label_map
from mindvit.tasks.segmentation.settings import sliding, test_scale

Maps = Iterable[tuple[str, np.ndarray]]  # images' paths and label maps
Shares = Iterator[tuple[str, list[tuple[str, float]]]]
COLUMNS = "image,class,share"


class Logits:
    """uint8 images (B, h, w, 3) -> logits (B, classes, h, w)."""

    def __init__(self, ctx: RunContext, net: Callable[[Tensor], Any]):
        self.test = test_scale(ctx.recipe, ctx.inputs)
        self.net, self.windows = net, SegmentationInference(net, sliding(ctx.recipe))

    def __call__(self, images: Tensor) -> Tensor:
        pixels = [self.test.normalized(image) for image in images.asnumpy()]
        if self.windows.sliding is None:
            return self.net(Tensor(np.stack(pixels)))
        return Tensor(np.stack([self.windows.logits(image) for image in pixels]))


class SegmentationPrediction:
    """The class of each pixel of an image."""

    def __init__(self, ctx: RunContext):
        self.ctx, self.test = ctx, test_scale(ctx.recipe, ctx.inputs)
        found = sliding(ctx.recipe)
        self.window = found.crop if found else None
        self.class_names = numbered(ctx.class_names, ctx.num_classes)

    def __str__(self) -> str:
        how = "whole images" if self.window is None else f"windows of {self.window[0]} x {self.window[1]} px"
        return f"{how}, {len(self.class_names)} classes"

    def transform(self, image: Image.Image) -> np.ndarray:
        """An RGB image, of the size that the network sees."""
        return self.test.resized(np.asarray(image), window=self.window)

    def cell(self, net: Callable[[Tensor], Any]) -> Logits:
        """uint8 images (B, h, w, 3) -> logits (B, classes, h, w)."""
        return Logits(self.ctx, net)

    def answer(self, row: np.ndarray, asked: Asked, size: Callable[[], Size]) -> np.ndarray:
        """The label map (H, W) int32, of the image's own size."""
        return label_map([Pass(row, False)], size())

    def formats(self, paths: Sequence[str]) -> Mapping[str, Formatter]:
        """A function for each format, from images' paths and label maps to lines: the classes' shares of the pixels."""
        return {
            "table": lambda found: self.as_table(found, paths),
            "csv": self.as_csv,
            "json": self.as_json,
        }

    def shares(self, found: Maps) -> Shares:
        """Of each image, the classes that are there, by name, the largest share first."""
        for path, labels in found:
            counts = np.bincount(labels.ravel(), minlength=len(self.class_names))
            order = [number for number in np.argsort(-counts, kind="stable") if counts[number]]
            yield path, [(printable(self.class_names[number]), counts[number] / labels.size) for number in order]

    def as_csv(self, found: Maps) -> Iterator[str]:
        """A line for each class of each image."""
        yield COLUMNS
        for path, shares in self.shares(found):
            for name, share in shares:
                yield csv_line((path, name, f"{share:.6f}"))

    def as_json(self, found: Maps) -> Iterator[str]:
        """A list with an object for each image, one a line."""
        return json_list(
            {"image": path, "classes": [{"name": name, "share": round(float(share), 6)} for name, share in shares]}
            for path, shares in self.shares(found)
        )

    def as_table(self, found: Maps, paths: Sequence[str]) -> Iterator[str]:
        """Aligned columns; an image's path stands beside its first class."""
        first = max(len(on_one_line(path)) for path in (*paths, "image"))
        second = max(len(on_one_line(name)) for name in (*self.class_names, "class"))
        yield f"{'image':{first}}  {'class':{second}}  share of the pixels"
        for path, shares in self.shares(found):
            for name, share in shares:
                yield f"{on_one_line(path):{first}}  {on_one_line(name):{second}}  {100 * share:9.2f} %"
                path = ""
