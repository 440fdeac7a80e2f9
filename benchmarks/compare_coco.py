"""What COCO's numbers cost, by pycocotools and by faster-coco-eval: compare_coco.py [--images 5000] [--found 100].

Made-up objects and detections: as many objects an image as COCO's validation has (7.3), of 80 classes, half of them
found with high scores, the rest of an image's detections anywhere with low ones. Run by a Python that has either
library.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from typing import Any

import numpy as np

WIDTH, HEIGHT, CLASSES, OBJECTS = 640, 480, 80, 7.3


def made_up(images: int, found: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations and detections with boxes, and polygons or run lengths of ellipses."""
    from pycocotools import mask as codec

    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    truth: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []

    def item(image: int, box: np.ndarray, category: int) -> dict[str, Any]:
        x, y, wide, high = (float(value) for value in box)
        ring = np.stack([x + wide * (0.5 + 0.5 * np.cos(angle)), y + high * (0.5 + 0.5 * np.sin(angle))], 1)
        return {"image_id": image, "category_id": category, "bbox": [x, y, wide, high], "ring": ring.ravel().tolist()}

    for image in range(1, images + 1):
        count = rng.poisson(OBJECTS)
        sides = np.exp(rng.uniform(np.log(12), np.log(300), (found + count, 2)))
        corners = rng.uniform(0, 1, (found + count, 2)) * np.maximum([WIDTH, HEIGHT] - sides, 1)
        boxes, classes = np.concatenate([corners, sides], 1), rng.integers(1, CLASSES + 1, found + count)
        for number in range(count):
            own = item(image, boxes[number], int(classes[number]))
            area, ring = float(np.pi / 4 * sides[number].prod()), own.pop("ring")
            truth.append({**own, "id": len(truth) + 1, "iscrowd": 0, "area": area, "segmentation": [ring]})
        for number in range(found):
            box, category, score = boxes[count + number], int(classes[count + number]), rng.beta(1, 8)
            if number < count // 2:
                box, category = boxes[number] + rng.normal(0, 3, 4).clip(-6, 6), int(classes[number])
                score = rng.beta(4, 2)
            own = item(image, box, category)
            code = codec.merge(codec.frPyObjects([own.pop("ring")], HEIGHT, WIDTH))
            told.append({**own, "score": float(score), "segmentation": code})
    entries = [{"id": number, "width": WIDTH, "height": HEIGHT} for number in range(1, images + 1)]
    categories = [{"id": number, "name": str(number)} for number in range(1, CLASSES + 1)]
    return {"images": entries, "annotations": truth, "categories": categories}, told


def evaluate(library: str, truth: dict[str, Any], told: list[dict[str, Any]], kind: str) -> tuple[list[float], float]:
    """The twelve numbers and seconds, reading in counted."""
    if library == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval as Evaluation
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as Evaluation
    rows = [{key: value for key, value in row.items() if kind == "bbox" or key != "bbox"} for row in told]
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        index = COCO()
        index.dataset = truth
        index.createIndex()
        evaluation = Evaluation(index, index.loadRes(rows), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats[:12]], time.perf_counter() - start


def main() -> None:
    """Print seconds of each library that is there, and how far their numbers are apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--found", type=int, default=100)
    given = parser.parse_args()
    truth, told = made_up(given.images, given.found)
    for kind in ("bbox", "segm"):
        stats = {}
        for library in ("pycocotools", "faster-coco-eval"):
            try:
                stats[library], seconds = evaluate(library, truth, told, kind)
            except ImportError:
                print(f"{kind}: {library} is not there")
                continue
            print(f"{kind}: {library} {seconds:.1f} s, AP {stats[library][0]:.4f}", flush=True)
        if len(stats) == 2:
            print(
                f"{kind}: largest difference {max(abs(one - other) for one, other in zip(*stats.values())):.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
