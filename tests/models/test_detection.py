"""Detectors beside what mmdetection gave for them: targets, losses, gradients, inference, trajectory."""

from __future__ import annotations

from typing import Any, Sequence

import mindspore as ms
import numpy as np
import pytest
from dense_goldens import (
    OBJECTS,
    as_images,
    detection_batch,
    filled_detector,
    flat_errors,
    priorities,
    sampled,
    trajectory_images,
    unpacked,
    worst_gradient,
)
from deviations import report
from golden import FOLDER, fill, refilled
from mindspore import Tensor, nn, ops

from mindvit.layers.boxes import encode
from mindvit.layers.conv import FeatureLayout
from mindvit.layers.roi_align import box_levels
from mindvit.models.detection import RCNN
from mindvit.models.detection.rcnn import STAGE_STDS
from mindvit.models.detection.variants import anchor_grid
from mindvit.optim.optimizers import AdamW, SquareSum
from mindvit.tasks.detection.losses import RetinaNetLoss
from mindvit.tasks.detection.masks import paste
from mindvit.tasks.detection.objective import RCNNObjective, RetinaNetObjective, Sampled

LOSS, PROPOSAL, SCORE = 1e-4, 2e-3, 2e-5  # relative; px; and of a proposal
OUTPUT = 1e-4  # of maps and heads, as a share of the largest sample
BOX, CONFIDENCE = 3e-3, 3e-5  # of a detection
MASKS = 3  # times a gradient's tolerance: a cell of a target that is half an object's goes either way
FEW = Sampled(boxes=40)


class Batch(nn.Cell):
    """A detector's objective of a batch whose arrays are given one by one."""

    def __init__(self, objective: Any, arrays: int):
        super().__init__(auto_prefix=False)
        self.objective, self.arrays = objective, arrays

    def construct(self, images: Tensor, sizes: Tensor, *others: Tensor) -> Any:
        return self.objective(images, sizes, others[: self.arrays], others[self.arrays :])


def numbers(found: Any) -> Any:
    """Arrays of nested tensors."""
    return found.asnumpy() if isinstance(found, Tensor) else [numbers(item) for item in found]


def check_outputs(found: Any, golden: Any, keys: Sequence[str]) -> None:
    """What a dense head says of every anchor of each level."""
    for kind, levels in zip(keys, found):
        for level, output in enumerate(levels):
            key = f"{kind}.{level}"
            report(key, flat_errors(as_images(output, golden, key), golden, key), OUTPUT)


@pytest.mark.big
def test_retinanet_losses_and_gradients() -> None:
    golden = np.load(FOLDER / "detection.npz")
    net = filled_detector("retinanet").set_train(True)
    arrays = detection_batch(golden)[:4]
    weights = ms.ParameterTuple(net.trainable_params())
    function = ops.value_and_grad(Batch(RetinaNetObjective(net), 2), None, weights, has_aux=True)
    (total, _, steps), gradients = function(*(Tensor(item) for item in arrays))
    outputs, (classes, deltas, assigned) = numbers(steps)
    check_outputs(outputs, golden, ("retinanet/cls", "retinanet/reg"))
    report("retinanet loss", abs(float(total) / golden["retinanet/total"] - 1), LOSS)
    for kind, found in (("loss_cls", classes), ("loss_bbox", deltas)):
        expected = golden[f"retinanet/loss/{kind}"]
        report(kind, float(np.abs(found - expected).max() / expected.sum()), LOSS)
    anchors = np.concatenate(
        anchor_grid("retinanet").anchors([(28 >> i, 40 >> i) for i in range(3)] + [(4, 5), (2, 3)])
    )
    for image in range(3):
        positive, own = np.flatnonzero(assigned[image] > 0), assigned[image][assigned[image] > 0] - 1
        assert np.array_equal(positive, golden[f"retinanet/pos.{image}"])
        assert np.array_equal(arrays[3][image][own], golden[f"retinanet/pos_label.{image}"])
        target = encode(Tensor(anchors[positive]), Tensor(arrays[2][image][own]), (1.0,) * 4) if len(own) else 0
        assert np.allclose(target, golden[f"retinanet/pos_target.{image}"], atol=1e-4)
        ignored = unpacked(golden[f"retinanet/ignored.{image}"], assigned[image].shape)
        assert np.array_equal(assigned[image] == -1, ignored.astype(bool))
    assert np.maximum((assigned > 0).sum(1), 1).sum() == golden["retinanet/num_pos"]
    named = {weight.name: gradient for weight, gradient in zip(weights, gradients)}
    assert set(named) == set(golden["retinanet/grad_name"].tolist())
    report("retinanet gradients", worst_gradient(named, golden, "retinanet"), 1)


