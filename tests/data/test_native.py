"""The compiled image functions beside Pillow's, and life without a compiler."""

from __future__ import annotations

import numpy as np
import pytest
from image_files import stripes
from PIL import Image

from mindvit.data import native
from mindvit.data.transforms.image import policies

BICUBIC, BILINEAR, NEAREST = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.NEAREST
FILL = (1, 120, 250)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def largest(one: Image.Image, other: Image.Image) -> int:
    assert one.size == other.size and one.mode == other.mode == "RGB"
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())


@pytest.mark.parametrize("method", [BICUBIC, BILINEAR])
@pytest.mark.parametrize(
    "size, target",
    [
        ((50, 40), (24, 24)),
        ((33, 33), (47, 61)),
        ((1, 1), (5, 4)),
        ((203, 77), (1, 1)),
        ((7, 5), (7, 5)),
        ((90, 3), (30, 9)),
        ((64, 64), (240, 240)),
        ((300, 299), (64, 64)),
        ((5, 2), (2, 2)),
    ],
)
def test_resizing_is_pillows_where_it_does_the_width_first(
    size: tuple[int, int], target: tuple[int, int], method: Image.Resampling
) -> None:
    image = noise(*size)
    assert largest(native.resize(image, target, method), image.resize(target, method)) == 0


@pytest.mark.parametrize("size", [(40, 200), (200, 40), (133, 91), (17, 250)])
def test_other_shapes_differ_by_a_rounding_at_most(size: tuple[int, int]) -> None:
    """Smooth images: where the one in between doesn't clip, rounding it moves the result by one or two levels."""
    x, y = np.meshgrid(np.linspace(0, 3, size[0]), np.linspace(0, 3, size[1]))
    image = Image.fromarray(
        np.stack([128 + 60 * np.sin(x + y), 128 + 60 * np.cos(x - y), 100 + 20 * x], -1).astype(np.uint8)
    )
    assert largest(native.resize(image, (64, 48), BICUBIC), image.resize((64, 48), BICUBIC)) <= 2


@pytest.mark.parametrize(
    "size, target",
    [
        ((50, 40), (36, 29)),
        ((40, 53), (27, 35)),
        ((24, 24), (24, 24)),
        ((20, 30), (48, 72)),
        ((90, 31), (70, 24)),
        ((31, 90), (24, 70)),  # height first
        ((60, 500), (24, 200)),
        ((30, 90), (28, 28)),
        ((40, 120), (60, 24)),
    ],
)
def test_a_window_is_pillows_whatever_comes_first(size: tuple[int, int], target: tuple[int, int]) -> None:
    image = noise(*size)
    for left, top, right, bottom in ((0, 0, *target), (3, 5, 23, 22), (target[0] - 9, target[1] - 8, *target)):
        for method in (BICUBIC, BILINEAR, NEAREST):
            expected = np.asarray(image.resize(target, method).crop((left, top, right, bottom)))
            assert (native.window(image, target, method, (left, top, right, bottom)) == expected).all()


def test_a_window_beyond_the_image_is_black_there() -> None:
    image = Image.new("RGB", (40, 30), "white")
    found = native.window(image, (20, 15), BICUBIC, (-2, -3, 22, 18))
    assert found.shape == (21, 24, 3) and found[:3].max() == found[:, -2:].max() == 0 and found[3:-3, 2:-2].min() == 255


def test_photographs_need_no_pillow_for_resizing() -> None:
    for size in ((500, 375), (375, 500), (1024, 768), (200, 399)):
        short = [side * 256 // min(size) for side in size]
        assert native.width_first(size, (short[0], short[1]))


def test_a_box_is_cut_out_first() -> None:
    image = noise(60, 50)
    assert (
        largest(
            native.resize(image, (24, 24), BICUBIC, (5, 7, 43, 39)),
            image.crop((5, 7, 43, 39)).resize((24, 24), BICUBIC),
        )
        == 0
    )
    assert (
        largest(
            native.resize(image, (24, 24), BICUBIC, (22, 12, 60, 50)),
            image.crop((22, 12, 60, 50)).resize((24, 24), BICUBIC),
        )
        == 0
    )  # the last pixel


@pytest.mark.parametrize(
    "matrix",
    [
        (1, 0.27, 0, 0, 1, 0),
        (1, 0, 0, -0.3, 1, 0),
        (1, 0, 13.4, 0, 1, 0),
        (1, 0, 0, 0, 1, -7.7),
        (1, 0, 3, 0, 1, 2),
        (0.9, 0.2, 4.5, -0.3, 1.1, 6.5),
        (1, 0, 500, 0, 1, 0),
        (-1.3, 0.4, 40, 0.2, -0.8, 33),
    ],
)
@pytest.mark.parametrize("size", [(50, 40), (3, 2), (1, 1)])
def test_moved_pixels_are_pillows(matrix: tuple[float, ...], size: tuple[int, int]) -> None:
    image = noise(*size)
    expected = image.transform(size, Image.Transform.AFFINE, matrix, resample=BICUBIC, fillcolor=FILL)
    assert largest(native.transform(image, matrix, BICUBIC, FILL), expected) == 0


@pytest.mark.parametrize("degrees", [0, 90, -90, 180, 13.37, -29.9, 135, 400.5, 1e-3])
def test_turned_images_are_pillows(degrees: float) -> None:
    for image in (noise(50, 40), noise(31, 31)):
        assert (
            largest(
                native.rotate(image, degrees, BICUBIC, FILL), image.rotate(degrees, resample=BICUBIC, fillcolor=FILL)
            )
            == 0
        )


@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_policies_move_pixels_with_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image, argument = stripes(1, 3, 0), 0.25 if name != "rotate" else 17.0
    compiled = policies.apply(name, image, argument, FILL, BICUBIC)
    monkeypatch.setattr(native, "loaded", lambda: None)
    assert (
        largest(compiled, policies.apply(name, image, argument, FILL, BICUBIC)) == 0 and largest(compiled, image) > 50
    )


def test_what_it_doesnt_know_is_left_to_pillow() -> None:
    image, grey = noise(50, 40), noise(50, 40).convert("L")
    assert largest(native.resize(image, (24, 24), NEAREST), image.resize((24, 24), NEAREST)) == 0
    assert native.resize(grey, (24, 24), BICUBIC).mode == "L"
    expected = image.transform(
        image.size, Image.Transform.AFFINE, (1, 0.2, 0, 0, 1, 0), resample=BILINEAR, fillcolor=FILL
    )
    assert largest(native.transform(image, (1, 0.2, 0, 0, 1, 0), BILINEAR, FILL), expected) == 0


def test_without_a_library_pillow_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "loaded", native.loaded.__wrapped__)
    monkeypatch.setenv(native.SWITCH, "0")
    image = noise(50, 40)
    assert (
        native.loaded() is None
        and largest(native.resize(image, (24, 24), BICUBIC), image.resize((24, 24), BICUBIC)) == 0
    )
