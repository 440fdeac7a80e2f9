"""The optimisers against PyTorch's and timm's (scripts/optimiser_goldens.py wrote what they did), and the rates of
layer decay.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from golden import FOLDER
from mindspore import Parameter, ParameterTuple, Tensor
from small import SMALL, small

from mindvit.engine.update import StepOptions, create_optimizer
from mindvit.optim.param_groups import layer_lr_scales

NAMES: dict[str, dict[str, Any]] = {
    "adamw": {"opt": "adamw"},
    "lamb": {"opt": "lamb"},
    "sgd": {"opt": "sgd"},
    "nesterov": {"opt": "sgd", "nesterov": True},
    "adam": {"opt": "adam"},
    "nadam": {"opt": "nadam"},
    "rmsprop": {"opt": "rmsprop"},
    "adagrad": {"opt": "adagrad"},
}
COUNT = 3  # tensors


@pytest.mark.parametrize("name", NAMES)
def test_six_steps_are_theirs(name: str) -> None:
    golden = np.load(FOLDER / "optimisers.npz")
    weights = ParameterTuple(
        [Parameter(Tensor(golden[f"start/{index}"]), name=f"weight{index}") for index in range(COUNT)]
    )
    options = StepOptions(
        betas=tuple(golden["betas"].tolist()),
        eps=float(golden["eps"]),
        momentum=float(golden["momentum"]),
        alpha=float(golden["alpha"]),
        **NAMES[name],
    )
    cell = create_optimizer(weights, golden["decay"].tolist(), golden["rates"].tolist(), options)
    for step, lr in enumerate(golden["rate"]):
        cell(tuple(Tensor(golden[f"gradient/{step}/{index}"]) for index in range(COUNT)), Tensor(lr, ms.float32))
    for index, weight in enumerate(weights):
        assert np.abs(weight.asnumpy() - golden[f"{name}/{index}"]).max() < 2e-6


EXPECTED = {  # the first weight of every layer, from the stem to the head
    "crossvit": [
        "pos_embed.0",
        "blocks.0.blocks.0.0.norm1.weight",
        "blocks.1.blocks.0.0.norm1.weight",
        "blocks.2.blocks.0.0.norm1.weight",
        "norm.0.weight",
    ],
    "cvt": [
        "stage0.patch_embed.proj.weight",
        "stage0.blocks.0.norm1.weight",
        "stage1.patch_embed.proj.weight",
        "stage2.cls_token",
        "stage2.blocks.1.norm1.weight",
        "norm.weight",
    ],
    "crossformer": [
        "patch_embed.projs.0.weight",
        "layers.0.blocks.0.norm1.weight",
        "layers.0.downsample.reductions.0.weight",
        "layers.1.downsample.reductions.0.weight",
        "layers.2.blocks.1.norm1.weight",
        "layers.2.downsample.reductions.0.weight",
        "norm.weight",
    ],
    "xcit": [
        "cls_token",
        "blocks.0.gamma1",
        "blocks.1.gamma1",
        "cls_attn_blocks.0.gamma1",
        "cls_attn_blocks.1.gamma1",
        "norm.weight",
    ],
}


@pytest.mark.parametrize("family", SMALL)
def test_rates_fall_from_the_head_to_the_stem(family: str) -> None:
    names = [item.name for item in small(family).trainable_params()]
    rates = layer_lr_scales(names, 0.5)
    first = [name for name, rate, before in zip(names, rates, [None, *rates]) if rate != before]
    assert first == EXPECTED[family] and rates == sorted(rates) and rates[-1] == 1
    assert sorted(set(rates)) == [0.5**power for power in range(len(first) - 1, -1, -1)]
