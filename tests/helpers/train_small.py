"""train.py with networks that compile in seconds: `nano`, `nano_pyramid`, which is a segmentor's backbone, and
small_FAMILY, one a family. For tests that start runs.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, Optional

sys.path.insert(0, str(Path(__file__).parents[2]))

from mindvit import errors
from mindvit.runtime import interrupts

if __name__ == "__main__":
    interrupts.listen()  # as train.py does, before MindSpore starts threads

from mindspore import Tensor
from small import SIDE, SMALL

import train
from mindvit.layers.activation import GELU
from mindvit.layers.conv import Conv2d, FeatureLayout
from mindvit.layers.drop_path import Residual
from mindvit.layers.linear import Linear
from mindvit.layers.norm import BatchNorm, LayerNorm
from mindvit.models import model_info, registry
from mindvit.models.network import Feature, Network

WIDTH, NANO_SIDE = 16, 16
# options of a short run of `nano`, and of one in which everything random is on
NANO = "--model nano --device_target CPU --epoch_size 2 --warmup_epochs 0 --log_interval 1".split()  # noqa: SIM905
AUGMENTED = "--mixup 0.8 --cutmix 1.0 --re_prob 0.5 --drop_path_rate 0.2"
LIVELY = [*AUGMENTED.split(), "--auto_augment", "randaug-m9-mstd0.5-inc1"]


class Nano(Network):
    """One hidden layer, with everything that a run has to remember: running statistics, stochastic depth."""

    def __init__(self, num_classes: int, in_channels: int, drop_path_rate: float, **_: Any):
        super().__init__(num_classes, (Feature("act", WIDTH, 16),))
        self.first, self.middle = Linear(in_channels * NANO_SIDE**2, WIDTH), Linear(WIDTH, WIDTH)
        self.bn, self.act, self.norm, self.residual = (
            BatchNorm(WIDTH),
            GELU(),
            LayerNorm(WIDTH, 1e-6),
            Residual(drop_path_rate),
        )
        self.layout = FeatureLayout()
        self.head = self.new_head(num_classes)

    def forward_features(self, x: Tensor, kept: Optional[Tensor] = None) -> Tensor:
        batch = x.shape[0]
        y = self.first(x.reshape(batch, -1))
        y = self.layout.to_tokens(self.bn(self.layout.from_tokens(y, batch, 1, 1)))
        return self.residual(y, self.middle(self.act(self.norm(y))), batch, kept)


class NanoPyramid(Network):
    """Maps of strides 4 and 8 for a segmentor, with all that a run of one has to remember."""

    def __init__(self, num_classes: int, in_channels: int, drop_path_rate: float, **_: Any):
        super().__init__(num_classes, (Feature("fine", WIDTH, 4), Feature("coarse", WIDTH, 8)))
        self.fine, self.coarse = Conv2d(in_channels, WIDTH, 4, 4, 0), Conv2d(WIDTH, WIDTH, 2, 2, 0)
        self.bn, self.residual, self.layout = BatchNorm(WIDTH), Residual(drop_path_rate), FeatureLayout()

    def feature_maps(self, x: Tensor, kept: Optional[Tensor] = None) -> list[Tensor]:
        batch = x.shape[0]
        fine = self.bn(self.fine(self.layout.from_images(x)))
        coarse = self.coarse(fine)
        height, width = self.layout.grid(coarse)
        tokens = self.layout.to_tokens(coarse)
        return [fine, self.layout.from_tokens(self.residual(tokens, tokens * 2, batch, kept), batch, height, width)]


def register() -> list[str]:
    """Make the networks known to recipes; their names."""
    networks: dict[str, tuple[str, int, Any, dict[str, Any]]] = {
        f"small_{family}": (
            original,
            SIDE[family],
            registry._entry(original).build,
            {**registry.model_config(original), **cut},
        )
        for family, (original, cut) in SMALL.items()
    }
    networks["nano"] = ("xcit_nano_12_p16_224", NANO_SIDE, Nano, {})
    networks["nano_pyramid"] = ("xcit_nano_12_p16_224", NANO_SIDE, NanoPyramid, {})
    for name, (original, side, build, config) in networks.items():
        info = dataclasses.replace(model_info(original), name=name, aliases=(), input_size=side)
        registry.register(registry.Entry(info, build, config))
    return list(networks)


def places(folder: Path, out: Path) -> list[str]:
    """Options of a run on the images in `folder` that writes everything below `out`."""
    return ["--data_dir", str(folder), "--ckpt_save_dir", str(out), "--results_csv", str(out / "results.csv")]


def command(folder: Path, out: Path, *more: str) -> list[str]:
    """Arguments of Python that train with this file on the images in `folder`, everything written below `out`."""
    return [__file__, *places(folder, out), *more]


if __name__ == "__main__":
    register()
    errors.run(train.main)
