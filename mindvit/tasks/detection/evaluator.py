"""COCO's numbers over every validation image, each at its own size and counted once."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any, Optional, Sequence

from mindvit.data.classes import numbered
from mindvit.data.datasets.base import Dataset, Sample
from mindvit.data.objects import Numbered, Objects
from mindvit.errors import UserError
from mindvit.runtime import distributed, files
from mindvit.tasks.base import RunContext
from mindvit.tasks.detection.inference import Detections
from mindvit.tasks.detection.metrics import DetectionScore, encoded, measure, pycocotools
from mindvit.tasks.detection.prediction import sure, true
from mindvit.tasks.detection.settings import has_masks
from mindvit.tasks.one_by_one import ImageEvaluator

Record = dict[str, Any]


def truth_of(objects: Objects, image: int, masks: bool) -> list[Record]:
    """COCO's annotations of an image's objects, the classes numbered from 1 on."""
    found = []
    for number, (box, label, crowd) in enumerate(zip(objects.boxes, objects.labels, objects.crowd)):
        left, top, right, bottom = (float(value) for value in box)
        item: Record = {"image_id": image, "category_id": int(label) + 1, "iscrowd": int(crowd)}
        item |= {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
        if masks and objects.masks is not None:
            item |= {"segmentation": encoded(objects.masks[number]), "area": float(objects.masks[number].sum())}
        if objects.areas is not None:
            item["area"] = float(objects.areas[number])
        found.append(item)
    return found


def found_in(detected: Detections, image: int, size: tuple[int, int]) -> list[Record]:
    """Detections in COCO's form."""
    found = []
    for number, (box, score, label) in enumerate(zip(detected.boxes, detected.scores, detected.labels)):
        left, top, right, bottom = (float(value) for value in box)
        item: Record = {"image_id": image, "category_id": int(label) + 1, "score": float(score)}
        item["bbox"] = [round(value, 3) for value in (left, top, right - left, bottom - top)]
        if detected.shares is not None:
            item["segmentation"] = encoded(detected.mask(number, size))
        found.append(item)
    return found


def image_of(record: Record) -> int:
    """The number of an image or of an annotation's image."""
    return int(record["image_id"] if "image_id" in record else record["id"])


def named(found: Sequence[Record], dataset: Dataset) -> list[Record]:
    """Detections under the ids of the data set's annotations; images and classes of one without any keep the numbers
    here. Those of classes that the data don't have are left out.
    """
    if not isinstance(dataset, Numbered):
        return list(found)
    images, classes = dataset.ids()
    known = (item for item in found if item["category_id"] <= len(classes))
    return [
        {**item, "image_id": images[item["image_id"]], "category_id": classes[item["category_id"] - 1]}
        for item in known
    ]


class DetectionEvaluator(ImageEvaluator):
    """Collects detections and measures them. A batch is one image, (H, W, 3) uint8; threads draw its masks while the
    network looks at the next. file: for all detections, as COCO JSON.
    """

    def __init__(self, ctx: RunContext, dataset: Dataset, file: Optional[str] = None):
        pycocotools()  # what is missing is better known before an hour of work
        super().__init__(ctx, dataset)
        self.class_names = numbered(dataset.class_names, ctx.num_classes)
        self.file = file
        self.masks = has_masks(ctx.recipe)
        if file and Path(file).exists() and not Path(file).is_file():
            what = "folder" if Path(file).is_dir() else "device"
            raise UserError(f"predictions can't be written to {file}: it is a {what}; give the name of a JSON file")
        self.images: list[Record] = []
        self.truth: list[Record] = []
        self.found: list[Record] = []

    def take(self, index: int, sample: Sample, outputs: Detections) -> None:
        """outputs: DetectionInference's for the image."""
        height, width = sample.image.height, sample.image.width
        truth = truth_of(sample.target, index, self.masks)
        found = found_in(outputs, index, (height, width))
        names = self.class_names
        self.keep(index, sample, lambda: (true(sample.target, names), sure(outputs, (height, width), names)))
        with self.lock:
            self.images.append({"id": index, "height": height, "width": width})
            self.truth += truth
            self.found += found

    def compute(self) -> DetectionScore:
        """Over all ranks."""
        self.finish()
        own = zlib.compress(json.dumps([self.images, self.truth, self.found]).encode())
        ranks, rank = self.ctx.device.ranks, self.ctx.device.rank
        parts = [json.loads(zlib.decompress(part)) for part in distributed.gather(own, ranks, rank)]
        images, truth, self.found = (
            sorted((item for part in parts for item in part[kind]), key=image_of) for kind in range(3)
        )
        categories = [{"id": number, "name": name} for number, name in enumerate(self.class_names, 1)]
        content = {"images": images, "annotations": truth, "categories": categories}
        boxes = measure(content, self.found, "bbox")
        # areas of masks, not of their boxes, tell small from large
        shapes = [{key: value for key, value in item.items() if key != "bbox"} for item in self.found]
        return DetectionScore(boxes, measure(content, shapes, "segm") if self.masks else None, len(images))

    def save_predictions(self) -> None:
        """All detections as COCO's results file, with the data set's ids. Called on every rank."""
        if not self.file or not self.ctx.device.is_main:
            return
        try:
            files.write_text(Path(self.file), json.dumps(named(self.found, self.dataset)))
        except OSError as error:
            raise UserError(f"predictions can't be written to {self.file}: {error.strerror}") from None