@pytest.mark.parametrize("name", ["mask_rcnn", pytest.param("cascade", marks=[pytest.mark.big])])
def test_rcnn_losses_and_gradients(name: str) -> None:
    golden = np.load(FOLDER / "detection.npz")
    net = filled_detector(name).set_train(True)
    arrays = detection_batch(golden)
    anchors = 3 * sum((56 >> level) * (80 >> level) for level in range(3)) + 3 * (7 * 10 + 4 * 5)
    rpn = np.stack([priorities(f"sample/rpn/0/{image}", anchors) for image in range(3)])
    boxes = np.stack(
        [
            [priorities(f"sample/rcnn/{stage}/{image}", 170 + OBJECTS) for stage in range(net.stages)]
            for image in range(3)
        ]
    )
    weights = ms.ParameterTuple(net.trainable_params())
    function = ops.value_and_grad(Batch(RCNNObjective(net, FEW), 3), None, weights, has_aux=True)
    (total, parts, steps), gradients = function(*(Tensor(item) for item in (*arrays, rpn, boxes)))
    outputs, (*levels, drawn), proposals, stages = numbers(steps)
    assert sampled(arrays[0], golden, "image") < 1e-6
    maps = net.features(Tensor(arrays[0]))
    check_outputs(outputs, golden, (f"{name}/rpn_cls", f"{name}/rpn_reg"))
    for image in range(3):
        expected = golden[f"{name}/proposals.{image}"]
        assert (proposals[1][image] > 0).sum() == golden[f"{name}/num_proposals"][image]
        report("proposals", float(np.abs(proposals[0][image] - expected[:, :4]).max()), PROPOSAL)
        report("scores", float(np.abs(proposals[1][image] - expected[:, 4]).max()), SCORE)
        check_sampled(golden, f"{name}/rpn/0/{image}", drawn[0][image], drawn[2][image], drawn[3][image])
    for kind, found in zip(("loss_rpn_cls", "loss_rpn_bbox"), levels):
        expected = golden[f"{name}/loss/{kind}"]
        report(kind, float(np.abs(found - expected).max() / expected.sum()), LOSS)
    for stage, seen in enumerate(stages):
        before = stages[stage - 1][0][-1] >= OBJECTS if stage else np.ones((3, 170), bool)
        check_stage(golden, name, stage, (*arrays[2:4], before), *seen)
        has = seen[0][4].astype(bool)
        check_all_masks(golden, f"{name}/mask_pred.{stage}", net.roi_head, maps, (seen[0][0][has], np.nonzero(has)[0]))
    for kind, part in zip(RCNNObjective(net, FEW).names[2:], parts[2:]):
        expected = golden[f"{name}/loss/{kind}"][0]
        report(kind, abs(float(part) - expected) / max(expected, 0.1), LOSS)  # an accuracy may be 0
    report(f"{name} loss", abs(float(total) / golden[f"{name}/total"] - 1), LOSS)
    named = {weight.name: gradient for weight, gradient in zip(weights, gradients)}
    assert set(named) == set(golden[f"{name}/grad_name"].tolist())
    report(f"{name} gradients", worst_gradient(named, golden, name, "mask_head"), 1)
    report(f"{name} masks' gradients", worst_gradient(named, golden, name, "", "mask_head"), MASKS)
    buffers = {item.name: item.asnumpy() for item in net.get_parameters() if not item.requires_grad}
    keys = [key for key in golden.files if key.startswith(f"{name}/bn/")]
    assert {key.split("/bn/")[1] for key in keys} == set(buffers)
    for key in keys:
        value = buffers[key.split("/bn/")[1]]
        report(key, float(np.abs(value[:64] - golden[key]).max()), 1e-4)
        report(key, abs(float(np.linalg.norm(value)) / golden[key.replace("/bn/", "/bn_l2/")] - 1), 1e-4)


