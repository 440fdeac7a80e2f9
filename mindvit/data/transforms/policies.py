"""Augmentation policies: RandAugment (arXiv:1909.13719), AutoAugment (arXiv:1805.09501) and TrivialAugment
(arXiv:2103.10158, wide).

Ranges and options are those of timm 1.0.31 (timm/data/auto_augment.py), in whose terms the papers' recipes are written.
A policy says which operations an image goes through, how probably and at which level, 0 to 10; a scale turns the level
into the operation's argument.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Optional

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from mindvit.data import native
from mindvit.errors import UserError, nearest

Rgb = tuple[int, int, int]
Colour = Callable[[Image.Image, float], Image.Image]
Move = Callable[[float, int, int], tuple[float, ...]]
Scale = Callable[[float, int], float]

TOP = 10.0  # full level
UNIFORM_MSTD = 100  # a larger mstd draws the level uniformly from 0 to m


def posterize(image: Image.Image, bits: float) -> Image.Image:
    """Keep the highest `bits`, 0 to 8, of each channel; Pillow's own refuses the 0 that RandAugment reaches at level
    10.
    """
    return image.point([value & -(1 << (8 - int(bits))) for value in range(256)] * 3)


def solarize_add(image: Image.Image, add: float) -> Image.Image:
    """Brighten what is below 128 by `add`, at most to 255."""
    return image.point([min(255, value + int(add)) if value < 128 else value for value in range(256)] * 3)


# Operations that leave pixels in their place: image, argument -> image.
COLOURS: dict[str, Colour] = {
    "identity": lambda image, _: image,
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "invert": lambda image, _: ImageOps.invert(image),
    "posterize": posterize,
    "solarize": lambda image, threshold: ImageOps.solarize(image, int(threshold)),
    "solarize_add": solarize_add,
    "color": lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    "contrast": lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    "brightness": lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    "sharpness": lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor),
}
# Operations that move pixels: argument, width, height (px) -> a, b, c, d, e, f, where place (x, y) takes the colour at
# (ax + by + c, dx + ey + f).
MOVES: dict[str, Move] = {
    "shear_x": lambda factor, width, height: (1, factor, 0, 0, 1, 0),
    "shear_y": lambda factor, width, height: (1, 0, 0, factor, 1, 0),
    "translate_x": lambda share, width, height: (1, 0, share * width, 0, 1, 0),
    "translate_y": lambda share, width, height: (1, 0, 0, 0, 1, share * height),
    "translate_x_px": lambda pixels, width, height: (1, 0, pixels, 0, 1, 0),
    "translate_y_px": lambda pixels, width, height: (1, 0, 0, 0, 1, pixels),
}

# Scales: share of the full level, and a sign (1 or -1 at random) -> argument. An enhancer's factor 1 changes nothing.
PLAIN, ENHANCERS = ("autocontrast", "equalize", "invert"), ("color", "contrast", "brightness", "sharpness")
SHEARS, TRANSLATIONS, TRANSLATIONS_PX = (
    ("shear_x", "shear_y"),
    ("translate_x", "translate_y"),
    ("translate_x_px", "translate_y_px"),
)
# RandAugment with inc0: at a higher level posterize and solarize change the image less, and enhancers go from 0.1 to
# 1.9.
SCALES: dict[str, Scale] = {
    **dict.fromkeys(PLAIN, lambda share, sign: 0),
    "rotate": lambda share, sign: sign * 30 * share,
    "posterize": lambda share, sign: min(8, int(4 * share)),
    "solarize": lambda share, sign: min(256, int(256 * share)),
    "solarize_add": lambda share, sign: min(128, int(110 * share)),
    **dict.fromkeys(ENHANCERS, lambda share, sign: 0.1 + 1.8 * share),
    **dict.fromkeys(SHEARS, lambda share, sign: sign * 0.3 * share),
    **dict.fromkeys(TRANSLATIONS, lambda share, sign: sign * 0.45 * share),
}
# RandAugment with inc1: a higher level changes the image more.
INCREASING: dict[str, Scale] = {
    **SCALES,
    "posterize": lambda share, sign: max(0, 4 - int(4 * share)),
    "solarize": lambda share, sign: max(0, 256 - int(256 * share)),
    **dict.fromkeys(ENHANCERS, lambda share, sign: max(0.1, 1 + sign * 0.9 * share)),
}
# AutoAugment keeps 4 to 8 bits (the paper's appendix), and autoaugr 4 to 0.
ORIGINAL: dict[str, Scale] = {**SCALES, "posterize": lambda share, sign: 4 + int(4 * share)}
ORIGINAL_INCREASING: dict[str, Scale] = {**SCALES, "posterize": INCREASING["posterize"]}
# TrivialAugment's wide space, levels 0 to 30: whole px and degrees, as in its authors' code (automl/trivialaugment,
# aug_lib.py).
WIDE_TOP = 30
WIDE: dict[str, Scale] = {
    **dict.fromkeys(("identity", "autocontrast", "equalize"), lambda share, sign: 0),
    "rotate": lambda share, sign: sign * int(135 * share),
    "posterize": lambda share, sign: 8 - int(6 * share),
    "solarize": INCREASING["solarize"],
    **dict.fromkeys(ENHANCERS, lambda share, sign: 0.01 + 1.99 * share),
    **dict.fromkeys(SHEARS, lambda share, sign: sign * 0.99 * share),
    **dict.fromkeys(TRANSLATIONS_PX, lambda share, sign: sign * int(32 * share)),
}
# RandAugment with w0: how often an operation is drawn (timm's older versions).
WEIGHTS = {
    "rotate": 0.3,
    "shear_x": 0.2,
    "shear_y": 0.2,
    "translate_x": 0.1,
    "translate_y": 0.1,
    "color": 0.025,
    "sharpness": 0.025,
    "autocontrast": 0.025,
    "solarize": 0.005,
    "solarize_add": 0.005,
    "contrast": 0.005,
    "brightness": 0.005,
    "equalize": 0.005,
}
# AutoAugment's policy for ImageNet (the paper's appendix): 25 pairs of operation, probability in tenths and level.
IMAGENET = """
    posterize 4 8 rotate 6 9  | solarize 6 5 autocontrast 6 5 | equalize 8 8 equalize 6 3   | posterize 6 7 posterize 6 6 | equalize 4 7 solarize 2 4  |
    equalize 4 4 rotate 8 8   | solarize 6 3 equalize 6 7     | posterize 8 5 equalize 10 2 | rotate 2 3 solarize 6 8     | equalize 6 8 posterize 4 6 |
    rotate 8 8 color 4 0      | rotate 4 9 equalize 6 2       | equalize 0 7 equalize 8 8   | invert 6 4 equalize 10 8    | color 6 4 contrast 10 8    |
    rotate 8 8 color 10 2     | color 8 8 solarize 8 7        | sharpness 4 7 invert 6 8    | shear_x 6 5 equalize 10 9   | color 4 0 equalize 6 3     |
    equalize 4 7 solarize 2 4 | solarize 6 5 autocontrast 6 5 | invert 6 4 equalize 10 8    | color 6 4 contrast 10 8     | equalize 8 8 equalize 6 3"""
# Options of each policy: smallest, largest value, ints only.
OPTIONS: dict[str, dict[str, tuple[float, float, bool]]] = {
    "randaug": {
        "m": (0, TOP, False),
        "n": (1, len(WEIGHTS), True),
        "p": (0, 1, False),
        "w": (0, 0, True),
        "mstd": (0, math.inf, False),
        "mmax": (1, 100, False),
        "inc": (0, 1, True),
    },
    "autoaug": {"mstd": (0, math.inf, False)},
    "autoaugr": {"mstd": (0, math.inf, False)},
    "trivialaugwide": {},
}
DEFAULTS = {"m": TOP, "n": 2, "p": 0.5, "mstd": 0, "mmax": TOP, "inc": 0}


class Operation(NamedTuple):
    """Operation `name` with probability `prob` at `strength` (level / 10), which `scale` turns into its argument."""

    name: str
    scale: Scale
    prob: float
    strength: float


@dataclass(frozen=True)
class Policy:
    """`draws` of the `choices`, each a chain of operations; strengths vary normally with `std`, or uniformly from 0
    up if it is infinite, up to `highest`.
    """

    choices: tuple[tuple[Operation, ...], ...]
    draws: int = 1
    weights: Optional[tuple[float, ...]] = None  # with weights no choice is drawn twice, as in timm
    std: float = 0.0
    highest: float = 1.0

    def __call__(
        self, image: Image.Image, rng: np.random.Generator, fill: Rgb, resample: Image.Resampling
    ) -> Image.Image:
        """The RGB image `image`, augmented; a function of the state of `rng`. Places without a source pixel take
        the colour `fill`, 0..255.
        """
        for choice in rng.choice(len(self.choices), self.draws, replace=self.weights is None, p=self.weights):
            for name, scale, prob, strength in self.choices[choice]:
                if rng.random() < prob:
                    image = apply(
                        name, image, scale(self.varied(strength, rng), 1 if rng.random() < 0.5 else -1), fill, resample
                    )
        return image

    def varied(self, strength: float, rng: np.random.Generator) -> float:
        """`strength` with this policy's noise, within 0..`highest`."""
        if self.std:
            strength = rng.uniform(0, strength) if math.isinf(self.std) else rng.normal(strength, self.std)
        return max(0.0, min(strength, self.highest))


