"""Segmentors with the oracle's weights, and the pictures and label maps of its dense goldens."""

from __future__ import annotations

from typing import Any

import numpy as np
from golden import fill
from mindspore import Tensor

from mindvit.models import create_model
from mindvit.models.detection.rcnn import Numbers
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
    """The largest difference to a golden's stored samples of an array, whose mean, deviation and norm are checked."""
    if f"{key}/stat" in golden:
        exact = found.astype(np.float64)
        ours = np.array([exact.mean(), exact.std(), np.linalg.norm(exact)])
        assert (np.abs(ours - golden[f"{key}/stat"]) < 1e-3 * golden[f"{key}/stat"][[1, 1, 2]]).all(), key
    assert f"{key}/shape" not in golden or found.size == np.prod(golden[f"{key}/shape"]), key
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


def priorities(name: str, count: int) -> np.ndarray:
    """(2, count) float32: the order in which the goldens sample boxes with an object, and others."""
    found = [np.argsort(np.argsort(fill.noise(f"{name}/{kind}", (count,)), kind="stable")) for kind in ("pos", "neg")]
    return np.stack(found).astype(np.float32)


# a golden's name: its network, and what it does to filled weights: tensor, scale, shift
DETECTORS: dict[str, tuple[str, dict[str, tuple[float, float]]]] = {
    "retinanet": (
        "retinanet_crossformer_small",
        {
            "bbox_head.retina_cls.weight": (2, 0),
            "bbox_head.retina_cls.bias": (1, -10),
            "bbox_head.retina_reg.weight": (0.25, 0),
        },
    ),
    "mask_rcnn": ("mask_rcnn_crossformer_small", {"rpn_head.rpn_conv.weight": (1.12, 0)}),
    "cascade": (
        "cascade_mask_rcnn_crossformer_small_3x",
        {"rpn_head.rpn_conv.weight": (0.9, 0), "fc_cls.weight": (4, 0)},
    ),
}
TWO_STAGE: dict[str, tuple[float, float]] = {
    "rpn_head.rpn_cls.weight": (0.5, 0),
    "rpn_head.rpn_cls.bias": (1, -2),
    "rpn_head.rpn_reg.weight": (0.04, 0),
    "fc_reg.weight": (0.5, 0),
}
PROPOSALS = Numbers(best_of_level_training=100, best_of_level=100, proposals=170)
OBJECTS = 5  # places for them; pictures have up to 4


def filled_detector(golden: str) -> Any:
    """The network of a golden's name, nothing dropped, with its weights."""
    name, changes = DETECTORS[golden]
    more: dict[str, Any] = {} if golden == "retinanet" else {"numbers": PROPOSALS}
    changes = changes if golden == "retinanet" else {**TWO_STAGE, **changes}
    net = create_model(name, drop_path_rate=0.0, **more)
    for parameter in net.get_parameters():
        value = fill.fill(parameter.name.replace("backbone.", ""), parameter.shape)
        for ending, (scale, shift) in changes.items():
            if parameter.name.endswith(ending):
                value = value * np.float32(scale) + np.float32(shift)
        parameter.set_data(Tensor(value))
    return net


def detection_batch(golden: Any) -> tuple[np.ndarray, ...]:
    """Pictures (3, 3, 224, 320), true sizes (3, 2), boxes (3, OBJECTS, 4), labels (3, OBJECTS) and packed masks."""
    images, sizes = fill.image(3, (HEIGHT, WIDTH)), golden["true"]
    boxes, labels = np.zeros((3, OBJECTS, 4), np.float32), np.full((3, OBJECTS), -1, np.int32)
    masks = np.zeros((3, OBJECTS, HEIGHT, WIDTH), bool)
    for index, (height, width) in enumerate(sizes):
        images[index, :, height:] = images[index, :, :, width:] = 0
        own = golden[f"gt/{index}/boxes"]
        boxes[index, : len(own)], labels[index, : len(own)] = own, golden[f"gt/{index}/labels"]
        side = -(-int(height) // 32) * 32, -(-int(width) // 32) * 32
        masks[index, : len(own), : side[0], : side[1]] = unpacked(golden[f"gt/{index}/mask_bits"], (len(own), *side))
    return images, sizes.astype(np.float32), boxes, labels, np.packbits(masks, 3)


def trajectory_images(step: int) -> np.ndarray:
    """The two pictures (2, 3, 128, 160) of a trajectory's step."""
    height, width = 128, 160
    images = []
    for index in (2 * step, 2 * step + 1):
        noise = fill.noise(f"traj/{index}/noise", (3, height, width)).astype(np.float64)
        grid = fill.noise(f"traj/{index}/grid", (3, 7, 7)).astype(np.float64)
        rows, columns = np.arange(height) * 7 // height, np.arange(width) * 7 // width
        images.append((0.6 * noise + 0.8 * grid[:, rows][:, :, columns]).astype(np.float32))
    return np.stack(images)


def worst_gradient(found: dict[str, Tensor], golden: Any, name: str, without: str = "", having: str = "") -> float:
    """The largest deviation of any gradient's norm or samples, as a share of the oracle's tolerance."""
    rows = zip(*(golden[f"{name}/grad_{part}"] for part in ("name", "l2", "idx", "val", "noise", "disturb")))
    worst = 0.0
    for weight, norm, places, values, noise, disturb in rows:
        if (without and without in str(weight)) or having not in str(weight):
            continue
        ours = found[str(weight)].asnumpy().ravel().astype(np.float64)
        worst = max(worst, abs(np.linalg.norm(ours) - norm) / (1e-3 * norm + 10 * (noise + disturb)))
        values, ours = values[places >= 0], ours[places[places >= 0]]
        tolerance = 1e-3 * np.abs(values) + 1e-6 * norm + 10 * (noise + disturb)
        worst = max(worst, float((np.abs(ours - values) / tolerance).max()))
    return worst


def flat_errors(found: np.ndarray, golden: Any, key: str) -> float:
    """The largest difference to a golden's samples of an array, as a share of the largest sample."""
    return sampled(found, golden, key) / float(np.abs(golden[f"{key}/val"]).max())


def as_images(found: np.ndarray, golden: Any, key: str) -> np.ndarray:
    """What a head says of every anchor, (B, anchors, ...), as mmdetection has it: (B, channels, H, W)."""
    batch, _, height, width = golden[f"{key}/shape"]
    return found.reshape(batch, height, width, -1).transpose(0, 3, 1, 2)
