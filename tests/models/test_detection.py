"""Detectors beside what mmdetection gave for them: targets, losses, gradients, inference, trajectory."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from dense_goldens import (
    OBJECTS,
    detection_batch,
    filled_detector,
    priorities,
    sampled,
    trajectory_images,
    unpacked,
    worst_gradient,
)
from golden import FOLDER, fill
from mindspore import Tensor, nn, ops

from mindvit.optim.optimizers import AdamW, SquareSum
from mindvit.tasks.detection.masks import paste
from mindvit.tasks.detection.objective import RCNNObjective, RetinaNetObjective, Sampled

LOSS, PROPOSAL, SCORE = 1e-4, 2e-3, 2e-5  # relative; px; and of a proposal
BOX, CONFIDENCE = 3e-3, 3e-5  # of a detection
MASKS = 3  # times a gradient's tolerance: a cell of a target that is half an object's goes either way
FEW = Sampled(boxes=40)


def report(what: str, worst: float, tolerance: float) -> None:
    """Print the worst deviation (pytest -s) and fail beyond the tolerance."""
    print(f"\n{what}: {worst:.1e} of {tolerance:.1e}")
    assert worst < tolerance, what


class Levels(nn.Cell):
    """RetinaNet's losses, those of each level, and how it assigns anchors."""

    def __init__(self, net: Any):
        super().__init__(auto_prefix=False)
        self.objective = RetinaNetObjective(net)

    def construct(self, *batch: Tensor) -> Any:
        classes, boxes = self.objective.levels(*batch)
        return classes.sum() + boxes.sum(), classes, boxes


@pytest.mark.big
def test_retinanet_losses_and_gradients() -> None:
    golden = np.load(FOLDER / "detection.npz")
    net = filled_detector("retinanet").set_train(True)
    batch = [Tensor(item) for item in detection_batch(golden)[:4]]
    weights = ms.ParameterTuple(net.trainable_params())
    (total, classes, boxes), gradients = ops.value_and_grad(Levels(net), None, weights, has_aux=True)(*batch)
    report("retinanet loss", abs(float(total) / golden["retinanet/total"] - 1), LOSS)
    for kind, found in (("loss_cls", classes), ("loss_bbox", boxes)):
        expected = golden[f"retinanet/loss/{kind}"]
        report(kind, float(np.abs(found.asnumpy() - expected).max() / expected.sum()), LOSS)
    named = {weight.name: gradient for weight, gradient in zip(weights, gradients)}
    assert set(named) == set(golden["retinanet/grad_name"].tolist())
    report("retinanet gradients", worst_gradient(named, golden, "retinanet"), 1)


class Everything(nn.Cell):
    """An R-CNN's losses and all that they come from."""

    def __init__(self, net: Any):
        super().__init__(auto_prefix=False)
        self.objective = RCNNObjective(net, FEW, with_steps=True)

    def construct(self, *batch: Tensor) -> Any:
        rpn, parts, proposals, stages = self.objective.everything(*batch)
        total = rpn[0].sum() + rpn[1].sum()
        for found in parts:
            for part in found[:-1]:
                total = total + part
        return total, rpn, parts, proposals, stages


