"""What is done to a picture on the host: crops, resizing, flips and colours, from an RGB picture to uint8 HWC.

Resizing is Pillow's, with antialiasing, as in the papers' own code. Every random choice comes from a generator that is passed in.
"""

from __future__ import annotations

import functools
import random
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from mindvit.errors import UserError, nearest
from mindvit.recipe import AugmentOptions, Pair, Triple

RESAMPLING = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
CROP_ATTEMPTS = 10
# Policies by name, with the letters of their options ('m9' is option m, value 9).
POLICIES = {
    "randaug": ("m", "n", "w", "mstd", "mmax", "inc"), "autoaug": ("mstd",), "autoaugr": ("mstd",), "3a": ("mstd",),
    "trivialaugwide": ("m",), "augmix": ("m", "w", "d", "a", "mstd"),
}
Box = tuple[int, int, int, int]
Policy = Callable[[np.ndarray], np.ndarray]

# MindCV's policies draw from Python's and NumPy's global generators, which are lent to one picture at a time.
_GLOBAL_RANDOMNESS = threading.Lock()


@dataclass(frozen=True)
class EvalTransform:
    """Resize the short side to size/crop_pct and cut out the centre, or, with `squeeze`, resize to size x size px straight away."""

    size: int
    crop_pct: float
    interpolation: str
    squeeze: bool

    def __call__(self, image: Image.Image) -> np.ndarray:
        """uint8 (size, size, 3)."""
        method = RESAMPLING[self.interpolation]
        if self.squeeze:
            return np.asarray(image.resize((self.size, self.size), method))
        short = int(self.size / self.crop_pct)
        width, height = (short * side // min(image.size) for side in image.size)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return np.asarray(image.resize((width, height), method).crop((left, top, left + self.size, top + self.size)))


@dataclass(frozen=True)
class TrainTransform:
    """Random crop resized to size x size px, flips, and colours: a policy by name, or else jitter."""

    size: int
    interpolation: str
    mean: Triple
    options: AugmentOptions

    @functools.cached_property
    def policy(self) -> Policy | None:
        """The policy that `auto_augment` names."""
        return auto_augment(self.options.auto_augment, self.size, self.interpolation, self.mean) if self.options.auto_augment else None

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        """uint8 (size, size, 3); the same for the same picture and state of `rng`."""
        options = self.options
        if options.scale != (1, 1) or options.ratio != (1, 1):
            image = image.crop(random_box(image.size, options.scale, options.ratio, rng))
        image = image.resize((self.size, self.size), RESAMPLING[self.interpolation])
        if rng.random() < options.hflip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if rng.random() < options.vflip:
            image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        if self.policy:
            return with_global_seed(self.policy, np.asarray(image), int(rng.integers(2**32)))
        if options.color_jitter:
            image = jitter(image, options.color_jitter, rng)
        return np.asarray(image)


def random_box(size: tuple[int, int], scale: Pair, ratio: Pair, rng: np.random.Generator) -> Box:
    """Left, top, right, bottom of a random crop of a picture of `size` (width, height), px.

    Area uniform in `scale`, aspect ratio log-uniform in `ratio` (Inception's crop, arXiv:1409.4842, section 6); after ten boxes that don't fit,
    the largest central one with an allowed aspect ratio.
    """
    width, height = size
    for _ in range(CROP_ATTEMPTS):
        area = width * height * rng.uniform(*scale)
        aspect = np.exp(rng.uniform(*np.log(ratio)))
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, max(1, round(height * ratio[1]))), min(height, max(1, round(width / ratio[0])))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def jitter(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation, each times a factor uniform in 1 +- strength, in random order."""
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for which in rng.permutation(len(enhancers)):
        image = enhancers[which](image).enhance(rng.uniform(max(0.0, 1 - strength), 1 + strength))
    return image


def auto_augment(name: str, size: int, interpolation: str, mean: Triple) -> Policy:
    """MindCV's augmentation policy `name` for uint8 pictures of `size` px, filling with `mean` (0..1); UserError if there is no such policy."""
    kind, options = parse_policy(name)
    try:
        from mindcv.data import auto_augment as policies  # pylint: disable=import-outside-toplevel
        from mindspore.dataset.vision import Inter  # pylint: disable=import-outside-toplevel
    except ImportError as error:
        raise UserError(f"auto_augment: {name} needs the package mindcv, which can't be imported ({error}); pip install mindcv, or auto_augment: none") from None
    params = {"translate_const": int(size * 0.45), "img_mean": tuple(min(255, round(255 * value)) for value in mean),
              "interpolation": getattr(Inter, interpolation.upper())}
    if "mstd" in options:  # MindCV 0.3 reads this option after it has set its default of 0.5, and so ignores it
        params["magnitude_std"] = options["mstd"] if options["mstd"] <= 100 else float("inf")
    if kind == "augmix":
        params["translate_pct"] = 0.3
    # MindCV takes inc0 for inc1
    text = "-".join([kind] + [f"{key}{value:g}" for key, value in options.items() if key != "mstd" and (key, value) != ("inc", 0)])
    builders = {"randaug": policies.rand_augment_transform, "trivialaugwide": policies.trivial_augment_wide_transform,
                "augmix": policies.augment_and_mix_transform}
    return builders.get(kind, policies.auto_augment_transform)(text, params)


def parse_policy(name: str) -> tuple[str, dict[str, float]]:
    """A policy's kind and options: 'randaug-m9-inc1' is randaug with m = 9 and inc = 1; UserError for what is unknown."""
    kind, *parts = name.split("-")
    kind = "randaug" if kind == "rand" else kind
    if kind not in POLICIES:
        raise UserError(f"auto_augment is {name!r}, but must begin with one of {', '.join(POLICIES)}{nearest(kind, POLICIES)}")
    options = {}
    for part in parts:
        match = re.fullmatch(r"([a-z]+)(-?\d+(?:\.\d+)?|inf)", part)
        if not match or match[1] not in POLICIES[kind]:
            raise UserError(f"auto_augment is {name!r}, but {part!r} is no option of {kind}; its options: "
                            f"{', '.join(POLICIES[kind])}, each followed by a number (example: {kind}-{POLICIES[kind][0]}{1 if kind == 'augmix' else 9})")
        options[match[1]] = float(match[2])
    return kind, options


def with_global_seed(policy: Policy, image: np.ndarray, seed: int) -> np.ndarray:
    """`policy` of a picture, its draws from the global generators made a function of `seed` and the generators left as they were."""
    with _GLOBAL_RANDOMNESS:
        python_state, numpy_state = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed)
        try:
            result = policy(image)
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
    return np.clip(np.rint(result), 0, 255).astype(np.uint8) if result.dtype != np.uint8 else result
