"""Detections collected over a data set, and what a predictor says, without a network."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from coco_files import make_coco_folder
from mindspore import Tensor
from pycocotools import mask as codec

from mindvit.data.datasets.coco import AnnotatedDataset, read_annotations
from mindvit.errors import UserError
from mindvit.runtime import distributed
from mindvit.tasks.base import Asked
from mindvit.tasks.detection import evaluator as module
from mindvit.tasks.detection import prediction
from mindvit.tasks.detection.evaluator import DetectionEvaluator
from mindvit.tasks.detection.inference import DetectionInference, Detections, TestScale, detections, iou, merged
from mindvit.tasks.detection.prediction import run_lengths


@pytest.fixture
def dataset(tmp_path: Path) -> AnnotatedDataset:
    root = make_coco_folder(tmp_path / "coco", train=1)
    return AnnotatedDataset(read_annotations(root / "annotations" / "val.json"), root / "val", False, True)


def collector(dataset: AnnotatedDataset, monkeypatch: pytest.MonkeyPatch, file: Any = None) -> DetectionEvaluator:
    """An evaluator of one rank, of two classes with masks."""
    monkeypatch.setattr(module, "has_masks", lambda recipe: True)
    device = SimpleNamespace(ranks=1, rank=0, is_main=True)
    ctx: Any = SimpleNamespace(recipe=None, device=device, workers=1, num_classes=2)
    return DetectionEvaluator(ctx, dataset, file)


def all_objects(dataset: AnnotatedDataset, index: int) -> Detections:
    """What is to be found in an image."""
    target = dataset.target(index)
    count = len(target.labels)
    return Detections(
        target.boxes, np.full(count, 0.9, np.float32), target.labels, np.ones((count, 28, 28), np.float32)
    )


def test_all_that_is_there(dataset: AnnotatedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = collector(dataset, monkeypatch, str(tmp_path / "out" / "found.json"))
    for index, batch in enumerate(found.batches()):
        found.update(batch, all_objects(dataset, index))
    score = found.compute()
    found.save_predictions()
    assert score.count == len(dataset) == found.steps
    assert score.primary == pytest.approx(100)
    assert score.metrics()["mask AP"] == pytest.approx(100)
    written = json.loads((tmp_path / "out" / "found.json").read_text())
    assert len(written) == sum(len(dataset.target(index).labels) for index in range(len(dataset)))
    keys = ("image_id", "category_id", "bbox")
    whole = json.loads(dataset.file.read_text())["annotations"]
    assert sorted([item[key] for key in keys] for item in written) == sorted(
        [item[key] for key in keys] for item in whole
    )
    assert len(found.examples) == len(dataset)
    for index, example in enumerate(found.examples):
        single = ~dataset.target(index).crowd
        assert np.array_equal(example.truth.boxes, dataset.target(index).boxes[single])
        assert len(example.found.names) == len(single)
        assert example.found.masks.shape[1:] == example.pixels.shape[:2]


def test_nothing_is_found(dataset: AnnotatedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    found = collector(dataset, monkeypatch)
    for batch in found.batches():
        none = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32)
        found.update(batch, Detections(*none, np.zeros((0, 28, 28), np.float32)))
    assert found.compute().primary == 0


def test_predictions_that_cannot_be_written(dataset: AnnotatedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="it is a folder; give the name of a JSON file"):
        collector(dataset, monkeypatch, str(dataset.folder))
    with pytest.raises(UserError, match="/dev/null: it is a device; give the name of a JSON file"):
        collector(dataset, monkeypatch, "/dev/null")


def test_boxes_in_the_images_own_pixels() -> None:
    outputs = [np.array([[10.0, 20, 30, 40], [0, 0, 50, 60], [0, 0, 0, 0]]), np.array([0.9, 0.5, 0]), np.zeros(3)]
    found = detections(outputs, np.array([60, 50]), (120, 150))
    assert found.boxes.tolist() == [[30, 40, 90, 80], [0, 0, 150, 120]]
    assert found.shares is None


def found(*items: tuple[list[float], float, int], shares: Any = None) -> Detections:
    boxes, scores, labels = zip(*items)
    return Detections(np.array(boxes, np.float32), np.array(scores, np.float32), np.array(labels, np.int32), shares)


def test_several_passes_as_one() -> None:
    """The surest of a class's boxes that overlap stays, with its own mask; other classes' stay too."""
    shares = np.arange(2 * 28 * 28, dtype=np.float32).reshape(2, 28, 28)
    one = found(([0, 0, 10, 10], 0.9, 1), ([30, 30, 40, 40], 0.3, 0), shares=shares)
    other = found(([0, 0, 10, 9], 0.95, 1), ([0, 0, 10, 10], 0.5, 0), shares=shares + 5000)
    result = merged([one, other])
    assert result.scores.tolist() == pytest.approx([0.95, 0.5, 0.3])
    assert result.labels.tolist() == [1, 0, 0]
    assert result.shares is not None and result.shares[:, 0, 0].tolist() == [5000, 5784, 784]
    assert merged([one, other], most=1).scores.tolist() == pytest.approx([0.95])
    assert iou(one.boxes, other.boxes)[0].tolist() == pytest.approx([0.9, 1])


def test_mirrored_scales_and_the_least_score() -> None:
    """A network that finds the image's left half: once mirrored, it is the right half."""
    seen: list[tuple[int, ...]] = []

    def net(images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        seen.append(images.shape[2:])
        height, width = sizes.asnumpy()[0]
        brighter = images.asnumpy()[0, 0, : int(height), : int(width)]
        score = 0.9 if brighter[:, 0].mean() > brighter[:, -1].mean() else 0.04
        boxes = np.array([[[0, 0, width / 2, height]]], np.float32)
        shares = np.zeros((1, 1, 28, 28), np.float32)
        shares[..., :14] = 1
        return tuple(map(Tensor, (boxes, np.array([[score]], np.float32), np.zeros((1, 1), np.int32), shares)))

    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 30:] = 200  # only mirrored it is bright at the left
    test = TestScale(None, 32, (0, 0, 0), (1, 1, 1), (0.5, 1.0), True, 0.05)
    result = DetectionInference(net, test)(Tensor(image))
    assert seen == [(32, 32)] * 2 + [(64, 64)] * 2
    assert result.boxes.tolist() == [[30, 0, 60, 40]]
    assert result.mask(0, (40, 60))[:, 45:].all() and not result.mask(0, (40, 60))[:, :45].any()


