"""A folder of images with COCO annotations, as `dataset: coco` reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = [{"id": 7, "name": "red"}, {"id": 3, "name": "blue"}]
SIZES = ((48, 64), (64, 48), (64, 64), (40, 56))  # height, width


def make_coco_folder(root: Path, train: int = 8, val: int = 4) -> Path:
    """train/ and val/ with red and blue rectangles on noise, and annotations/train.json and val.json."""
    (root / "annotations").mkdir(parents=True)
    for split, numbers in (("train", range(train)), ("val", range(100, 100 + val))):
        (root / split).mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in numbers:
            rng = np.random.default_rng(number)
            height, width = SIZES[number % len(SIZES)]
            pixels = rng.integers(0, 90, (height, width, 3), np.uint8)
            for category in CATEGORIES[: 1 + number % 2]:
                side = int(rng.integers(16, 33))
                left, top = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
                pixels[top : top + side, left : left + side, 0 if category["id"] == 7 else 2] = 250
                right, bottom = left + side, top + side
                item = {"id": len(annotations), "image_id": number, "category_id": category["id"], "iscrowd": 0}
                shape = [[left, top, right, top, right, bottom, left, bottom]]
                annotations.append({**item, "bbox": [left, top, side, side], "area": side**2, "segmentation": shape})
            name = f"{number}.png"
            Image.fromarray(pixels).save(root / split / name)
            images.append({"id": number, "file_name": name, "height": height, "width": width})
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return root
