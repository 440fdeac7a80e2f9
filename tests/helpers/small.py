"""One network a family, cut down so that it compiles in seconds."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindvit.models import create_model

SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "crossvit": ("crossvit_tiny", {"img_size": (24, 16), "embed_dim": (48, 96), "depth": (1, 1)}),
    "cvt": ("cvt_13_224", {"embed_dim": (16, 32, 48), "depth": (1, 1, 2), "num_heads": (1, 2, 3)}),
    "crossformer": ("crossformer_tiny", {"embed_dim": 32, "depths": (1, 1, 2, 1)}),
    "xcit": ("xcit_nano_12_p16_224", {"embed_dim": 32, "depth": 2, "num_heads": 2}),
}
SIDE = {"crossvit": 24, "cvt": 32, "crossformer": 64, "xcit": 32}  # px


def small(family: str, **arguments: Any) -> Any:
    """The family's small network, with 5 classes unless told otherwise; the same weights every time."""
    name, cut = SMALL[family]
    ms.set_seed(1)
    return create_model(name, **{"num_classes": 5, **cut, **arguments})


def inputs_of(family: str, channels: int = 3, wider: int = 0, count: int = 2) -> Tensor:
    """(count, channels, side, side + wider) noise."""
    shape = (count, channels, SIDE[family], SIDE[family] + wider)
    return Tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
