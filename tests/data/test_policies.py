"""Augmentation policies: randomness from one generator, and names."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from image_files import stripes
from PIL import Image

from mindvit.data.transforms.image import policies
from mindvit.data.transforms.policies import parse
from mindvit.errors import UserError

FILL = (124, 116, 104)
BICUBIC = Image.Resampling.BICUBIC
RAMP = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2))


@pytest.mark.parametrize(
    "name",
    [
        "rand-m9-mstd0.5-inc1",
        "randaug-m5-n3-p1",
        "rand-w0-n13",
        "rand-mstd101",
        "rand-m15-mmax20-mstd3",
        "autoaug-mstd0.5",
        "autoaugr",
        "trivialaugwide",
    ],
)
def test_a_policy_is_a_function_of_its_generator(name: str) -> None:
    policy, image = parse(name), stripes(0, 2, 0, (24, 24))
    results = []
    for attempt in range(2):
        random.seed(attempt), np.random.seed(attempt)  # must not matter
        state = random.getstate(), generator_state()
        results.append([np.asarray(policy(image, np.random.default_rng(seed), FILL, BICUBIC)) for seed in range(40)])
        assert (random.getstate(), generator_state()) == state
    assert all((one == two).all() and one.shape == (24, 24, 3) and one.dtype == np.uint8 for one, two in zip(*results))
    assert len({result.tobytes() for result in results[0]}) > 10
    assert (np.asarray(image) == np.asarray(stripes(0, 2, 0, (24, 24)))).all()


@pytest.fixture(name="applied")
def _applied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    """Calls of `apply`, which does nothing but note name and argument."""
    calls: list[tuple[str, float]] = []

    def note(name: str, image: Image.Image, argument: float, *_: Any) -> Image.Image:
        calls.append((name, argument))
        return image

    monkeypatch.setattr(policies, "apply", note)
    return calls


def generator_state() -> list[int]:
    """Of NumPy's own generator, which policies must leave alone."""
    state = np.random.get_state()
    assert isinstance(state, tuple)
    return list(state[1])


def draw(name: str, images: int, seed: int = 0) -> None:
    """Let a policy loose on some images."""
    policy, rng = parse(name), np.random.default_rng(seed)
    for _ in range(images):
        policy(RAMP, rng, FILL, BICUBIC)


def test_randaugment_draws_all_operations_equally_often_and_applies_half_of_them(
    applied: list[tuple[str, float]],
) -> None:
    draw("rand-m9-inc1", 6000)
    assert abs(len(applied) - 6000) < 250  # 12,000 draws, standard deviation 55
    counts = Counter(name for name, _ in applied)
    assert len(counts) == 15 and all(abs(count - 400) < 90 for count in counts.values())
    turns = [argument for name, argument in applied if name == "rotate"]
    assert set(turns) == {27, -27} and abs(np.mean(np.sign(turns))) < 0.2
    applied.clear()
    draw("rand-p1-n3", 200)
    assert len(applied) == 600


def test_the_same_operation_can_be_drawn_twice(applied: list[tuple[str, float]]) -> None:
    repeated = 0
    for seed in range(400):
        applied.clear()
        draw("rand-p1", 1, seed)
        repeated += applied[0][0] == applied[1][0]
    assert 10 < repeated < 50  # 1 in 15


def test_weights_prefer_rotation_and_never_repeat(applied: list[tuple[str, float]]) -> None:
    draw("rand-w0-n1-p1", 3000)
    counts = Counter(name for name, _ in applied)
    assert (
        abs(counts["rotate"] - 900) < 130
        and abs(counts["shear_x"] - 600) < 110
        and not {"posterize", "invert"} & set(counts)
    )
    applied.clear()
    draw("rand-w0-n13-p1", 1)
    assert len({name for name, _ in applied}) == 13


@pytest.mark.parametrize(
    "name, mean, std",
    [
        ("rand-m5-p1-mstd0.5", 15, 1.5),
        ("rand-m5-p1-mstd2", 15, 6),
        ("rand-m5-p1-mstd101", 7.5, 4.33),
        ("rand-m5-p1", 15, 0),
    ],
)
def test_magnitudes_vary_as_asked(applied: list[tuple[str, float]], name: str, mean: float, std: float) -> None:
    draw(name, 6000)
    degrees = np.array([abs(argument) for operation, argument in applied if operation == "rotate"])
    assert degrees.mean() == pytest.approx(mean, abs=0.6) and degrees.std() == pytest.approx(std, rel=0.15, abs=0.01)