def test_run_lengths_are_cocos() -> None:
    mask = np.zeros((5, 7), bool)
    mask[0, 0] = mask[1:4, 2] = mask[4, 6] = True
    code = codec.frPyObjects(run_lengths(mask), *mask.shape)
    assert np.array_equal(codec.decode(code).astype(bool), mask)
    assert run_lengths(mask[:, 1:2]) == {"size": [5, 1], "counts": [5]}


def test_answers_have_the_least_score_that_is_asked_for() -> None:
    ctx: Any = SimpleNamespace(class_names=("cat",), num_classes=2, recipe=None, inputs=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction, "test_scale", lambda *others: None)
        answers = prediction.DetectionPrediction(ctx)
    scores = np.zeros(100, np.float32)
    scores[:2] = 0.9, 0.2
    boxes = np.tile(np.array([10, 0, 20, 10], np.float32), (100, 1))
    row = np.concatenate([[20, 40], boxes.ravel(), scores, np.ones(100), np.ones(100 * 28 * 28)]).astype(np.float32)
    found = answers.answer(row, Asked(), lambda: (40, 80))
    assert found.names == ("1",) and found.boxes.tolist() == [[20, 0, 40, 20]]
    assert found.masks is not None and found.masks.shape == (1, 40, 80) and found.masks.sum() == 400
    assert len(answers.answer(row, Asked(score_thr=0.1), lambda: (40, 80)).scores) == 2
    (item,) = json.loads("".join(answers.as_json([("a.png", found)])))
    assert item["objects"][0]["mask"]["counts"][:3] == [20 * 40, 20, 20]
    assert list(answers.as_csv([("a.png", found)]))[1] == "a.png,1,0.900000,20.0,0.0,40.0,20.0"


def test_bytes_of_two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, barrier = [b"one" * 5, b"longer than the other" * 3], threading.Barrier(2, timeout=30)
    sent: dict[int, np.ndarray] = {}
    monkeypatch.setattr(distributed, "AT_ONCE", 16)

    def total(values: Any, ranks: int) -> np.ndarray:
        sent[threading.get_ident()] = np.asarray(values, np.float32)
        barrier.wait()
        result = np.sum(list(sent.values()), 0).astype(np.float64)
        barrier.wait()
        return result

    monkeypatch.setattr(distributed, "total", total)
    found: dict[int, list[bytes]] = {}

    def gather(rank: int) -> None:
        found[rank] = distributed.gather(parts[rank], 2, rank)

    threads = [threading.Thread(target=gather, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == {0: parts, 1: parts}