def apply(name: str, image: Image.Image, argument: float, fill: Rgb, resample: Image.Resampling) -> Image.Image:
    """The RGB image after operation `name`; for `argument` see SCALES (rotate: degrees, counterclockwise)."""
    if name in COLOURS:
        return COLOURS[name](image, argument)
    if name == "rotate":
        return native.rotate(image, argument, resample, fill)
    return native.transform(image, MOVES[name](argument, *image.size), resample, fill)


def parse(name: str) -> Policy:
    """The policy that a recipe's auto_augment names, such as rand-m9-mstd0.5-inc1; UserError if there is none."""
    kind, option = parse_options(name)
    std = float("inf") if option.get("mstd", 0) > UNIFORM_MSTD else option.get("mstd", 0) / TOP
    if kind == "trivialaugwide":
        return Policy(
            tuple(
                (Operation(key, scale, 1.0, level / WIDE_TOP),)
                for key, scale in WIDE.items()
                for level in range(WIDE_TOP + 1)
            )
        )
    if kind == "randaug":
        scales = INCREASING if option["inc"] else SCALES
        return Policy(
            tuple((Operation(key, scale, option["p"], option["m"] / TOP),) for key, scale in scales.items()),
            draws=int(option["n"]),
            weights=tuple(WEIGHTS.get(key, 0.0) for key in scales) if "w" in option else None,
            std=std,
            highest=option["mmax"] / TOP,
        )
    scales = ORIGINAL if kind == "autoaug" else ORIGINAL_INCREASING
    pairs = (pair.split() for pair in IMAGENET.split("|"))
    return Policy(
        tuple(
            tuple(
                Operation(key, scales[key], int(prob) / 10, int(level) / TOP)
                for key, prob, level in (words[:3], words[3:])
            )
            for words in pairs
        ),
        std=std,
    )