def test_magnitudes_are_clipped_at_0_and_at_10_or_mmax(applied: list[tuple[str, float]]) -> None:
    draw("rand-m9-mstd2-p1-inc1", 3000)
    degrees = [abs(argument) for name, argument in applied if name == "rotate"]
    assert 0.2 < np.mean(np.isclose(degrees, 30)) < 0.45 and max(degrees) == 30  # P(z > 0.5) = 0.31
    applied.clear()
    draw("rand-m0-mstd2-p1-inc0", 3000)
    factors = [argument for name, argument in applied if name == "color"]
    assert 0.4 < np.mean(np.isclose(factors, 0.1)) < 0.6 and min(factors) == 0.1
    applied.clear()
    draw("rand-m15-mmax20-p1", 300)
    assert {abs(argument) for name, argument in applied if name == "rotate"} == {45}


def test_autoaugment_takes_pairs_with_their_probabilities(applied: list[tuple[str, float]]) -> None:
    draw("autoaug", 5000)
    counts = Counter(name for name, _ in applied)
    per_image = {
        "equalize": (0.8 + 0.6 + 0.4 + 0.4 + 0.6 + 1 + 0.6 + 0.6 + 0 + 0.8 + 1 + 1 + 0.6 + 0.4 + 1 + 0.8 + 0.6) / 25,
        "shear_x": 0.6 / 25,
        "posterize": (0.4 + 0.6 + 0.6 + 0.8 + 0.4) / 25,
        "rotate": (0.6 + 0.8 + 0.2 + 0.8 + 0.4 + 0.8) / 25,
    }
    assert {name: counts[name] / 5000 for name in per_image} == pytest.approx(per_image, abs=0.035)
    assert {argument for name, argument in applied if name == "posterize"} == {6, 7}
    applied.clear()
    draw("autoaugr", 2000)
    assert {argument for name, argument in applied if name == "posterize"} == {2, 1}


def test_increasing_and_other_sets_differ(applied: list[tuple[str, float]]) -> None:
    found = {}
    for name in ("rand-m9-p1", "rand-m9-p1-inc0", "rand-m9-p1-inc1"):
        applied.clear()
        draw(name, 300)
        found[name] = {(operation, round(argument, 6)) for operation, argument in applied}
    assert found["rand-m9-p1"] == found["rand-m9-p1-inc0"]
    assert {("posterize", 3), ("solarize", 230), ("color", 1.72)} <= found["rand-m9-p1"]
    assert {("posterize", 1), ("solarize", 26), ("color", 1.81), ("color", 0.19)} <= found["rand-m9-p1-inc1"]


def test_mindcvs_spelling_is_timms() -> None:
    assert parse("randaug-m9-mstd0.5-inc1") == parse("rand-m9-mstd0.5-inc1")
    assert parse("rand") == parse("rand-m10-n2-p0.5-mmax10-inc0-mstd0") and parse("rand-mstdinf") == parse(
        "rand-mstd101"
    )


@pytest.mark.parametrize(
    "name, message",
    [
        (
            "randaugment-m9",
            "'randaugment-m9', but must begin with one of randaug, autoaug, autoaugr, trivialaugwide; did you mean "
            "randaug?",
        ),
        ("augmix-m3", "must begin with one of randaug, autoaug, autoaugr, trivialaugwide"),
        (
            "rand-x3",
            "'x3' is no option of randaug; its options: m, n, p, w, mstd, mmax, inc, each followed by a number",
        ),
        ("rand-m9-msdt0.5", "'msdt0.5' is no option of randaug; .*did you mean mstd?"),
        ("rand-m", "'m' is no option of randaug; .*each followed by a number"),
        ("autoaug-m9", "'m9' is no option of autoaug; its options: mstd"),
        ("trivialaugwide-m9", "'m9' is no option of trivialaugwide; it takes none"),
        ("rand-m11", r"m must be from 0 to 10 \(mmax sets the highest\)"),
        ("rand-n0", "n must be an int from 1 to 13"),
        ("rand-n1.5", "n must be an int from 1 to 13"),
        ("rand-p1.1", "p must be from 0 to 1"),
        ("rand-w1", "w must be 0"),
        ("rand-inc2", "inc must be an int from 0 to 1"),
        ("rand-minf", "m must be from 0 to 10"),
    ],
)
def test_what_is_not_accepted_is_said_in_one_line(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse(name)
    assert "\n" not in str(caught.value) and repr(name) in str(caught.value)
