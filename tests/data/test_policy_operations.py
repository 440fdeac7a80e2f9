"""The operations of augmentation policies: what they do, at the levels as published."""

from __future__ import annotations

from collections import Counter
from typing import Mapping

import numpy as np
import pytest
from image_files import stripes
from PIL import Image

from mindvit.data.transforms.image import policies
from mindvit.data.transforms.policies import INCREASING, ORIGINAL, SCALES, WIDE, Scale, apply, parse

FILL = (124, 116, 104)
BICUBIC = Image.Resampling.BICUBIC
RAMP = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2))


def values(name: str, argument: float) -> np.ndarray:
    """What becomes of the values 0..255."""
    return np.asarray(apply(name, RAMP, argument, FILL, BICUBIC))[..., 0].ravel()


@pytest.mark.parametrize(
    "name, arguments",
    [  # at levels 0, 3, 5, 9, 10
        ("rotate", (0, 9, 15, 27, 30)),
        ("shear_x", (0, 0.09, 0.15, 0.27, 0.3)),
        ("shear_y", (0, 0.09, 0.15, 0.27, 0.3)),
        ("translate_x", (0, 0.135, 0.225, 0.405, 0.45)),
        ("translate_y", (0, 0.135, 0.225, 0.405, 0.45)),
        ("solarize_add", (0, 33, 55, 99, 110)),
        ("posterize", (4, 3, 2, 1, 0)),
        ("solarize", (256, 180, 128, 26, 0)),
        ("color", (1, 1.27, 1.45, 1.81, 1.9)),
        ("contrast", (1, 1.27, 1.45, 1.81, 1.9)),
        ("brightness", (1, 1.27, 1.45, 1.81, 1.9)),
        ("sharpness", (1, 1.27, 1.45, 1.81, 1.9)),
    ],
)
def test_increasing_arguments_are_the_published_ones(name: str, arguments: tuple[float, ...]) -> None:
    scale = INCREASING[name]
    assert [scale(level / 10, 1) for level in (0, 3, 5, 9, 10)] == pytest.approx(arguments)
    mirrored = {"color": 2, "contrast": 2, "brightness": 2, "sharpness": 2}.get(name, 0)
    signed = mirrored or name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
    assert [scale(level / 10, -1) for level in (0, 3, 5, 9, 10)] == pytest.approx(
        [mirrored - value for value in arguments] if signed else arguments
    )


@pytest.mark.parametrize(
    "scales, name, arguments",
    [  # at levels 0, 3, 5, 9, 10
        (SCALES, "posterize", (0, 1, 2, 3, 4)),
        (SCALES, "solarize", (0, 76, 128, 230, 256)),
        (SCALES, "color", (0.1, 0.64, 1, 1.72, 1.9)),
        (ORIGINAL, "posterize", (4, 5, 6, 7, 8)),
        (ORIGINAL, "contrast", (0.1, 0.64, 1, 1.72, 1.9)),
    ],
)
def test_arguments_that_do_not_increase(scales: Mapping[str, Scale], name: str, arguments: tuple[float, ...]) -> None:
    for sign in (1, -1):
        assert [scales[name](level / 10, sign) for level in (0, 3, 5, 9, 10)] == pytest.approx(arguments)


@pytest.mark.parametrize(
    "name, arguments",
    [  # at levels 0, 7, 15, 30 of 30
        ("rotate", (0, 31, 67, 135)),
        ("translate_x_px", (0, 7, 16, 32)),
        ("shear_y", (0, 0.231, 0.495, 0.99)),
        ("posterize", (8, 7, 5, 2)),
        ("solarize", (256, 197, 128, 0)),
        ("brightness", (0.01, 0.47433, 1.005, 2)),
    ],
)
def test_wide_arguments_are_the_published_ones(name: str, arguments: tuple[float, ...]) -> None:
    assert [WIDE[name](level / 30, 1) for level in (0, 7, 15, 30)] == pytest.approx(arguments, abs=1e-5)


def test_arguments_stay_in_range_beyond_level_10() -> None:
    for scales in (SCALES, INCREASING):
        assert 0 <= scales["posterize"](3.0, 1) <= 8 and 0 <= scales["solarize"](3.0, 1) <= 256
        assert scales["solarize_add"](3.0, 1) == 128 and scales["color"](3.0, -1) >= 0.1


def test_sets_hold_the_published_operations() -> None:
    fifteen = {
        "autocontrast",
        "equalize",
        "invert",
        "rotate",
        "posterize",
        "solarize",
        "solarize_add",
        "color",
        "contrast",
        "brightness",
        "sharpness",
        "shear_x",
        "shear_y",
        "translate_x",
        "translate_y",
    }
    for name in ("rand", "rand-inc1"):
        assert {operation.name for (operation,) in parse(name).choices} == fifteen and len(parse(name).choices) == 15
    wide = [(operation.name, operation.prob) for (operation,) in parse("trivialaugwide").choices]
    assert Counter(wide) == {(name, 1.0): 31 for name in WIDE} and len(WIDE) == 14
    pairs = parse("autoaug").choices
    assert len(pairs) == 25 and all(
        len(pair) == 2 and {operation.name for operation in pair} <= fifteen for pair in pairs
    )
    assert [(operation.name, operation.prob, operation.strength) for operation in pairs[7]] == [
        ("posterize", 0.8, 0.5),
        ("equalize", 1.0, 0.2),
    ]