def parse_options(name: str) -> tuple[str, dict[str, float]]:
    """A policy's kind and options, defaults included: 'rand-m9-inc1' is randaug with m = 9, inc = 1, ...; UserError
    for what isn't accepted.
    """
    kind, *parts = name.split("-")
    kind = "randaug" if kind == "rand" else kind
    if kind not in OPTIONS:
        raise UserError(
            f"auto_augment is {name!r}, but must begin with one of {', '.join(OPTIONS)}{nearest(kind, OPTIONS)}"
        )
    accepted = OPTIONS[kind]
    result = dict(DEFAULTS) if kind == "randaug" else {}
    for part in parts:
        match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?|inf)", part)
        if not match or match[1] not in accepted:
            usage = f"its options: {', '.join(accepted)}, each followed by a number" if accepted else "it takes none"
            raise UserError(
                f"auto_augment is {name!r}, but {part!r} is no option of {kind}; "
                f"{usage}{nearest(part.rstrip('0123456789.'), accepted)}"
            )
        result[match[1]] = float(match[2])
    for key, value in result.items():
        low, high, whole = accepted[key]
        high = result["mmax"] if key == "m" else high
        if not low <= value <= high or (whole and value != int(value)):
            span = f"{'an int ' if whole else ''}from {low:g} to {high:g}" if low < high else f"{low:g}"
            raise UserError(
                f"auto_augment is {name!r}, but {key} must be {span}{' (mmax sets the highest)' if key == 'm' else ''}"
            )
    return kind, result
