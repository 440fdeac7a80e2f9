"""Losses of detectors, and the choice of the best boxes, beside mmdetection's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from golden import FOLDER
from mindspore import Tensor, ops

from mindvit.models.detection.detector import Best
from mindvit.runtime import platform
from mindvit.tasks.detection.losses import FocalLoss, binary_cross_entropy, focal_loss

GOLDEN = np.load(FOLDER / "detection_ops.npz")
POSITIVES = 14  # by which the golden divides


def test_focal_loss() -> None:
    labels, weights = GOLDEN["focal/labels"], Tensor(GOLDEN["focal/weights"][:, None])
    targets = Tensor((labels[:, None] == np.arange(80)).astype(np.float32))

    def loss(logits: Tensor) -> Tensor:
        return (focal_loss(logits, targets) * weights).sum()

    value, gradient = ops.value_and_grad(loss)(Tensor(GOLDEN["focal/logits"]))
    assert abs(float(value) / POSITIVES / GOLDEN["focal/loss"] - 1) < 1e-5
    assert np.allclose(gradient.asnumpy() / POSITIVES, GOLDEN["focal/grad"], atol=1e-5)


@pytest.mark.parametrize("chosen", [None, platform.PORTABLE])
def test_focal_loss_of_boxes(chosen: Any) -> None:
    with platform.use(chosen or platform.current()):
        cell = FocalLoss(80)
    labels = np.where(GOLDEN["focal/labels"] < 80, GOLDEN["focal/labels"], -1).astype(np.int32)[None]
    weights = Tensor(GOLDEN["focal/weights"][None])

    def loss(logits: Tensor) -> tuple[Tensor, Tensor]:
        found = cell(logits, Tensor(labels), weights)
        return (found * weights).sum(), found

    (value, found), gradient = ops.value_and_grad(loss, has_aux=True)(Tensor(GOLDEN["focal/logits"][None]))
    assert set(np.unique(GOLDEN["focal/weights"])) == {0, 1}
    assert abs(float(value) / POSITIVES / GOLDEN["focal/loss"] - 1) < 1e-5
    assert (found.asnumpy()[0, GOLDEN["focal/weights"] == 0] == 0).all()
    assert np.allclose(gradient.asnumpy()[0] / POSITIVES, GOLDEN["focal/grad"], atol=1e-6, rtol=1e-5)
    extreme = Tensor(np.array([[[200.0, -200.0] * 40, [-200.0, 200.0] * 40]], np.float32))
    own = Tensor(np.array([[0, 0]], np.int32)), Tensor(np.ones((1, 2), np.float32))
    assert np.allclose(cell(extreme, *own).asnumpy(), [[39 * 150, 40 * 150 + 50]])


def test_binary_cross_entropy() -> None:
    weights = Tensor(GOLDEN["focal/weights"][:, None])
    targets = Tensor((GOLDEN["rpn_bce/labels"][:, None] == 0).astype(np.float32))

    def loss(logits: Tensor) -> Tensor:
        return (binary_cross_entropy(logits, targets) * weights).sum() / weights.sum()

    value, gradient = ops.value_and_grad(loss)(Tensor(GOLDEN["focal/logits"][:, :1]))
    assert abs(float(value) / GOLDEN["rpn_bce/loss"] - 1) < 1e-5
    assert np.allclose(gradient.asnumpy(), GOLDEN["rpn_bce/grad"], atol=1e-6)


def test_loss_of_extreme_logits() -> None:
    logits, targets = Tensor([200.0, -200.0, 200.0, -200.0]), Tensor([1.0, 0.0, 0.0, 1.0])
    assert np.allclose(binary_cross_entropy(logits, targets).asnumpy(), [0, 0, 200, 200])

    def loss(x: Tensor) -> Tensor:
        return focal_loss(x, targets).sum()

    assert np.isfinite(ops.grad(loss)(logits).asnumpy()).all()


def test_the_best_boxes_of_each_class() -> None:
    boxes, scores = GOLDEN["multiclass/boxes"].reshape(-1, 5, 4), GOLDEN["multiclass/scores"][:, :5]
    scores = np.where(scores > 0.05, scores, 0)
    classes = np.tile(np.arange(5, dtype=np.int32), (len(boxes), 1))
    inputs = (Tensor(item.reshape(1, -1, *item.shape[2:])) for item in (boxes, scores.astype(np.float32), classes))
    found, score, labels = (item.asnumpy()[0] for item in Best(0.5, 40)(*inputs))
    assert np.allclose(found, GOLDEN["multiclass/dets"][:, :4], atol=1e-5)
    assert np.allclose(score, GOLDEN["multiclass/dets"][:, 4])
    assert np.array_equal(labels, GOLDEN["multiclass/labels"])
    assert np.array_equal(boxes.reshape(-1, 4)[GOLDEN["multiclass/inds"]], found)
    assert np.array_equal(GOLDEN["multiclass/inds"] % 5, labels)
