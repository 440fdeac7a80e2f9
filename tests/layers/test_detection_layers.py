"""What detectors are made of, beside what mmdetection's and torchvision's functions gave: boxes, anchors, suppression,
RoIAlign.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Iterator

import numpy as np
import pytest
from dense_goldens import sampled
from golden import FOLDER, fill
from mindspore import Tensor, nn, ops

from mindvit.layers import boxes as box_ops
from mindvit.layers.anchors import AnchorGrid
from mindvit.layers.conv import FeatureLayout
from mindvit.layers.nms import NMS
from mindvit.layers.roi_align import RoIAlign, box_levels
from mindvit.runtime import platform

GOLDEN, HEADS = np.load(FOLDER / "detection_ops.npz"), np.load(FOLDER / "detection_heads.npz")
GRIDS = {
    "retinanet": AnchorGrid((8, 16, 32, 64, 128), [4 * 2 ** (i / 3) for i in range(3)], (0.5, 1.0, 2.0)),
    "rpn": AnchorGrid((4, 8, 16, 32, 64), (8,), (0.5, 1.0, 2.0)),
}


@pytest.fixture(params=["kernels", "plain"])
def machine(request: Any) -> Iterator[str]:
    """Cells are built with our kernels, or with the framework's operators alone."""
    with platform.use(platform.current() if request.param == "kernels" else platform.PORTABLE):
        yield request.param


def tensor(name: str) -> Tensor:
    return Tensor(GOLDEN[name].astype(np.float32))


def close(found: Tensor, expected: np.ndarray, tolerance: float = 1e-5) -> bool:
    """Within a tolerance, relative to values above 1."""
    return bool(
        np.allclose(found.asnumpy(), expected, rtol=tolerance, atol=max(tolerance, 1e-6 * np.abs(expected).max()))
    )


class Aligned(nn.Cell):
    """RoIAlign of images' maps, as images."""

    def __init__(self, size: int, ratio: int):
        super().__init__()
        self.layout, self.align = FeatureLayout(), RoIAlign(size, [8, 8], ratio)

    def construct(self, x: Tensor, boxes: Tensor, levels: Tensor) -> Tensor:
        maps = self.layout.from_images(x)
        return self.layout.to_images(self.align((maps * 0, maps), boxes, levels))


@pytest.mark.parametrize(("size", "ratio"), [(7, 0), (7, 2), (14, 0), (14, 2)])
def test_roi_align(size: int, ratio: int, machine: str) -> None:
    boxes, key = GOLDEN["roi/boxes"], f"roi/{size}_{ratio}"
    order = [np.flatnonzero(boxes[:, 0] == image) for image in range(3)]
    most = max(len(places) for places in order)
    batch, levels = np.zeros((3, most, 4), np.float32), np.zeros((3, most), np.float32)
    upstream = fill.noise(f"ops/roi/grad/{size}", (18, 4, size, size))
    weights = np.ones((3, most, 4, size, size), np.float32)
    for image, places in enumerate(order):
        batch[image, : len(places)] = boxes[places, 1:]
        levels[image, : len(places)] = 1  # those of level 0 are padding
        weights[image, : len(places)] = upstream[places]
    cell = Aligned(size, ratio)
    features = Tensor(fill.noise("ops/roi/feat", (3, 4, 25, 38)))
    inputs = Tensor(batch), Tensor(levels)

    def loss(x: Tensor) -> tuple[Tensor, Tensor]:
        found = cell(x, inputs[0], inputs[1])
        return (found * Tensor(weights.reshape(found.shape))).sum(), found

    (_, found), gradient = ops.value_and_grad(loss, has_aux=True)(features)
    flat = found.asnumpy().reshape(3, most, 4, size, size)
    ours = np.zeros((18, 4, size, size), np.float32)
    for image, places in enumerate(order):
        ours[places] = flat[image, : len(places)]
    if size == 7:
        assert np.abs(ours - GOLDEN[f"{key}/out"]).max() < 2e-5
    else:
        assert sampled(ours, GOLDEN, f"{key}/out") < 2e-5
    assert np.allclose(np.sqrt((ours.astype(np.float64) ** 2).sum((1, 2, 3))), GOLDEN[f"{key}/out_l2"], atol=1e-4)
    assert sampled(gradient.asnumpy(), GOLDEN, f"{key}/grad") < 2e-5
    norms = np.sqrt((gradient.asnumpy().astype(np.float64) ** 2).sum((2, 3)))
    assert np.allclose(norms, GOLDEN[f"{key}/grad_l2"], rtol=1e-5)


def kept(boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray, threshold: float, limit: int) -> np.ndarray:
    """Places of the boxes that are kept, the best first, of equal ones the first first."""
    order = np.argsort(-scores, kind="stable")
    cell = NMS(threshold, limit)
    places, found = cell(Tensor(boxes[None, order]), Tensor(groups[None, order].astype(np.float32)))
    return order[places.asnumpy()[0][found.asnumpy()[0] > 0]]