@pytest.mark.parametrize("name", ["mask_rcnn", pytest.param("cascade", marks=[pytest.mark.big])])
def test_rcnn_losses_and_gradients(name: str) -> None:
    golden = np.load(FOLDER / "detection.npz")
    net = filled_detector(name).set_train(True)
    batch = [Tensor(item) for item in detection_batch(golden)]
    anchors = 3 * sum((56 >> level) * (80 >> level) for level in range(3)) + 3 * (7 * 10 + 4 * 5)
    rpn = np.stack([priorities(f"sample/rpn/0/{image}", anchors) for image in range(3)])
    boxes = np.stack(
        [
            [priorities(f"sample/rcnn/{stage}/{image}", 170 + OBJECTS) for stage in range(net.stages)]
            for image in range(3)
        ]
    )
    weights = ms.ParameterTuple(net.trainable_params())
    function = ops.value_and_grad(Everything(net), None, weights, has_aux=True)
    (total, levels, parts, proposals, stages), gradients = function(*batch, Tensor(rpn), Tensor(boxes))
    for image in range(3):
        expected = golden[f"{name}/proposals.{image}"]
        report("proposals", float(np.abs(proposals[0].asnumpy()[image] - expected[:, :4]).max()), PROPOSAL)
        report("scores", float(np.abs(proposals[1].asnumpy()[image] - expected[:, 4]).max()), SCORE)
    for kind, found in zip(("loss_rpn_cls", "loss_rpn_bbox"), levels):
        expected = golden[f"{name}/loss/{kind}"]
        report(kind, float(np.abs(found.asnumpy() - expected).max() / expected.sum()), LOSS)
    for stage, (found, seen) in enumerate(zip(parts, stages)):
        check_stage(golden, name, stage, seen)
        prefix = f"s{stage}." if name == "cascade" else ""
        for kind, part in zip(("loss_cls", "loss_bbox", "loss_mask"), found):
            expected = golden[f"{name}/loss/{prefix}{kind}"][0]
            report(f"{prefix}{kind}", abs(float(part) / expected - 1), LOSS)
        assert float(found[3]) == golden[f"{name}/loss/{prefix}acc"][0]
    report(f"{name} loss", abs(float(total) / golden[f"{name}/total"] - 1), LOSS)
    named = {weight.name: gradient for weight, gradient in zip(weights, gradients)}
    assert set(named) == set(golden[f"{name}/grad_name"].tolist())
    report(f"{name} gradients", worst_gradient(named, golden, name, "mask_head"), 1)
    report(f"{name} masks' gradients", worst_gradient(named, golden, name, "", "mask_head"), MASKS)
    buffers = {item.name: item.asnumpy() for item in net.get_parameters() if not item.requires_grad}
    keys = [key for key in golden.files if key.startswith(f"{name}/bn/")]
    assert {key.split("/bn/")[1] for key in keys} == set(buffers)
    for key in keys:
        report(key, float(np.abs(buffers[key.split("/bn/")[1]][:64] - golden[key]).max()), 1e-4)


