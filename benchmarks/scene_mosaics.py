"""Larger images with label maps, to try segmentors on: scenes of digits side by side.

python benchmarks/scene_mosaics.py DIR [--train 200] [--val 40]

Shorter sides are 512 px, longer ones 512 to 768, as most of ADE20K's are in tests. DIR is for dataset: segmentation.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from mindvit import errors
from mindvit.data.datasets.scenes import SceneMaps
from mindvit.data.label_maps import write_label_map
from mindvit.errors import UserError
from mindvit.recipe.commandline import Parser

TILE, SHORT, LONG = 128, 512, 768  # px


def tile(scenes: SceneMaps, rng: np.random.Generator) -> np.ndarray:
    """(TILE, TILE, 4): a part of a scene, its label map last."""
    sample = scenes[int(rng.integers(len(scenes)))]
    whole = np.dstack([np.asarray(sample.image), sample.target])
    top, left = (int(rng.integers(side - TILE + 1)) for side in whole.shape[:2])
    return whole[top : top + TILE, left : left + TILE]


def write_split(folder: Path, split: str, count: int) -> None:
    """`count` mosaics, half of them upright."""
    scenes, rng = SceneMaps(split), np.random.default_rng(len(split))
    for kind in ("images", "annotations"):
        (folder / kind / split).mkdir(parents=True)
    for number in range(count):
        long = int(rng.integers(SHORT, LONG + 1))
        height, width = (SHORT, long) if number % 2 else (long, SHORT)
        rows = [
            np.concatenate([tile(scenes, rng) for _ in range(-(-width // TILE))], 1) for _ in range(-(-height // TILE))
        ]
        whole = np.concatenate(rows)[:height, :width]
        Image.fromarray(np.ascontiguousarray(whole[..., :3])).save(folder / "images" / split / f"{number}.png")
        write_label_map(folder / "annotations" / split / f"{number}.png", whole[..., 3])
    (folder / "classes.txt").write_text("\n".join(scenes.class_names), encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    """Write DIR/images, DIR/annotations and DIR/classes.txt; UserError if DIR is there."""
    parser = Parser(prog="python benchmarks/scene_mosaics.py", description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--train", type=int, default=200, metavar="N")
    parser.add_argument("--val", type=int, default=40, metavar="N")
    given = parser.parse_args(arguments)
    if given.folder.exists():
        raise UserError(f"{given.folder} is there already: give a new folder")
    for split, count in (("train", given.train), ("val", given.val)):
        write_split(given.folder, split, count)


if __name__ == "__main__":
    errors.run(main)
