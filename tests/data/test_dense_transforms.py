"""Images with label maps: every step of OpenMMLab's pipelines with the oracle's pictures and draws, bit by bit."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from dense_goldens import sampled
from golden import FOLDER

from mindvit.data.transforms import dense
from mindvit.models.info import IMAGENET_MEAN, IMAGENET_STD

GOLDEN = np.load(FOLDER / "segmentation_data.npz")
TRAINING = sorted({key.split("/")[1] for key in GOLDEN.files if key.startswith("seg/") and key.endswith("/draws")})
MEAN, STD = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
DRAWN = {"random": ("random_sample", "rand"), "integers": ("randint",), "uniform": ("uniform",)}


class Script:
    """A generator that gives what was written down, and fails when it is asked for anything else."""

    def __init__(self, draws: list[list[Any]]):
        self.draws = list(draws)

    def __getattr__(self, name: str) -> Any:
        def draw(*arguments: float) -> float:
            function, given, result = self.draws.pop(0)
            assert function in DRAWN[name]
            assert given == list(arguments)
            return result

        return draw


def rgb(key: str) -> np.ndarray:
    """A stored picture, which is blue first."""
    return GOLDEN[key][..., ::-1]


def script(case: str, *steps: str) -> Script:
    draws = json.loads(str(GOLDEN[f"seg/{case}/draws"]))
    return Script([draw for step in steps for draw in draws[step]])


@pytest.mark.parametrize("case", sorted({key.split("/")[1] for key in GOLDEN.files if key.startswith("resize/")}))
def test_resize(case: str) -> None:
    out = rgb(f"resize/{case}/out")
    assert np.array_equal(dense.resize(rgb(f"resize/{case}/in"), (out.shape[0], out.shape[1])), out)
    labels = GOLDEN[f"resize/{case}/label_out"]
    assert np.array_equal(dense.resize_labels(GOLDEN[f"resize/{case}/label_in"], labels.shape), labels)


def test_sizes() -> None:
    for height, width, ratio, long_side, short_side, new_height, new_width in GOLDEN["seg/train_sizes"]:
        scale = dense.scaled((2048, 512), ratio)
        assert scale == (long_side, short_side)
        assert dense.fit_within((int(height), int(width)), scale) == (new_height, new_width)
    assert len(GOLDEN["seg/train_sizes"]) == 100


def test_sizes_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "resize", lambda image, size: np.broadcast_to(image[:1, :1], (*size, 1)))
    for height, width, ratio, out_height, out_width, *_ in GOLDEN["seg/test_sizes"]:
        blank = np.broadcast_to(np.uint8(0), (int(height), int(width), 1))
        assert dense.align_resize(blank, dense.scaled((2048, 512), ratio)).shape[:2] == (out_height, out_width)


@pytest.mark.parametrize("case", sorted({key.split("/")[2] for key in GOLDEN.files if key.startswith("seg/align/")}))
def test_align_resize(case: str) -> None:
    long_side, short_side = map(int, GOLDEN[f"seg/align/{case}/scale"])
    scale = (long_side, short_side)
    assert np.array_equal(dense.align_resize(rgb(f"seg/align/{case}/in"), scale), rgb(f"seg/align/{case}/out"))


def test_hsv() -> None:
    assert np.array_equal(dense.to_hsv(rgb("photo/in")), GOLDEN["photo/hsv"])


@pytest.mark.parametrize("key", [key for key in GOLDEN.files if key.startswith("photo/") and key[-1].isdigit()])
def test_distortions(key: str) -> None:
    kind = key.split("/")[1].rstrip("0123456789.+-")
    amount = float(key.split(kind)[1])
    change = {
        "brightness": lambda image: dense.stretched(image, offset=amount),
        "contrast": lambda image: dense.stretched(image, amount),
        "saturation": lambda image: dense.saturated(image, amount),
        "hue": lambda image: dense.turned(image, int(amount)),
    }[kind]
    assert np.array_equal(change(rgb("photo/in")), rgb(key))


def test_normalize() -> None:
    found = dense.normalize(rgb("normalize/in"), MEAN, STD).transpose(1, 2, 0)
    assert np.abs(found - GOLDEN["normalize/out"]).max() < 1e-5


@pytest.mark.parametrize("case", TRAINING)
def test_training_steps(case: str) -> None:
    image, labels = rgb(f"seg/{case}/image"), dense.reduce_zero_label(GOLDEN[f"seg/{case}/label"])
    size = GOLDEN[f"seg/{case}/resize"].shape[:2]
    image, labels = dense.resize(image, size), dense.resize_labels(labels, size)
    assert np.array_equal(image, rgb(f"seg/{case}/resize"))
    assert np.array_equal(labels, GOLDEN[f"seg/{case}/resize_label"])
    box = dense.varied_crop(labels, (28, 36), 0.75, script(case, "crop"))  # type: ignore[arg-type]
    assert np.array_equal(image[box], rgb(f"seg/{case}/crop"))
    assert np.array_equal(labels[box], GOLDEN[f"seg/{case}/crop_label"])


@pytest.mark.parametrize("case", TRAINING)
def test_the_whole_training_transform(case: str) -> None:
    transform = dense.SegmentationTransform(scale=(120, 32), crop=(28, 36))
    rng = script(case, "resize", "crop", "flip", "photo")
    labels = dense.reduce_zero_label(GOLDEN[f"seg/{case}/label"])
    image, labels, size = transform(rgb(f"seg/{case}/image"), labels, rng)  # type: ignore[arg-type]
    assert not rng.draws
    assert np.array_equal(labels, GOLDEN[f"seg/{case}/final_label"])
    assert np.array_equal(image[: size[0], : size[1]], rgb(f"seg/{case}/photo"))
    assert np.array_equal(labels[: size[0], : size[1]], GOLDEN[f"seg/{case}/flip_label"])
    final = dense.normalize(image, MEAN, STD)
    final[:, size[0] :] = final[:, :, size[1] :] = 0
    assert sampled(final, GOLDEN, f"seg/{case}/final") < 1e-5


def test_padding_and_labels() -> None:
    padded = dense.pad(np.ones((2, 3), np.uint8), (3, 5), dense.IGNORED)
    assert padded.tolist() == [[1, 1, 1, 255, 255], [1, 1, 1, 255, 255], [255] * 5]
    assert dense.reduce_zero_label(np.array([0, 1, 150, 255], np.uint8)).tolist() == [255, 0, 149, 255]