def check_stage(golden: Any, name: str, stage: int, seen: Any) -> None:
    """Sampled boxes, their labels and objects, and the head's outputs."""
    rois, place, label, chosen, positive, _, scores, moves = (item.asnumpy() for item in seen)
    assert chosen.all()
    for image in range(3):
        key = f"{name}/rcnn/{stage}/{image}"
        report(f"{key} boxes", float(np.abs(rois[image] - golden[f"{key}/boxes"]).max()), PROPOSAL)
        count = len(golden[f"{key}/pos"])
        assert positive[image].sum() == count
        assert np.array_equal(place[image, :count], golden[f"{key}/gt"])
    assert np.array_equal(label.ravel(), golden[f"{name}/rcnn_labels.{stage}"])
    assert sampled(scores, golden, f"{name}/cls_score.{stage}") < 1e-3
    assert sampled(moves.reshape(120, -1), golden, f"{name}/bbox_pred.{stage}") < 1e-3
    assert unpacked(golden[f"{name}/mask_targets.{stage}"], (4, 28, 28)).any()


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=[pytest.mark.big])])
@pytest.mark.parametrize("name", ["retinanet", "mask_rcnn", pytest.param("cascade", marks=[pytest.mark.big])])
def test_detections(name: str, number: int) -> None:
    golden, key = np.load(FOLDER / "detection_inference.npz"), f"{name}/{number}"
    true, original = golden[f"{key}/true_size"], golden[f"{key}/ori_size"]
    side = tuple(int(-(-value // 32) * 32) for value in true)
    image = fill.image(number + 1, side)[number:]
    image[:, :, true[0] :] = image[:, :, :, true[1] :] = 0
    found = filled_detector(name).set_train(False)(Tensor(image), Tensor(true[None].astype(np.float32)))
    boxes, scores, labels = (item.asnumpy()[0] for item in found[:3])
    boxes = boxes / np.tile((true / original).astype(np.float32)[::-1], 2)
    # the order of scores that are closer than rounding is free
    order = matched(boxes, labels, golden[f"{key}/dets"], golden[f"{key}/labels"])
    assert sorted(order) == list(range(100))
    assert np.abs(order - np.arange(100)).max() <= 2
    report(f"{key} boxes", float(np.abs(boxes[order] - golden[f"{key}/dets"][:, :4]).max()), BOX)
    report(f"{key} scores", float(np.abs(scores[order] - golden[f"{key}/dets"][:, 4]).max()), CONFIDENCE)
    if name != "retinanet":
        shares = found[3].asnumpy()[0]
        areas = np.array([paste(shares[place], boxes[place], *original).sum() for place in order])
        expected = golden[f"{key}/mask_area"]
        assert (np.abs(areas - expected) <= 4 + 0.005 * expected).all()


def matched(boxes: np.ndarray, labels: np.ndarray, wanted: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The detection that each wanted one is."""
    far = np.abs(boxes[None] - wanted[:, None, :4]).max(2) + 1e6 * (labels[None] != classes[:, None])
    return far.argmin(1)


class Step(nn.Cell):
    """A plain AdamW step; gives both losses and the gradient's norm."""

    def __init__(self, net: Any, decay: float):
        super().__init__(auto_prefix=False)
        self.weights = ms.ParameterTuple(net.trainable_params())
        self.gradient = ops.value_and_grad(Levels(net), None, self.weights, has_aux=True)
        count = len(self.weights)
        self.optimizer = AdamW(self.weights, [decay] * count, [1.0] * count, (0.9, 0.999), 1e-8)
        self.square_sum = SquareSum()

    def construct(self, lr: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (_, classes, boxes), gradients = self.gradient(*batch)
        norm = ops.sqrt(self.square_sum(gradients))
        return classes.sum(), boxes.sum(), ops.depend(norm, self.optimizer(gradients, lr))


@pytest.mark.big
def test_trajectory() -> None:
    golden = np.load(FOLDER / "detection_trajectory.npz")
    net = filled_detector("retinanet").set_train(True)
    step = Step(net, 100.0)
    stability = golden["retinanet/warm/stability"].max(0)
    for number in range(8):
        batch = trajectory_batch(golden, number)
        *losses, norm = (float(item) for item in step(Tensor(1e-4 / 100 * (number + 1), ms.float32), *batch))
        for kind, loss in zip(("loss_cls", "loss_bbox"), losses):
            expected = golden[f"retinanet/warm/loss/{kind}"][number]
            report(f"step {number}, {kind}", abs(loss / expected - 1), max(LOSS, 10 * stability[0, number]))
        expected = golden["retinanet/warm/grad_norm"][number]
        report(f"step {number}, norm", abs(norm / expected - 1), max(1e-3, 10 * stability[1, number]))
    values = {item.name: item.asnumpy().ravel().astype(np.float64) for item in net.get_parameters()}
    rows = zip(*(golden[f"retinanet/warm/param_{part}"] for part in ("name", "l2", "idx", "val", "disturb")))
    for name, norm, places, expected, disturb in rows:
        tolerance = 10 * disturb + 1e-6 * norm
        assert abs(np.linalg.norm(values[str(name)]) - norm) < tolerance, name
        assert np.abs(values[str(name)][places] - expected)[places >= 0].max() < tolerance, name


def trajectory_batch(golden: Any, step: int) -> list[Tensor]:
    """Two pictures (2, 3, 128, 160), their sizes, boxes and labels."""
    boxes, labels = np.zeros((2, OBJECTS, 4), np.float32), np.full((2, OBJECTS), -1, np.int32)
    for place, index in enumerate((2 * step, 2 * step + 1)):
        own = golden[f"gt/{index}/boxes"]
        boxes[place, : len(own)], labels[place, : len(own)] = own, golden[f"gt/{index}/labels"]
    sizes = np.full((2, 2), (128, 160), np.float32)
    return [Tensor(item) for item in (trajectory_images(step), sizes, boxes, labels)]
