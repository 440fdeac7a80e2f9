"""What is made of one image: crops, views, and policies by name."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mindvit.data.preprocessing import Preprocessing
from mindvit.data.transforms.image import EvalTransform, EvalViews, random_box
from mindvit.errors import UserError
from mindvit.models import model_info
from mindvit.recipe.options import AugmentOptions


@pytest.mark.parametrize(
    "size, crop_pct, resized, corner",
    [
        ((50, 40), 0.875, (33, 27), (4, 2)),
        ((40, 53), 0.875, (27, 35), (2, 6)),
        ((27, 27), 0.875, (27, 27), (2, 2)),
        ((50, 40), 0.9, (32, 26), (4, 1)),
        ((20, 10), 1.0, (48, 24), (12, 0)),
    ],
)
def test_evaluation_is_pillows_resize_and_centre_crop(
    size: tuple[int, int], crop_pct: float, resized: tuple[int, int], corner: tuple[int, int]
) -> None:
    """Short side to floor(24 / crop_pct), the long one rounded down, centre of 24 (halves to even): not one grey
    level of difference.
    """
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    left, top = corner
    expected = np.asarray(image.resize(resized, Image.Resampling.BICUBIC).crop((left, top, left + 24, top + 24)))
    assert (EvalTransform(24, crop_pct, "bicubic")(image) == expected).all()


def test_squeeze_keeps_the_whole_image() -> None:
    image = Image.new("RGB", (60, 20), "black")
    image.paste("white", (50, 0, 60, 20))
    squeezed = EvalTransform(24, 0.875, "bicubic", "squash")(image)
    assert squeezed.shape == (24, 24, 3) and squeezed[:, -2:].min() > 250 and squeezed[:, :18].max() < 5
    assert EvalTransform(24, 0.875, "bicubic")(image).max() == 0


def test_random_boxes_have_the_asked_area_and_ratio() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([random_box((400, 300), (0.08, 1.0), (3 / 4, 4 / 3), rng) for _ in range(3000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 400 and boxes[:, 3].max() <= 300
    area, ratio = width * height / 120000, width / height
    assert 0.079 < area.min() < 0.09 and area.max() > 0.95 and 0.74 < ratio.min() < 0.76 and 1.3 < ratio.max() < 1.35
    assert boxes[:, 0].max() > 200 and boxes[:, 1].max() > 150
    square = np.array(
        [random_box((300, 300), (0.08, 0.7), (3 / 4, 4 / 3), rng) for _ in range(3000)]
    )  # all boxes fit: none is preferred
    assert abs(np.log((square[:, 2] - square[:, 0]) / (square[:, 3] - square[:, 1])).mean()) < 0.015
    assert abs(((square[:, 2] - square[:, 0]) * (square[:, 3] - square[:, 1]) / 90000).mean() - 0.39) < 0.015
    assert random_box((1000, 10), (0.9, 1.0), (3 / 4, 4 / 3), rng) == (493, 0, 506, 10)
    assert random_box((10, 1000), (0.9, 1.0), (3 / 4, 4 / 3), rng) == (0, 493, 10, 506)


@pytest.mark.parametrize(
    "policy, message",
    [
        (
            "randaugment",
            "auto_augment is 'randaugment', but must begin with one of randaug, autoaug, .*; did you mean randaug",
        ),
        (
            "randaug-x3",
            "'x3' is no option of randaug; its options: m, n, p, w, mstd, mmax, inc, each followed by a number",
        ),
        ("autoaug-m", "'m' is no option of autoaug"),
    ],
)
def test_unknown_policies_are_refused_before_the_first_batch(policy: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _ = Preprocessing(model_info("crossvit_9"), AugmentOptions(auto_augment=policy)).train_transform


def test_views_of_an_image() -> None:
    """The middle and its mirror image; the middle and the four corners, row by row."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 40, 3)).astype(np.uint8))
    pixels, transform = np.asarray(image), EvalTransform(10, 0.5, "bicubic")
    middle = pixels[5:15, 15:25]
    assert np.array_equal(EvalViews(transform, "flip")(image), [middle, middle[:, ::-1]])
    corners = [pixels[top : top + 10, left : left + 10] for top in (0, 10) for left in (0, 30)]
    assert np.array_equal(EvalViews(transform, "five_crops")(image), [middle, *corners])
