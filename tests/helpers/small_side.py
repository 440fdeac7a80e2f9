"""A script of benchmarks/ as it is, in a process whose registries have networks that compile in seconds: small_side.py
SCRIPT ARGUMENT ...

train_small's for mindvit's sides; `tiny` for mindcv's.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

from mindspore import Tensor, nn, ops

ROOT = Path(__file__).parents[2]


class Tiny(nn.Cell):
    """A convolution and a head, with the arguments that mindcv's vision transformers take."""

    def __init__(self, num_classes: int, in_channels: int, drop_path_rate: float):
        super().__init__()
        self.conv, self.head = nn.Conv2d(in_channels, 4, 3), nn.Dense(4, num_classes)
        self.dropout = nn.Dropout(p=drop_path_rate)

    def construct(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(ops.mean(ops.relu(self.conv(x)), (2, 3))))


def tiny(pretrained: bool = False, **arguments: Any) -> Tiny:
    """As mindcv calls it."""
    assert not pretrained
    return Tiny(**arguments)


if __name__ == "__main__":
    del sys.argv[0]
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    if Path(sys.argv[0]).name == "side_mindcv.py":
        import small_side  # MindSpore looks for a cell's names in its module, and __main__ becomes the script's
        from mindcv.models.registry import register_model

        register_model(small_side.tiny)
    else:
        from train_small import register

        register()
    runpy.run_path(sys.argv[0], run_name="__main__")
