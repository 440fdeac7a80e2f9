"""What a network says of one image: the same JSON as `mindvit predict --format json`, but for masks, and pictures."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from dataclasses import dataclass, field
from typing import Any, Iterable, Mapping, Union

import numpy as np
from PIL import Image

from mindvit.data import label_maps
from mindvit.inference.predictor import Predictor
from mindvit.tasks.detection.prediction import Found
from mindvit.visualization import boxes
from mindvit.visualization.attention import FAMILIES, AttentionMap, ChannelMatrix
from mindvit.visualization.attention_sheet import overlay, remark
from mindvit.visualization.explain import explained

LONGEST = 1024  # px: side of a picture on the page
# pixels that a segmentor or a detector is given: their answers have numbers for each pixel of each class or object
MOST_SEEN = 2_000_000
SQUARE = 448  # px: side of a picture of attention


@dataclass(frozen=True)
class Picture:
    """An image with a heading and a remark for the page; colours: that classes have in it, as CSS writes them."""

    title: str
    remark: str
    image: Image.Image
    colours: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """With the image as a PNG in a data: address."""
        stream = io.BytesIO()
        self.image.save(stream, "PNG")
        encoded = base64.b64encode(stream.getvalue()).decode("ascii")
        src = f"data:image/png;base64,{encoded}"
        return {"title": self.title, "remark": self.remark, "colours": dict(self.colours), "src": src}


def seen_of(predictor: Predictor, image: Image.Image) -> Image.Image:
    """The image that the predictor is given: a smaller one if its answer would take too much memory."""
    pixels = image.width * image.height
    if predictor.info.task == "classification" or pixels <= MOST_SEEN:
        return image
    return smaller(image, int(max(image.size) * (MOST_SEEN / pixels) ** 0.5))


def as_json(predictor: Predictor, image: Image.Image, seen: Image.Image, answer: Any) -> dict[str, Any]:
    """An image's answer, as the predictor gives it for what it has seen of it, as what predict's JSON has for it, in
    the image's pixels, beside network and size.
    """
    if isinstance(answer, Found):
        answer = dataclasses.replace(answer, masks=None)  # which the page shows, and which are of what was seen
    if isinstance(answer, Found) and seen.size != image.size:
        factors = np.array([image.width / seen.width, image.height / seen.height] * 2, np.float32)
        answer = dataclasses.replace(answer, boxes=answer.boxes * factors)
    lines = predictor.inference.formats([""])["json"](iter([("", answer)]))
    found = json.loads("".join(lines))[0]
    del found["image"]
    return {"model": predictor.info.name, "task": predictor.info.task, "size": list(image.size), **found}


def pictures(predictor: Predictor, image: Image.Image, answer: Any) -> list[Picture]:
    """What the page shows beside the answer: attention, the label map over the image, or boxes and masks."""
    return DRAWN[predictor.info.task](predictor, image, answer)


def of_classes(predictor: Predictor, image: Image.Image, answer: Any) -> list[Picture]:
    """Where a classifier of a family with attention looked, on the image as it saw it."""
    if not isinstance(predictor.net, tuple(FAMILIES)):
        return []
    pixels = predictor.prepared(image)
    seen, tiles = Image.fromarray(pixels), explained(predictor, pixels)[1][0].tiles
    return [of_map(title, seen, tile) for title, tile in zip(("Where it looked", "What speaks for its answer"), tiles)]


def of_map(title: str, image: Image.Image, item: Union[AttentionMap, ChannelMatrix]) -> Picture:
    """A map over the image, large enough for a page."""
    assert isinstance(item, AttentionMap)  # which a sheet's first row has
    return Picture(title, f"{item.title}: {remark(item)}", overlay(image, item, SQUARE))


def of_labels(predictor: Predictor, image: Image.Image, answer: np.ndarray) -> list[Picture]:
    """A segmentor's classes as colours over the image."""
    shown = smaller(image)
    labels = np.asarray(Image.fromarray(answer).resize(shown.size, Image.Resampling.NEAREST))
    drawn = Image.fromarray(label_maps.overlaid(np.asarray(shown), labels))
    there = {int(number) for number in np.unique(labels)} - {0}
    colours = {predictor.class_names[number]: css(label_maps.palette()[number % 256]) for number in sorted(there)}
    ground = f"{predictor.class_names[0]}: the image's own colours"
    return [Picture("Classes over the image", ground, drawn, colours)]


def of_objects(predictor: Predictor, image: Image.Image, answer: Any) -> list[Picture]:
    """A detector's boxes and masks over the image."""
    texts = [f"{name} {score:.2f}" for name, score in zip(answer.names, answer.scores)]
    drawn = boxes.drawn_at(image, smaller_size(image), answer.boxes, answer.labels, texts, answer.masks)
    colours = {name: css(boxes.colour(int(label))) for name, label in zip(answer.names, answer.labels)}
    return [Picture("Objects", f"{len(texts)} found", drawn, colours)]


def css(colour: Iterable[int]) -> str:
    """Red, green, blue, 0..255, as CSS writes them."""
    return "#" + "".join(f"{int(value):02x}" for value in colour)


def smaller_size(image: Image.Image, longest: int = LONGEST) -> tuple[int, int]:
    """Width and height, of at most `longest` px each."""
    factor = min(1.0, longest / max(image.size))
    return max(1, round(image.width * factor)), max(1, round(image.height * factor))


def smaller(image: Image.Image, longest: int = LONGEST) -> Image.Image:
    """The image with sides of at most `longest` px."""
    size = smaller_size(image, longest)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


DRAWN = {"classification": of_classes, "segmentation": of_labels, "detection": of_objects}
