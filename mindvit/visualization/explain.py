"""What a classifier looked at in one image, by one of two methods, as rows of maps for a sheet, a slide or a page."""

from __future__ import annotations

import dataclasses
from typing import Optional

import numpy as np

from mindvit.inference.predictor import Predictor
from mindvit.visualization.attention import FIRST, AttentionMap, Point, Row, attention_maps
from mindvit.visualization.gradcam import grad_cam

ATTENTION, GRAD_CAM = "attention", "gradcam"
METHODS = {ATTENTION: "attention", GRAD_CAM: "Grad-CAM"}  # by the option's word
CLASSES = 5  # the likeliest, whose Grad-CAM is shown


def foremost(
    predictor: Predictor,
    pixels: np.ndarray,
    method: str = ATTENTION,
    at: Point = (0.5, 0.5),
    number: Optional[int] = None,
) -> tuple[np.ndarray, AttentionMap]:
    """The logits and the one map to look at first, which `explained` begins with; the same arguments and errors."""
    x = predictor.normalised(pixels[None])
    if method == ATTENTION:
        logits, rows = attention_maps(predictor.net, x, at)
        first = rows[0].tiles[0]
        assert isinstance(first, AttentionMap)  # which the first row has
        return logits, first
    logits, cams = grad_cam(predictor.net, x, number)
    return logits, of_class(cams[0], predictor, int(logits.argmax()) if number is None else number)


def of_class(cam: AttentionMap, predictor: Predictor, number: int) -> AttentionMap:
    """A class's Grad-CAM under its name."""
    return dataclasses.replace(cam, title=f"Grad-CAM: {predictor.class_names[number]}")


def explained(
    predictor: Predictor,
    pixels: np.ndarray,
    method: str = ATTENTION,
    at: Point = (0.5, 0.5),
    number: Optional[int] = None,
) -> tuple[np.ndarray, list[Row]]:
    """What the network looked at.

    Args:
        predictor: a classifier of the four families.
        pixels: the image as the network sees it, see Predictor.prepared.
        method: one of METHODS.
        at: see attention_maps.
        number: the class whose Grad-CAM is shown; None: the likeliest.

    Returns:
        The logits (num_classes,), and rows of maps. The first row's first map is the one to look at first.

    Raises:
        UserError: a network of another kind.
    """
    x = predictor.normalised(pixels[None])
    names = predictor.class_names
    logits, cams = grad_cam(predictor.net, x, number)
    order = [int(index) for index in np.argsort(-logits, kind="stable")]
    chosen = order[0] if number is None else number
    cam = of_class(cams[0], predictor, chosen)
    if method == ATTENTION:
        logits, rows = attention_maps(predictor.net, x, at)
        return logits, [Row(rows[0].title, [*rows[0].tiles, cam]), *rows[1:]]
    others = [index for index in order[:CLASSES] if index != chosen]
    tiles = [cam, *(of_class(grad_cam(predictor.net, x, index)[1][0], predictor, index) for index in others)]
    rows = [
        Row(f"{FIRST}: what speaks for {names[chosen]}, and beside it for the next class", tiles[:2]),
        Row("and for other likely classes", tiles[2:]),
        Row(f"{names[chosen]}, branch by branch", cams[1:]),
    ]
    return logits, [row for row in rows if row.tiles]