def test_autoaugments_table_is_the_papers() -> None:
    found: dict[str, list[int]] = {}
    for operation in (operation for pair in parse("autoaug").choices for operation in pair):
        sums = found.setdefault(operation.name, [0, 0, 0])
        sums[:] = sums[0] + 1, sums[1] + round(10 * operation.prob), sums[2] + round(10 * operation.strength)
    assert found == {  # how many, tenths of probability, levels
        "equalize": [17, 112, 102],
        "solarize": [7, 36, 36],
        "posterize": [5, 28, 32],
        "rotate": [6, 36, 45],
        "color": [6, 38, 18],
        "invert": [3, 18, 16],
        "autocontrast": [2, 12, 10],
        "contrast": [2, 20, 16],
        "sharpness": [1, 4, 7],
        "shear_x": [1, 6, 5],
    }


def test_posterize_keeps_the_highest_bits_and_may_keep_none() -> None:
    assert [len(set(values("posterize", bits))) for bits in range(9)] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert values("posterize", 3)[255] == 0b11100000 and values("posterize", 0).max() == 0
    kept = [len(set(values("posterize", INCREASING["posterize"](level / 10, 1)))) for level in range(11)]
    assert kept == sorted(kept, reverse=True) and kept[0] == 16 and kept[10] == 1


def test_solarize_add_brightens_the_dark_half() -> None:
    expected = np.arange(256)
    assert (values("solarize_add", 0) == expected).all()
    expected[:128] += 99
    assert (values("solarize_add", 99) == expected).all()
    assert values("solarize_add", 128).max() == 255


def test_solarize_inverts_from_the_threshold_on() -> None:
    assert values("solarize", 128)[[0, 127, 128, 255]].tolist() == [0, 127, 127, 0]
    assert (values("solarize", 256) == np.arange(256)).all() and (values("solarize", 0) == 255 - np.arange(256)).all()


def test_operations_that_only_change_colours() -> None:
    image = Image.fromarray(np.asarray(stripes(1, 3, 0)) // 2 + 40)
    pixels, after = (
        np.asarray(image),
        {name: np.asarray(apply(name, image, 0, FILL, BICUBIC)) for name in WIDE if name in policies.COLOURS},
    )
    assert (after["identity"] == pixels).all() and (
        np.asarray(apply("invert", image, 0, FILL, BICUBIC)) == 255 - pixels
    ).all()
    assert pixels.min() > 0 and after["autocontrast"].min() == 0 and after["autocontrast"].max() == 255
    assert after["brightness"].max() == 0 and len(np.unique(after["contrast"])) == 1
    assert (after["color"].min(2) == after["color"].max(2)).all() and after["color"].std() > 10
    assert (
        np.abs(np.diff(after["sharpness"].astype(int), axis=0)).mean()
        < np.abs(np.diff(pixels.astype(int), axis=0)).mean()
    )
    assert np.histogram(after["equalize"], 4)[0].min() > 0.8 * pixels.size / 4
    for name in ("color", "contrast", "brightness", "sharpness"):
        assert (np.asarray(apply(name, image, 1, FILL, BICUBIC)) == pixels).all()


def test_moves_resample_as_asked() -> None:
    image = Image.fromarray(np.random.default_rng(0).choice(np.array([10, 200], np.uint8), (16, 16, 3)))
    for name, argument in (("rotate", 20), ("shear_x", 0.2), ("translate_y", 0.2)):
        results = [
            np.asarray(apply(name, image, argument, (10, 10, 10), method))
            for method in (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, BICUBIC)
        ]
        assert (
            set(np.unique(results[0])) == {10, 200}
            and results[1].min() == 10
            and len(np.unique(results[1])) > 5
            and (results[1] != results[2]).any()
        )


def test_moves_go_where_they_should_and_fill_with_the_given_colour() -> None:
    white = Image.new("RGB", (40, 20), "white")
    for name, argument, filled in (
        ("translate_x", 0.45, np.s_[:, -18:]),
        ("translate_x", -0.45, np.s_[:, :18]),
        ("translate_y", 0.45, np.s_[-9:, :]),
        ("translate_y", -0.45, np.s_[:9, :]),
        ("translate_x_px", 7, np.s_[:, -7:]),
        ("translate_y_px", -7, np.s_[:7, :]),
    ):
        pixels = np.asarray(apply(name, white, argument, FILL, BICUBIC))
        assert (pixels[filled] == FILL).all() and (pixels == FILL).all(2).sum() == pixels[filled].size // 3, name
    for name, argument, corners in (
        ("rotate", 30, (0, 1, 2, 3)),
        ("shear_x", 0.3, (3,)),
        ("shear_x", -0.3, (2,)),
        ("shear_y", 0.3, (3,)),
        ("shear_y", -0.3, (1,)),
    ):
        pixels = np.asarray(apply(name, white, argument, FILL, BICUBIC))
        assert [
            number
            for number, corner in enumerate(pixels[[0, 0, -1, -1], [0, -1, 0, -1]].tolist())
            if corner == list(FILL)
        ] == list(corners), name
    dot = np.zeros((21, 21, 3), np.uint8)
    dot[10, 20] = 255  # turned counterclockwise from the right to the top
    assert np.asarray(apply("rotate", Image.fromarray(dot), 90, FILL, BICUBIC))[0, 10].min() == 255
