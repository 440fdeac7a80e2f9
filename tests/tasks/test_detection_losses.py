"""Losses of detectors, and the choice of the best boxes, beside mmdetection's."""

from __future__ import annotations

import numpy as np
from golden import FOLDER
from mindspore import Tensor, ops

from mindvit.models.detection.detector import Best
from mindvit.tasks.detection.losses import binary_cross_entropy, focal_loss

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
