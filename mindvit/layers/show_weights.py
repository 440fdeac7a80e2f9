"""Networks whose attention shows its weights."""

from __future__ import annotations

import contextlib
from typing import Any, Iterator

from mindspore import nn

from mindvit.kernels import ops as kernels
from mindvit.layers.flash import FlashAttention

# by their names, operators that stand for a Softmax among others
STAND_FOR_SOFTMAX: dict[str, Any] = {
    "fused_op": kernels.WITH_WEIGHTS,
    "fused_branch": kernels.WITH_WEIGHTS,
    "flash": FlashAttention,
}


@contextlib.contextmanager
def softmax_shown(net: nn.Cell) -> Iterator[None]:
    """Inside, every attention of `net` runs through its Softmax cell, whose output a hook can see."""
    hidden: list[tuple[Any, str, Any]] = []
    try:
        for _, cell in net.cells_and_names():
            for name, kinds in STAND_FOR_SOFTMAX.items():
                if isinstance(getattr(cell, name, None), kinds):
                    hidden.append((cell, name, getattr(cell, name)))
                    setattr(cell, name, None)
        yield
    finally:
        for cell, name, operator in hidden:
            setattr(cell, name, operator)
