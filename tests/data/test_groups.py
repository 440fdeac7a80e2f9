"""Images in groups whose batches have shapes of their own: canvases, orders, batches of threads and of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import make_coco_folder

from mindvit.data.arrays import ArraySpec
from mindvit.data.datasets.coco import AnnotatedDataset, read_annotations
from mindvit.data.loader import steps_per_epoch, train_batches
from mindvit.data.samplers import Shard, epoch_images, train_order
from mindvit.data.transforms.detection import DetectionTransform, ObjectRow, best_canvas
from mindvit.data.workers import Processes
from mindvit.recipe.options import DataOptions

CANVASES = ((64, 96), (96, 64))
GROUPS = np.array([0, 1, 0, 0, 1, 0, 0], np.int32)
KEYS: dict[str, Any] = {"seed": 1, "shuffle": True, "repeats": 0, "groups": GROUPS}


@pytest.mark.parametrize(
    ("size", "number"), [((800, 1067), 0), ((800, 1200), 1), ((1067, 800), 2), ((1333, 500), 3), ((800, 800), 0)]
)
def test_the_canvas_that_fits_best(size: tuple[int, int], number: int) -> None:
    assert best_canvas(size, [(800, 1088), (800, 1344), (1088, 800), (1344, 800)]) == number


def test_an_image_too_large_for_all_canvases() -> None:
    transform = DetectionTransform([(1333, 800)], [(320, 512), (512, 320)], 1)
    assert transform.group((480, 640)) == 0
    assert transform.group((640, 480)) == 1
    assert transform.size((640, 480), (1333, 800), (512, 320)) == (427, 320)


def test_batches_are_of_one_group() -> None:
    orders = [
        np.stack([train_order(7, ranks=2, rank=rank, batch_size=1, epoch=epoch, **KEYS) for rank in range(2)], 1)
        for epoch in range(8)
    ]
    for order in orders:
        assert (GROUPS[order[:, 0]] == GROUPS[order[:, 1]]).all()
        assert sorted(np.unique(order)) == list(range(7))
        assert len(order) == 4 == epoch_images(7, GROUPS, 2) // 2  # one of five comes twice
    assert len({order.tobytes() for order in orders}) > 6
    assert len({GROUPS[order[:, 0]].tobytes() for order in orders}) > 2


def test_one_rank_sees_the_batches_of_two() -> None:
    alone = train_order(7, ranks=1, rank=0, batch_size=2, epoch=0, **KEYS)
    both = [train_order(7, ranks=2, rank=rank, batch_size=1, epoch=0, **KEYS) for rank in range(2)]
    assert np.array_equal(alone, np.stack(both, 1).ravel())


@pytest.fixture(name="source")
def _source(tmp_path: Path) -> AnnotatedDataset:
    """8 images, of which two are upright."""
    root = make_coco_folder(tmp_path / "coco")
    found = AnnotatedDataset(read_annotations(root / "annotations" / "train.json"), root / "train", True, True)
    found.groups = np.array([int(height > width) for height, width in map(found.image_size, range(8))], np.int32)
    return found


def batches(source: AnnotatedDataset, workers: int) -> list[Any]:
    transform = ObjectRow(DetectionTransform([(85, 64)], CANVASES, 3, 0.5))
    spec = (
        ArraySpec("images", (2, 64, 96, 3), "uint8", others=((2, 96, 64, 3),)),
        ArraySpec("sizes", (2, 2), "int32"),
        ArraySpec("boxes", (2, 3, 4), "float32"),
        ArraySpec("labels", (2, 3), "int32"),
        ArraySpec("masks", (2, 3, 64, 12), "uint8", others=((2, 3, 96, 8),)),
    )
    data = DataOptions(batch_size=2, bad_image="skip")
    return list(train_batches(source, transform, spec, data, epoch=0, seed=2, shard=Shard(), workers=workers))


def test_batches_of_threads_and_of_processes(source: AnnotatedDataset) -> None:
    found = batches(source, 2)
    assert len(found) == 4 == steps_per_epoch(source, DataOptions(batch_size=2), 1)
    assert sorted(batch.images.shape[1:3] for batch in found) == [CANVASES[0]] * 3 + [CANVASES[1]]
    assert all(batch.masks.shape[2:] == (batch.images.shape[1], batch.images.shape[2] // 8) for batch in found)
    pool = Processes(1)
    made = batches(source, pool)
    pool.close()
    assert all(np.array_equal(*pair) for one, other in zip(found, made) for pair in zip(one, other))


def test_another_image_of_the_group_takes_a_bad_one_s_place(source: AnnotatedDataset) -> None:
    assert source.groups is not None
    bad = int(np.flatnonzero(source.groups)[0])
    Path(source.name(bad)).write_bytes(b"")
    assert [batch.images.shape[1] for batch in batches(source, 1)].count(96) == 1
    assert len(source.bad) == 1
