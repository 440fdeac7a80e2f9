"""The networks are the authors': logits, loss, gradients and twenty training steps."""

from __future__ import annotations

import fnmatch
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from golden import (
    FOLDER,
    SMALL_ACTIVATIONS,
    VARIANTS,
    deviation,
    feature_deviations,
    fill,
    filled,
    goldens,
    gradient_deviations,
    gradients,
    is_big,
    is_without_gradient,
    logits,
    logits_deviations,
    logits_deviations_apart,
    statistics_deviation,
    trajectory,
)
from modes import uncompiled
from small import SMALL

from mindvit.layers.precision import set_precision
from mindvit.layers.resize import bicubic_matrix
from mindvit.models import list_models
from mindvit.runtime import platform

TOLERANCE = 1e-4
GOLDENS = goldens()
EXTRA = [name for name in list_models() if (FOLDER / f"{name}.extra.npz").exists()]
TRAJECTORIES = [name for name in list_models() if (FOLDER / f"{name}.trajectory.npz").exists()]
KINDS: dict[str, dict[str, float]] = {"plain": {}, "clip_ema": {"clip_norm": 1.0, "ema_decay": 0.9}}


def big(name: str, is_so: bool, *others: str) -> Any:
    """A test's parameters; those of the tests that take minutes, and wait for `pytest -m big`, are marked."""
    return pytest.param(name, *others, marks=[pytest.mark.big] if is_so else [])


def test_the_filling_is_the_oracles() -> None:
    fill.selftest()


def test_every_family_has_goldens() -> None:
    counts = {
        family: sum(len(files) for name, files in GOLDENS.items() if name.startswith(f"{family}_")) for family in SMALL
    }
    assert counts == {"crossvit": 7, "cvt": 3, "crossformer": 3, "xcit": 22}
    assert {VARIANTS[name]["family"] for name in EXTRA} == set(SMALL) and len(TRAJECTORIES) == 3


@pytest.mark.parametrize("name", [big(name, is_big(name)) for name in GOLDENS])
def test_logits(name: str) -> None:
    found = logits_deviations_apart(name) if is_big(name) else logits_deviations(name)
    assert (
        list(found) == [*GOLDENS[name], *[SMALL_ACTIVATIONS] * (name in EXTRA)] and max(found.values()) < TOLERANCE
    ), found


@pytest.fixture(scope="module", params=[big(name, name == "xcit_nano_12_p8_224") for name in EXTRA])
def extra(request: pytest.FixtureRequest) -> tuple:
    return request.param, np.load(FOLDER / f"{request.param}.extra.npz"), VARIANTS[request.param]["eval"]["input"][0]


def test_other_sizes(extra: tuple) -> None:
    name, golden, _ = extra
    net = filled(name)
    with uncompiled():
        for key in [key for key in golden.files if key.startswith("size/")]:
            size = tuple(map(int, key.split("/")[1].split("x")))
            assert deviation(logits(net, size), golden[key]) < TOLERANCE, key


def test_ten_classes(extra: tuple) -> None:
    name, golden, size = extra
    with uncompiled():
        assert deviation(logits(filled(name, num_classes=10), size), golden["nc10"]) < TOLERANCE


def test_logits_in_bfloat16(extra: tuple) -> None:
    """Operands have 8 bits: 2^-8 is the most that a product of two of them can be off, in parts of itself."""
    name, _, size = extra
    golden, net = np.load(FOLDER / f"{name}.npz"), filled(name)
    set_precision(net, "O2", ms.bfloat16)
    with uncompiled():
        found = deviation(logits(net, size), golden["logits"])
    # without such products on this processor it is float32 that runs
    assert (TOLERANCE < found < 4 * 2**-8) if platform.current().bfloat16_products else found < TOLERANCE, found


def test_features(extra: tuple) -> None:
    name, golden, size = extra
    with uncompiled():
        deviations = feature_deviations(name, size, golden)
    assert deviations and max(deviations.values()) < TOLERANCE, deviations


def test_loss_statistics_and_every_gradient(extra: tuple) -> None:
    name, golden, size = extra
    loss, found, statistics = gradients(name, size)
    assert statistics_deviation(statistics, golden) < TOLERANCE
    assert set(found) == set(map(str, golden["grad_name"]))
    assert abs(loss / float(golden["loss"]) - 1) < TOLERANCE
    norm, sample = gradient_deviations(found, golden)
    assert norm < 1e-3 and sample < 1e-3


@pytest.mark.parametrize(
    "name, kind",
    [big(name, name == "cvt_13_224" and kind == "clip_ema", kind) for name in TRAJECTORIES for kind in KINDS],
)
def test_twenty_steps(name: str, kind: str) -> None:
    options = KINDS[kind]
    golden = np.load(FOLDER / f"{name}.trajectory.npz")
    losses, norms, step = trajectory(name, int(golden["input_size"][0]), **options)
    assert np.abs(np.array(losses) / golden[f"{kind}/loss"] - 1).max() < 1e-4
    assert np.abs(np.array(norms) / golden[f"{kind}/grad_norm"] - 1).max() < 1e-3
    finals = [("param", {item.name: item for item in step.weights})]
    if options:
        finals.append(("ema", {weight.name: item for weight, item in zip(step.weights, step.update.ema)}))
    for what, found in finals:
        rows = zip(*(golden[f"{kind}/{what}_{part}"] for part in ("name", "l2", "idx", "val")))
        for parameter, norm, index, value in rows:
            ours = found[str(parameter)].asnumpy().astype(np.float64).ravel()
            sampled = (index >= 0) & ~without_effect(name, str(parameter), len(ours), index)
            if sampled.any():
                assert abs(np.linalg.norm(ours) / norm - 1) < 1e-4, parameter
                assert np.abs(ours[index[sampled]] - value[sampled]).max() < 1e-5, parameter


def without_effect(network: str, name: str, size: int, index: np.ndarray) -> np.ndarray:
    """Elements whose gradient is zero in exact arithmetic, or nearly: what AdamW makes of it is rounding. A third of
    qkv.bias is the keys'.

    What scales a channel before CvT's depth-wise convolutions is undone by the batch normalisation after them.
    """
    if fnmatch.fnmatch(name, "stage[01].blocks.*.norm1.weight"):
        return np.full(index.shape, True)
    if name.endswith("qkv.bias") and not (
        VARIANTS[network]["family"] == "xcit" and name.startswith("blocks.")
    ):  # those keys are normalised, bias and all
        return (index >= size // 3) & (index < 2 * size // 3)
    return np.full(index.shape, is_without_gradient(name))


def test_bicubic_matrices() -> None:
    golden = np.load(FOLDER / "bicubic.npz")
    assert golden.files
    for key in golden.files:
        inputs, outputs = map(int, key.split("to"))
        assert np.abs(bicubic_matrix(inputs, outputs) - golden[key]).max() < 1e-6, key
