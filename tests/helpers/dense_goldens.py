"""Segmentors with the oracle's weights, and the pictures and label maps of its dense goldens."""

from __future__ import annotations

from typing import Any

import numpy as np
from golden import fill
from mindspore import Tensor

from mindvit.models import create_model
from mindvit.models.segmentation import Segmentor

NAMES = {"fpn": "semantic_fpn_crossformer_small", "upernet": "upernet_crossformer_small"}
HEIGHT, WIDTH = 224, 320


def filled_segmentor(golden: str) -> Segmentor:
    """The network of a golden's name, nothing dropped, with weights by the detector's own names without `backbone.`"""
    net = create_model(NAMES[golden], drop_path_rate=0.0, drop_rate=0.0)
    for parameter in net.get_parameters():
        parameter.set_data(Tensor(fill.fill(parameter.name.replace("backbone.", ""), parameter.shape)))
    return net


def training_batch(golden: Any) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (2, 3, 224, 320), zeros outside the true sizes, and labels (2, 224, 320) int32."""
    images = fill.image(3, (HEIGHT, WIDTH))[:2]
    labels = golden["seg_label_small"].repeat(8, 1).repeat(8, 2).astype(np.int32)
    labels[:, :16] = 255
    for index, (height, width) in enumerate(golden["true"][:2]):
        images[index, :, height:] = images[index, :, :, width:] = 0
        labels[index, height:] = 255
        labels[index, :, width:] = 255
    return images, labels


def sampled(found: np.ndarray, golden: Any, key: str) -> float:
    """The largest difference to a golden's stored samples of an array."""
    places = golden[f"{key}/idx"]
    return float(np.abs(found.ravel()[places[places >= 0]] - golden[f"{key}/val"][places >= 0]).max())


def differing(found: np.ndarray, golden: Any, key: str) -> int:
    """How many pixels are of another class than a golden's, without those where the best two are within 1e-4."""
    wanted = golden[f"{key}/argmax"]
    unsure = np.unpackbits(golden[f"{key}/unsure"])[: wanted.size].reshape(wanted.shape).astype(bool)
    return int(((found != wanted) & ~unsure).sum())


def unpacked(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Ones and zeros of a golden's packed bits."""
    return np.unpackbits(bits)[: int(np.prod(shape))].reshape(shape)


def priorities(name: str, assigned: np.ndarray) -> np.ndarray:
    """The order in which boxes are sampled, (N,) float32 from 0 on: that of the goldens' noise for boxes with an
    object and for others.
    """
    count = len(assigned)
    found = [np.argsort(np.argsort(fill.noise(f"{name}/{kind}", (count,)), kind="stable")) for kind in ("pos", "neg")]
    return np.where(assigned > 0, found[0], count + found[1]).astype(np.float32)