def test_the_frameworks_suppression() -> None:
    with platform.use(replace(platform.PORTABLE, nms_operator=True)):
        test_nms(0.5, "")


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_nms(threshold: float, machine: str) -> None:
    boxes, scores, classes = (GOLDEN[f"nms/{part}"] for part in ("boxes", "scores", "classes"))
    assert np.array_equal(kept(boxes, scores, classes * 0, threshold, 400), GOLDEN[f"nms/keep_{threshold}"])
    assert np.array_equal(kept(boxes, scores, classes, threshold, 50), GOLDEN[f"nms/batched_{threshold}"][:50])
    boxes, scores = GOLDEN["nms/special_boxes"], GOLDEN["nms/special_scores"]
    found = kept(boxes, scores, np.zeros(10), threshold, 10)
    assert np.array_equal(found, GOLDEN[f"nms/special_keep_{threshold}"])
    rows, _, count = GOLDEN["nms/empty_shape"]
    assert len(kept(boxes, scores, np.full(10, -1), threshold, 10)) == rows == count


def test_nms_of_many_classes(machine: str) -> None:
    boxes, scores, classes = (GOLDEN[f"nms80/{part}"] for part in ("boxes", "scores", "classes"))
    assert np.array_equal(kept(boxes, scores, classes, 0.5, 400), GOLDEN["nms80/batched_0.5"])


def test_levels() -> None:
    assert np.array_equal(box_levels(tensor("levels/rois")[:, 1:], 4).asnumpy(), GOLDEN["levels/level"])
    assert np.array_equal(np.clip(np.floor(GOLDEN["levels/log2"]), 0, 3), GOLDEN["levels/level"])


def test_overlaps() -> None:
    one, other = tensor("iou/a"), tensor("iou/b")
    assert close(box_ops.pairwise_iou(one, other), GOLDEN["iou/iou"])
    both = ops.broadcast_to(one.expand_dims(1), (12, 8, 4)), ops.broadcast_to(other.expand_dims(0), (12, 8, 4))
    assert close(box_ops.generalized_iou(*both), GOLDEN["iou/giou"])


@pytest.mark.parametrize("number", [0, 1])
def test_deltas(number: int) -> None:
    stds = ((1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2))[number]
    rois = tensor("giou/roi")
    found = box_ops.decode(rois.expand_dims(1), tensor("decode/delta").reshape(24, 2, 4), stds)
    assert close(found.reshape(24, 8), GOLDEN[f"decode/{number}/free"])
    cut = box_ops.clip(found.expand_dims(0), Tensor([[200.0, 300.0]]))
    assert close(cut.reshape(24, 8), GOLDEN[f"decode/{number}/clipped"])
    assert close(box_ops.encode(rois, tensor("giou/target"), stds), GOLDEN[f"decode/{number}/encoded"])


STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))


@pytest.mark.parametrize(("name", "stds"), [("rpn", (1.0, 1.0, 1.0, 1.0)), *zip(("stage1", "stage2", "stage3"), STDS)])
def test_deltas_of_proposals(name: str, stds: tuple[float, ...]) -> None:
    boxes, objects = Tensor(HEADS["proposals"]), HEADS["gt/0/boxes"][np.arange(64) % 4]
    assert close(box_ops.encode(boxes, Tensor(objects), stds), HEADS[f"coder/{name}/encoded"])
    deltas = Tensor(fill.noise("deltas", (64, 4)) * 3)
    found = box_ops.clip(box_ops.decode(boxes, deltas, stds).expand_dims(0), Tensor([[224.0, 320.0]]))
    assert close(found[0], HEADS[f"coder/{name}/decoded_noise"], 1e-4)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_giou_loss_of_decoded_boxes(stage: int) -> None:
    target, key = tensor("giou/target"), f"giou/stage{stage}"

    def loss(roi: Tensor, delta: Tensor) -> Tensor:
        found = box_ops.decode(roi, delta, STDS[stage - 1])
        return (1 - box_ops.generalized_iou(found, target)).sum() * 10 / 64

    value, (_, gradient) = ops.value_and_grad(loss, (0, 1))(tensor("giou/roi"), tensor("giou/delta"))
    assert abs(float(value) - GOLDEN[f"{key}/loss"]) < 1e-5
    assert close(gradient, GOLDEN[f"{key}/grad_delta"], 1e-5)
    found = box_ops.decode(tensor("giou/roi"), tensor("giou/delta"), STDS[stage - 1])
    assert close(found, GOLDEN[f"{key}/decoded"])

    def loss_of_boxes(boxes: Tensor) -> Tensor:
        return (1 - box_ops.generalized_iou(boxes, target)).sum() * 10 / 64

    assert close(ops.grad(loss_of_boxes)(found), GOLDEN[f"{key}/grad_box"], 1e-5)


@pytest.mark.parametrize("name", GRIDS)
def test_anchors(name: str) -> None:
    grid, sizes = GRIDS[name], [tuple(size) for size in GOLDEN[f"anchors/{name}/sizes"]]
    levels = grid.anchors(sizes)
    for level, found in enumerate(levels):
        assert np.allclose(grid.base(grid.strides[level]), GOLDEN[f"anchors/{name}/base.{level}"], atol=1e-4)
        assert np.allclose(found[:2], GOLDEN[f"anchors/{name}/first.{level}"], atol=1e-4)
        assert np.allclose(found[-2:], GOLDEN[f"anchors/{name}/last.{level}"], atol=1e-4)
    assert sampled(np.concatenate(levels), GOLDEN, f"anchors/{name}/all") < 1e-4
    corners = grid.corners(sizes)
    for number, size in enumerate(GOLDEN["anchors/pad_shapes"]):
        valid = (corners < size).all(1)
        assert valid.sum() == GOLDEN[f"anchors/{name}/valid_count.{number}"]
        bits = np.unpackbits(GOLDEN[f"anchors/{name}/valid.{number}"])[: len(valid)]
        assert np.array_equal(valid, bits.astype(bool))
