"""Classes that count more or less in a loss: what they weigh, and what the losses make of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindvit.data.transforms.dense import IGNORED
from mindvit.errors import UserError
from mindvit.layers.pixel_cross_entropy import PixelCrossEntropy
from mindvit.tasks.class_weights import balanced, class_weights, weights_parameter
from mindvit.tasks.classification.losses import BinaryCrossEntropy, SoftTargetCrossEntropy

NAMES = ("cat", "dog", "emu, big")
WEIGHTS = np.array([0.5, 2.0, 3.0], np.float32)


def context(wanted: Any, counts: tuple[int, ...] = (6, 2, 1)) -> Any:
    recipe = SimpleNamespace(optim=SimpleNamespace(class_weights=wanted), origins={"class_weights": "f.yaml"})
    return SimpleNamespace(recipe=recipe, class_names=NAMES, class_counts=counts, num_classes=3)


def test_balanced_weights_are_inverse_to_the_images_and_one_on_average() -> None:
    counts = np.array([6, 2, 1])
    weights = class_weights(context("balanced"))
    assert weights is not None
    np.testing.assert_allclose(weights, [0.5, 1.5, 3.0])
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
    np.testing.assert_allclose(balanced((4, 0), 3), [1, 1, 1])  # classes without images don't count
    assert class_weights(context(None)) is None


def test_a_file_names_the_classes_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "weights.csv"
    path.write_text('dog,2\n"emu, big",3\n\ncat,0.5\n', "utf-8")
    np.testing.assert_array_equal(class_weights(context(str(path))), WEIGHTS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text, told",
    [
        ("cat,1\ndog,1\n", "has no weight for 1 classes, 'emu, big' first"),
        ("cat,1\ncow,1\n", "line 2: 'cow' is no class of the data set"),
        ("cat,1\ncat,2\n", "line 2: 'cat' is again"),
        ("cat,-1\n", "line 1: 'cat,-1', but it must be a class and its weight a line"),
        ("cat 1\n", "line 1: 'cat 1', but it must be a class and its weight a line"),
        (None, "can't be read: No such file or directory (give balanced, or a file"),
    ],
)
def test_mistakes(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.csv"
    if text is not None:
        path.write_text(text, "utf-8")
    with pytest.raises(UserError) as error:
        class_weights(context(str(path)))
    assert told in str(error.value) and str(path) in str(error.value)


def test_the_losses_weigh_as_pytorchs_do() -> None:
    """torch's cross_entropy(logits, probabilities, weight) and binary_cross_entropy_with_logits(..., weight), by
    hand.
    """
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((4, 3)).astype(np.float32), np.array([0, 2, 1, 2], np.int32)
    one_hot = np.eye(3)[labels]
    target = 0.9 * (0.7 * one_hot + 0.3 * one_hot[::-1]) + 0.1 / 3
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    inputs = Tensor(logits), Tensor(labels), Tensor(0.7, ms.float32)
    loss = SoftTargetCrossEntropy(0.1, True, WEIGHTS)(*inputs)
    assert float(loss.asnumpy()) == pytest.approx(-(WEIGHTS * target * log_p).sum(1).mean(), rel=1e-5)
    loss = BinaryCrossEntropy(0.1, True, WEIGHTS)(*inputs)
    expected = -(WEIGHTS * (target * np.log(p) + (1 - target) * np.log(1 - p))).mean()
    assert float(loss.asnumpy()) == pytest.approx(expected, rel=1e-5)


def test_pixels_weigh_as_in_mmsegmentation() -> None:
    """Each labelled pixel's loss times its class's weight, over the number of all pixels."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, 3, 4, 4)).astype(np.float32)
    labels = rng.integers(0, 3, (2, 4, 4)).astype(np.int32)
    labels[0, 1] = IGNORED
    cell = PixelCrossEntropy(IGNORED, weights_parameter(WEIGHTS))
    maps = cell.layout.from_images(Tensor(logits))
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = np.where(labels == IGNORED, 0, labels)
    own = -np.take_along_axis(log_p, target[:, None], 1)[:, 0] * WEIGHTS[target] * (labels != IGNORED)
    assert float(cell(maps, Tensor(labels)).asnumpy()) == pytest.approx(own.mean(), rel=1e-5)
    with pytest.raises(
        UserError, match=r"f.yaml: class_weights is balanced, .* but pixels have classes here: give a file"
    ):
        class_weights(context("balanced", ()))
