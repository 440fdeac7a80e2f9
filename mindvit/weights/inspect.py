"""What a file's weights say of the network they were trained in."""

from __future__ import annotations

import math
from typing import Optional, Sequence

import numpy as np

from mindvit.models.crossvit import PATCH
from mindvit.weights import names
from mindvit.weights.readers import STATE, WeightsFile

POSITIONS = ("pos_embed.0", "pos_embed.1")  # CrossViT's, a branch each
HEADS = ("head.weight", "head.0.weight")  # ours: (classes, channels); CrossViT has a head a branch
PIXEL_HEAD = "decode_head.conv_seg.weight"  # of a segmentor: (classes, channels, 1, 1)
BOX_HEADS = ("roi_head.bbox_head.fc_cls.weight", "roi_head.bbox_head.0.fc_cls.weight")  # (classes + 1, channels)
ANCHOR_HEAD, ANCHOR_BOXES = "bbox_head.retina_cls.weight", "bbox_head.retina_reg.weight"  # classes and 4 an anchor


def num_classes_of(content: WeightsFile) -> Optional[int]:
    """The number of classes of the head that a file holds, whatever project's names and layouts it has; None without a
    head.

    PaddleViT's Linear weights are (channels, classes), and transformers calls the head a classifier: the head's tensors
    are translated as load_weights translates them, and counted then.
    """
    if PIXEL_HEAD in content.arrays:
        return len(content.arrays[PIXEL_HEAD])
    if ANCHOR_HEAD in content.arrays and ANCHOR_BOXES in content.arrays:
        return 4 * len(content.arrays[ANCHOR_HEAD]) // len(content.arrays[ANCHOR_BOXES])
    for name in BOX_HEADS:
        if name in content.arrays:
            return len(content.arrays[name]) - 1
    arrays = _ours(content, ("head", "classifier"))
    return next((len(arrays[name]) for name in HEADS if name in arrays and arrays[name].ndim == 2), None)


def in_channels_of(content: WeightsFile) -> Optional[int]:
    """The number of input channels of the first convolution that a file holds; None without one."""
    arrays = _ours(content, ("patch_embed", "embedding"))
    stems = sorted(name for name, value in arrays.items() if "patch_embed" in name and value.ndim == 4)
    return int(arrays[stems[0]].shape[1]) if stems else None


def img_size_of(content: WeightsFile) -> Optional[tuple[int, int]]:
    """CrossViT: the sizes, px, of small- and large-patch branch that the position embeddings (1, 1 + s * s, C) are for.

    None for other networks.
    """
    arrays = _ours(content, ("pos_embed",))
    if any(name not in arrays or arrays[name].ndim != 3 for name in POSITIONS):
        return None
    sides = [math.isqrt(max(arrays[name].shape[1] - 1, 0)) for name in POSITIONS]
    return sides[0] * PATCH[0], sides[1] * PATCH[1]


def _ours(content: WeightsFile, parts: Sequence[str]) -> dict[str, np.ndarray]:
    """The tensors with one of `parts` in their names, under our names and in our layouts, where the origin is known."""
    arrays = {name: value for name, value in content.arrays.items() if not name.startswith(STATE)}
    origin = names.recognise(arrays)
    if origin is None:
        return arrays
    return names.inwards(
        {name: value for name, value in arrays.items() if any(part in name for part in parts)}, origin
    ).arrays
