"""What a classifier looked at in one image, by one of two methods, as rows of maps for a sheet, a slide or a page."""

from __future__ import annotations

import dataclasses
from typing import Optional

import numpy as np

from mindvit.inference.predictor import Predictor
from mindvit.visualization.attention import FIRST, Point, Row, attention_maps
from mindvit.visualization.gradcam import grad_cam

ATTENTION, GRAD_CAM = "attention", "gradcam"
METHODS = {ATTENTION: "attention", GRAD_CAM: "Grad-CAM"}  # by the option's word
CLASSES = 5  # the likeliest, whose Grad-CAM is shown


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
    cam = dataclasses.replace(cams[0], title=f"Grad-CAM: {names[chosen]}")
    if method == ATTENTION:
        logits, rows = attention_maps(predictor.net, x, at)
        return logits, [Row(rows[0].title, [*rows[0].tiles, cam]), *rows[1:]]
    others = [index for index in order[:CLASSES] if index != chosen]
    tiles = [cam]
    for index in others:
        tiles.append(dataclasses.replace(grad_cam(predictor.net, x, index)[1][0], title=f"Grad-CAM: {names[index]}"))
    rows = [
        Row(f"{FIRST}: what speaks for {names[chosen]}, and beside it for the next class", tiles[:2]),
        Row("and for other likely classes", tiles[2:]),
        Row(f"{names[chosen]}, branch by branch", cams[1:]),
    ]
    return logits, [row for row in rows if row.tiles]
