"""Images of noise annotated as COCO's, to try a detector's recipe on: made_up_coco.py DIR [--images 16]
[--sizes 480x640 ...].
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES, OBJECTS = 80, 7


def write_split(folder: Path, split: str, count: int, sizes: list[tuple[int, int]]) -> None:
    """`count` images of these (height, width) in turn, each with OBJECTS ellipses, and their annotations."""
    rng = np.random.default_rng(len(split))
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    (folder / split).mkdir(parents=True)
    for number in range(1, count + 1):
        height, width = sizes[number % len(sizes)]
        pixels = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(folder / split / f"{number}.jpg")
        images.append({"id": number, "file_name": f"{number}.jpg", "height": height, "width": width})
        for wide, high in np.exp(rng.uniform(np.log(16), np.log(min(height, width) / 2), (OBJECTS, 2))).tolist():
            left, top = float(rng.uniform(0, width - wide)), float(rng.uniform(0, height - high))
            ring = np.stack([left + wide * (1 + np.cos(angle)) / 2, top + high * (1 + np.sin(angle)) / 2], 1)
            item = {"id": len(annotations) + 1, "image_id": number, "category_id": int(rng.integers(CLASSES)) + 1}
            shape = {"bbox": [left, top, wide, high], "area": np.pi / 4 * wide * high, "iscrowd": 0}
            annotations.append({**item, **shape, "segmentation": [ring.ravel().tolist()]})
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")


def main() -> None:
    """Write DIR/train, DIR/val and DIR/annotations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--sizes", nargs="+", default=["480x640"])
    given = parser.parse_args()
    sizes = [(int(height), int(width)) for height, width in (size.split("x") for size in given.sizes)]
    write_split(given.folder, "train", given.images, sizes)
    write_split(given.folder, "val", 2, sizes)


if __name__ == "__main__":
    main()