def check_sampled(golden: Any, key: str, index: np.ndarray, positive: np.ndarray, place: np.ndarray) -> None:
    """Which boxes are sampled, and the objects of those that have one."""
    count = int(positive.sum())
    assert np.array_equal(index[:count], golden[f"{key}/pos"])
    assert np.array_equal(index[count:], golden[f"{key}/neg"])
    assert np.array_equal(place[:count], golden[f"{key}/gt"])


def check_stage(golden: Any, name: str, stage: int, objects: Any, drawn: Any, outputs: Any) -> None:
    """Sampled boxes, their labels and objects, what they are to become, and the heads' outputs."""
    rois, place, label, chosen, positive, index = drawn
    assert chosen.all()
    boxes, labels, counts = objects
    number = np.cumsum(np.concatenate([labels >= 0, counts], 1), 1) - 1  # of a candidate among those that there are
    wanted = np.take_along_axis(boxes, place[:, :, None].astype(int), 1)
    for image in range(3):
        key = f"{name}/rcnn/{stage}/{image}"
        check_sampled(golden, key, number[image][index[image]], positive[image], place[image])
        report(f"{key} boxes", float(np.abs(rois[image] - golden[f"{key}/boxes"]).max()), PROPOSAL)
    assert np.array_equal(label.ravel(), golden[f"{name}/rcnn_labels.{stage}"])
    has = positive.astype(bool)
    assert np.array_equal(box_levels(Tensor(rois), 4).asnumpy().ravel(), golden[f"{name}/levels.{stage}"])
    assert np.array_equal(box_levels(Tensor(rois[has]), 4).asnumpy(), golden[f"{name}/mask_levels.{stage}"])
    targets = np.zeros_like(rois)
    targets[has] = wanted[has] if name == "cascade" else encode(Tensor(rois[has]), Tensor(wanted[has]), STAGE_STDS[0])
    report("targets", flat_errors(targets.reshape(-1, 4), golden, f"{name}/rcnn_targets.{stage}"), OUTPUT)
    report("classes", flat_errors(outputs[0], golden, f"{name}/cls_score.{stage}"), OUTPUT)
    report("deltas", flat_errors(outputs[1].reshape(120, -1), golden, f"{name}/bbox_pred.{stage}"), OUTPUT)
    masks = outputs[3].reshape(3, -1, 28, 28)[has[:, : FEW.boxes // 4]]
    differing = np.abs(masks.sum((1, 2)) - golden[f"{name}/mask_target_area.{stage}"])
    assert differing.max() <= 2  # cells that are half an object's go either way
    assert np.abs(masks[:4] - unpacked(golden[f"{name}/mask_targets.{stage}"], (4, 28, 28))).sum() <= 1


class Looks(nn.Cell):
    """A detector's answer and what it comes from: the neck's maps as images, the dense head's outputs, proposals."""

    def __init__(self, net: Any):
        super().__init__(auto_prefix=False)
        self.net, self.layout, self.is_rcnn = net, FeatureLayout(), isinstance(net, RCNN)

    def construct(self, x: Tensor, sizes: Tensor) -> Any:
        maps = self.net.features(x)
        images = tuple([self.layout.to_images(level) for level in maps])
        if not self.is_rcnn:
            outputs = self.net.bbox_head(maps, x.shape[0])
            return self.net.detections(*outputs, self.net.anchors(maps), sizes), images, outputs
        outputs = self.net.rpn_head(maps, x.shape[0])
        proposals = self.net.propose(*outputs, self.net.anchors(maps), sizes)
        return self.net.detections(maps, *proposals, sizes), images, outputs, proposals


@pytest.mark.parametrize("number", [0, pytest.param(1, marks=[pytest.mark.big])])
@pytest.mark.parametrize("name", ["retinanet", "mask_rcnn", pytest.param("cascade", marks=[pytest.mark.big])])
def test_detections(name: str, number: int) -> None:
    golden, key = np.load(FOLDER / "detection_inference.npz"), f"{name}/{number}"
    true, original = golden[f"{key}/true_size"], golden[f"{key}/ori_size"]
    side = tuple(int(-(-value // 32) * 32) for value in true)
    image = fill.image(number + 1, side)[number:]
    image[:, :, true[0] :] = image[:, :, :, true[1] :] = 0
    net = filled_detector(name).set_train(False)
    looks = Looks(net)
    found, maps, _, *proposals = numbers(looks(Tensor(image), Tensor(true[None].astype(np.float32))))
    boxes, scores, labels = (item[0] for item in found[:3])
    boxes = boxes / np.tile((true / original).astype(np.float32)[::-1], 2)
    # the order of scores that are closer than rounding is free
    order = matched(boxes, labels, golden[f"{key}/dets"], golden[f"{key}/labels"])
    assert sorted(order) == list(range(100))
    assert np.abs(order - np.arange(100)).max() <= 2
    report(f"{key} boxes", float(np.abs(boxes[order] - golden[f"{key}/dets"][:, :4]).max()), BOX)
    report(f"{key} scores", float(np.abs(scores[order] - golden[f"{key}/dets"][:, 4]).max()), CONFIDENCE)
    if name != "retinanet":
        expected = golden[f"{key}/proposals"]
        assert (proposals[0][1] > 0).sum() == golden[f"{key}/num_proposals"]
        report("proposals", float(np.abs(proposals[0][0][0] - expected[:, :4]).max()), PROPOSAL)
        report("scores", float(np.abs(proposals[0][1][0] - expected[:, 4]).max()), SCORE)
        check_masks(golden, key, boxes[order], found[3][0][order])
        features = [looks.layout.from_images(Tensor(level)) for level in maps]
        for stage in range(net.stages):
            all_of_one = found[0][0][order], np.zeros(100)
            check_all_masks(golden, f"{key}/mask_pred.{stage}", net.roi_head, features, all_of_one)
    if number == 0:
        check_heads(name, looks)


def check_masks(golden: Any, key: str, boxes: np.ndarray, shares: np.ndarray) -> None:
    """Masks as large as the picture: their areas, and every fourth pixel."""
    masks = np.stack([paste(share, box, *golden[f"{key}/ori_size"]) for share, box in zip(shares, boxes)])
    expected = golden[f"{key}/mask_area"]
    assert (np.abs(masks.sum((1, 2)) - expected) <= 4 + 0.005 * expected).all()
    pixels = unpacked(golden[f"{key}/mask_bits"], tuple(golden[f"{key}/mask_bits_shape"]))
    assert ((masks[:, ::4, ::4] != pixels).sum((1, 2)) <= 1).all()
    assert masks.shape[0] == len(golden[f"{key}/labels"])


def check_all_masks(golden: Any, key: str, head: Any, maps: Sequence[Tensor], boxes: tuple[np.ndarray, ...]) -> None:
    """Samples of the logits of all classes' masks of an image's boxes, `boxes`: (n, 4), and which image each is of."""
    rois, images = boxes
    box, label, row, column = np.unravel_index(golden[f"{key}/idx"], golden[f"{key}/shape"])
    found = np.zeros(len(box), np.float32)
    for image in np.unique(images[box]).astype(int).tolist():
        own = np.flatnonzero(images[box] == image)
        inputs = rois[None, box[own]], label[None, own].astype(np.int32), np.ones((1, len(own)), np.float32)
        features = tuple(level[image : image + 1] for level in maps[:4])
        logits = head.masks(int(key[-1]), features, *(Tensor(item) for item in inputs)).asnumpy()
        found[own] = logits.reshape(-1, 28, 28)[np.arange(len(own)), row[own], column[own]]
    expected = golden[f"{key}/val"]
    report(key, float(np.abs(found - expected).max() / np.abs(expected).max()), OUTPUT)


def check_heads(name: str, looks: Looks) -> None:
    """Neck and heads with plain weights, in the graph that is compiled: on two pictures, and heads on made-up maps."""
    golden = np.load(FOLDER / "detection_heads.npz")
    refilled(looks.net, lambda weight, shape: fill.fill(weight.replace("backbone.", ""), shape))
    size = Tensor(np.array([[224, 320]], np.float32))
    seen = [numbers(looks(Tensor(image[None]), size))[1:3] for image in fill.image(2, (224, 320))]
    maps = [np.concatenate(pair) for pair in zip(*(maps for maps, _ in seen))]
    outputs = [[np.concatenate(pair) for pair in zip(*levels)] for levels in zip(*(output for _, output in seen))]
    for level in range(4 if name == "cascade" else 5):
        report("maps", flat_errors(maps[level], golden, f"{name}/fpn.{level}"), OUTPUT)
    if name == "cascade":
        for stage in range(3):
            check_roi_heads(golden, looks.net.roi_head, name, stage, f".{stage}")
        return
    kinds = ["cls", "reg"] if name == "retinanet" else ["rpn_cls", "rpn_reg"]
    check_outputs(outputs, golden, [f"{name}/{kind}" for kind in kinds])
    if name == "mask_rcnn":
        check_roi_heads(golden, looks.net.roi_head, name, 0, "")
        return
    boxes, labels = np.zeros((2, OBJECTS, 4), np.float32), np.full((2, OBJECTS), -1, np.int32)
    for image in range(2):
        own = golden[f"gt/{image}/boxes"]
        boxes[image, : len(own)], labels[image, : len(own)] = own, golden[f"gt/{image}/labels"]
    anchors = np.concatenate(anchor_grid(name).anchors([level.shape[2:] for level in maps]))
    assert [level.shape[1] for level in outputs[0]] == golden["retinanet/num_anchors"].tolist()
    valid = np.ones((2, len(anchors)), np.float32)
    logits, deltas = (tuple(Tensor(item) for item in levels) for levels in outputs)
    losses = RetinaNetLoss(80)(logits, deltas, *(Tensor(item) for item in (anchors[None], valid, boxes, labels)))
    for kind, found in zip(("loss_cls", "loss_bbox"), losses):
        expected = golden[f"retinanet/{kind}"]
        report(kind, float(np.abs(found.asnumpy() - expected).max() / expected.sum()), LOSS)


def check_roi_heads(golden: Any, head: Any, name: str, stage: int, ending: str) -> None:
    """Classes, deltas and all classes' masks of made-up maps."""
    layout = FeatureLayout()
    boxes, masks = (head.bbox_head, head.mask_head) if not ending else (head.bbox_head[stage], head.mask_head[stage])
    found = boxes(layout.from_images(Tensor(fill.noise("roi/bbox", (8, 256, 7, 7)))))
    for kind, output in zip(("cls", "reg"), found):
        expected = golden[f"{name}/bbox_{kind}{ending}"]
        report(kind, float(np.abs(output.asnumpy().reshape(8, -1) - expected).max() / np.abs(expected).max()), OUTPUT)
    key, x = f"{name}/mask{ending}", fill.noise("roi/mask", (4, 256, 14, 14))
    samples = np.stack(np.unravel_index(golden[f"{key}/idx"], (4, 80, 28, 28)))
    pairs, place = np.unique(samples[:2], axis=1, return_inverse=True)
    logits = masks(layout.from_images(Tensor(x[pairs[0]])), Tensor(pairs[1].astype(np.int32))).asnumpy()
    worst = np.abs(logits[place.ravel(), samples[2], samples[3]] - golden[f"{key}/val"]).max()
    report("masks", float(worst / np.abs(golden[f"{key}/val"]).max()), OUTPUT)


def matched(boxes: np.ndarray, labels: np.ndarray, wanted: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The detection that each wanted one is."""
    far = np.abs(boxes[None] - wanted[:, None, :4]).max(2) + 1e6 * (labels[None] != classes[:, None])
    return far.argmin(1)


class Gradients(nn.Cell):
    """Both losses of RetinaNet, the gradient's norm and the gradient."""

    def __init__(self, net: Any, weights: ms.ParameterTuple):
        super().__init__(auto_prefix=False)
        self.gradient = ops.value_and_grad(Batch(RetinaNetObjective(net), 2), None, weights, has_aux=True)
        self.square_sum = SquareSum()

    def construct(self, *batch: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, ...]]:
        (_, parts, _), gradients = self.gradient(*batch)
        return (*parts, ops.sqrt(self.square_sum(gradients))), gradients


@pytest.mark.big
def test_trajectories() -> None:
    """Eight steps of a constant rate, and of a growing one with a decay that shows on every weight."""
    golden = np.load(FOLDER / "detection_trajectory.npz")
    net = filled_detector("retinanet").set_train(True)
    weights = ms.ParameterTuple(net.trainable_params())
    before, gradients = [item.asnumpy().copy() for item in weights], Gradients(net, weights)
    for way, decay in (("warm", 100.0), ("plain", 1e-4)):
        for weight, value in zip(weights, before):
            weight.set_data(Tensor(value))
        optimizer = AdamW(weights, [decay] * len(weights), [1.0] * len(weights), (0.9, 0.999), 1e-8)
        key = f"retinanet/{way}"
        stability = golden[f"{key}/stability"].max(0)
        for number in range(8):
            found, gradient = gradients(*trajectory_batch(golden, number))
            optimizer(ms.mutable(gradient), Tensor(1e-4 if way == "plain" else 1e-6 * (number + 1), ms.float32))
            *losses, norm = (float(item) for item in found)
            for kind, loss in zip(("loss_cls", "loss_bbox"), losses):
                expected = golden[f"{key}/loss/{kind}"][number]
                report(f"{way} {number}, {kind}", abs(loss / expected - 1), max(LOSS, 10 * stability[0, number]))
            expected = golden[f"{key}/grad_norm"][number]
            report(f"{way} {number}, norm", abs(norm / expected - 1), max(1e-3, 10 * stability[1, number]))
        check_weights(golden, key, {item.name: item.asnumpy().ravel().astype(np.float64) for item in weights})


def check_weights(golden: Any, key: str, values: dict[str, np.ndarray]) -> None:
    """Norms and samples of all weights after the last step."""
    places = golden["retinanet/warm/param_name"], golden["retinanet/warm/param_idx"]
    worst = 0.0
    for name, index, norm, expected, disturb in zip(
        *places, *(golden[f"{key}/param_{part}"] for part in ("l2", "val", "disturb"))
    ):
        found, tolerance = values[str(name)], 10 * disturb + 1e-6 * norm
        deviations = np.abs(found[index] - expected)[index >= 0]
        worst = max(worst, abs(np.linalg.norm(found) - norm) / tolerance, deviations.max() / tolerance)
    report(f"{key} weights", float(worst), 1)


def trajectory_batch(golden: Any, step: int) -> list[Tensor]:
    """Two pictures (2, 3, 128, 160), their sizes, boxes and labels."""
    boxes, labels = np.zeros((2, OBJECTS, 4), np.float32), np.full((2, OBJECTS), -1, np.int32)
    for place, index in enumerate((2 * step, 2 * step + 1)):
        own = golden[f"gt/{index}/boxes"]
        boxes[place, : len(own)], labels[place, : len(own)] = own, golden[f"gt/{index}/labels"]
    sizes = np.full((2, 2), (128, 160), np.float32)
    return [Tensor(item) for item in (trajectory_images(step), sizes, boxes, labels)]
