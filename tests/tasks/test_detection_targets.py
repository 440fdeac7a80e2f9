"""Which boxes are to find which objects, which take part in the loss, and their masks, beside mmdetection's."""

from __future__ import annotations

from typing import Any, Iterator

import mindspore as ms
import numpy as np
import pytest
from dense_goldens import priorities, sampled, unpacked
from golden import FOLDER
from mindspore import Tensor, ops

from mindvit.models.detection.variants import anchor_grid
from mindvit.runtime import platform
from mindvit.tasks.detection.masks import paste
from mindvit.tasks.detection.targets import MaskTargets, MaxIoUAssigner, Sampler

GOLDEN, HEADS = np.load(FOLDER / "detection_ops.npz"), np.load(FOLDER / "detection_heads.npz")
RULES = {
    "retinanet": (0.5, 0.4, 0.0),
    "rpn": (0.7, 0.3, 0.3),
    "rcnn": (0.5, 0.5, 0.5),
    "cascade2": (0.6, 0.6, None),
}


@pytest.fixture(params=["kernels", "plain"])
def machine(request: Any) -> Iterator[str]:
    """Cells are built with our kernels, or with the framework's operators alone."""
    with platform.use(platform.current() if request.param == "kernels" else platform.PORTABLE):
        yield request.param


def padded(boxes: np.ndarray, places: int) -> tuple[Tensor, Tensor]:
    """(1, places, 4) boxes, of which the last are whole images that don't count, and (1, places) which do."""
    rows = np.tile(np.array([0, 0, 1000, 1000], np.float32), (1, places, 1))
    rows[0, : len(boxes)] = boxes
    return Tensor(rows), Tensor((np.arange(places) < len(boxes))[None].astype(np.float32))


@pytest.mark.parametrize("name", RULES)
def test_assignment(name: str, machine: str) -> None:
    boxes, valid = padded(GOLDEN["assign/anchors"], 100)
    found = MaxIoUAssigner(*RULES[name])(boxes, valid, *padded(GOLDEN["assign/gt"], 7)).asnumpy()[0]
    assert np.array_equal(found[:96], GOLDEN[f"assign/{name}"])
    assert (found[96:] == -1).all()


@pytest.mark.parametrize(("method", "key"), [("retinanet", "retinanet/"), ("mask_rcnn", "mask_rcnn/rpn_")])
def test_anchors_of_a_picture(method: str, key: str, machine: str) -> None:
    first = 3 if method == "retinanet" else 2
    grid = anchor_grid(method)
    anchors = grid.anchors([(-(-224 >> level), -(-320 >> level)) for level in range(first, first + 5)])
    for level, stride in enumerate(grid.strides):
        assert np.allclose(grid.base(stride), HEADS[f"{method}/base_anchors.{level}"], atol=1e-4)
    if method == "retinanet":
        assert np.concatenate(anchors).shape == tuple(HEADS["retinanet/anchors/shape"])
        assert sampled(np.concatenate(anchors), HEADS, "retinanet/anchors") < 1e-4
    boxes = Tensor(np.concatenate(anchors)[None])
    for image in range(2):
        objects, real = padded(HEADS[f"gt/{image}/boxes"], 6)
        rule = MaxIoUAssigner(*RULES["rpn" if method == "mask_rcnn" else method])
        found = rule(boxes, ops.ones(boxes.shape[:2], ms.float32), objects, real).asnumpy()[0]
        assert np.array_equal(found, HEADS[f"{key}assigned_gt.{image}"])


@pytest.mark.parametrize(
    ("name", "rule"),
    [("0.5_low", (0.5, 0.5, 0.5)), *((f"{least}", (least, least, None)) for least in (0.5, 0.6, 0.7))],
)
def test_proposals_of_a_picture(name: str, rule: tuple[float, float, Any], machine: str) -> None:
    boxes, valid = padded(HEADS["proposals"], 70)
    found = MaxIoUAssigner(*rule)(boxes, valid, *padded(HEADS["gt/0/boxes"], 5)).asnumpy()[0]
    assert np.array_equal(found[:64], HEADS[f"rcnn_assigned/{name}"])


def test_without_objects_all_is_background(machine: str) -> None:
    boxes, valid = padded(GOLDEN["assign/anchors"], 100)
    found = MaxIoUAssigner(0.5, 0.4, 0.0)(boxes, valid, *padded(np.zeros((0, 4)), 7)).asnumpy()[0]
    assert (found[:96] == 0).all()


@pytest.mark.parametrize(("head", "number", "share"), [("rpn", 256, 0.5), ("rcnn", 512, 0.25)])
def test_sampling(head: str, number: int, share: float) -> None:
    assigned = np.stack([GOLDEN[f"sampler/{head}/0/{image}/assigned"] for image in range(2)]).astype(np.int32)
    drawn: Any = [priorities(f"sample/{head}/0/{image}", assigned.shape[1]) for image in range(2)]
    index, chosen, positive = Sampler(number, share)(Tensor(assigned), Tensor(np.stack(drawn)))
    for image in range(2):
        wanted = [GOLDEN[f"sampler/{head}/0/{image}/{kind}"] for kind in ("pos", "neg")]
        assert np.array_equal(index.asnumpy()[image], np.concatenate(wanted))
        assert chosen.asnumpy()[image].all()
        assert positive.asnumpy()[image].sum() == len(wanted[0])
        candidates = [assigned.shape[1], (assigned[image] > 0).sum(), (assigned[image] == 0).sum()]
        assert candidates == GOLDEN[f"sampler/{head}/0/{image}/n"][:3].tolist()


def test_sampling_of_few() -> None:
    assigned = np.array([[1, 0, -1, 0, 2], [0, 0, 0, 0, 0]], np.int32)
    order = np.tile(np.arange(5, dtype=np.float32), (2, 1, 1))
    index, chosen, positive = (found.asnumpy() for found in Sampler(8, 0.25)(Tensor(assigned), Tensor(order)))
    assert index[0].tolist() == [0, 4, 1, 3, 0, 0, 0, 0]
    assert chosen.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0]]
    assert positive.sum(1).tolist() == [2, 0]


def test_mask_targets(machine: str) -> None:
    height, width = GOLDEN["mask_target/gt_shape"][1:]
    masks = GOLDEN["mask_target/gt_bits"].reshape(1, 4, height, width // 8)
    boxes, objects = GOLDEN["mask_target/proposals"][None], GOLDEN["mask_target/gt_index"].astype(np.int32)[None]
    found = MaskTargets()(Tensor(boxes), Tensor(objects), Tensor(masks)).asnumpy()
    assert np.array_equal(found, unpacked(GOLDEN["mask_target/bits"], (12, 28, 28)))
    assert found.sum((1, 2)).tolist() == GOLDEN["mask_target/area"].tolist()


def test_pasting() -> None:
    height, width = (int(side) for side in GOLDEN["paste/size"])
    bits, unsure = (unpacked(GOLDEN[f"paste/{kind}"], (8, height, width)) for kind in ("bits", "unsure"))
    for number, (box, share) in enumerate(zip(GOLDEN["paste/boxes"], GOLDEN["paste/prob"])):
        found = paste(share, box, height, width)
        assert ((found != bits[number]) & (unsure[number] == 0)).sum() == 0
        assert abs(found.sum() - GOLDEN["paste/area"][number]) <= unsure[number].sum()
    assert not paste(share, np.array([5.0, 5, 5, 9]), height, width).any()
