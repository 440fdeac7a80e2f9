"""Files of XCiT's authors' segmentors: the names that their code gives, read strictly.

The names follow facebookresearch/xcit semantic_segmentation/backbone/xcit.py and configs/xcit, and mmsegmentation's
heads; no file of theirs is at hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchfile import save_torch

from mindvit.errors import UserError
from mindvit.models import create_model

WIDTH, DEPTH = 32, 6
BOTH, STATISTICS = ("weight", "bias"), ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
NORMS = ("norm1", "norm2", "norm3")


def of(place: str, parts: tuple[str, ...] = BOTH) -> list[str]:
    return [f"{place}.{part}" for part in parts]


def module(place: str) -> list[str]:
    """mmcv's ConvModule with a norm."""
    return [f"{place}.conv.weight", *of(f"{place}.bn", STATISTICS)]


def backbone(patch: int) -> list[str]:
    found = of("pos_embeder.token_projection")
    for number in range(0, 8 if patch == 16 else 6, 2):
        found += [f"patch_embed.proj.{number}.0.weight", *of(f"patch_embed.proj.{number}.1", STATISTICS)]
    for block in range(DEPTH):
        parts = ["attn.temperature", "gamma1", "gamma2", "gamma3", *of("local_mp.bn", STATISTICS)]
        for place in (*NORMS, "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "local_mp.conv1", "local_mp.conv2"):
            parts += of(place)
        found += [f"blocks.{block}.{part}" for part in parts]
    found += of("fpn1.0")
    if patch == 16:
        found += [*of("fpn1.1", STATISTICS), *of("fpn1.3"), *of("fpn2.0")]
    return [f"backbone.{name}" for name in found]


def heads(method: str) -> list[str]:
    decode = of("decode_head.conv_seg")
    if method == "upernet":
        places = [f"psp_modules.{level}.1" for level in range(4)]
        places += [f"{kind}_convs.{level}" for kind in ("lateral", "fpn") for level in range(3)]
        for place in (*places, "bottleneck", "fpn_bottleneck"):
            decode += module(f"decode_head.{place}")
        return [*decode, *module("auxiliary_head.convs.0"), *of("auxiliary_head.conv_seg")]
    for level in range(4):
        for kind in ("lateral", "fpn"):
            decode += of(f"neck.{kind}_convs.{level}.conv")
        for number in range(max(level, 1)):
            decode += module(f"decode_head.scale_heads.{level}.{2 * number}")
    return decode


@pytest.mark.parametrize("method", ["upernet", "semantic_fpn"])
@pytest.mark.parametrize("patch", [16, 8])
def test_a_file_of_the_authors_is_read_by_name(method: str, patch: int, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {
        "backbone": f"xcit_nano_12_p{patch}_224",
        "backbone_config": {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": 2},
        "num_classes": 5,
        "channels": 16,
    }
    shapes = {item.name: item.shape for item in create_model(method, **arguments).get_parameters()}
    names = backbone(patch) + heads(method)
    assert sorted(shapes) == sorted(name for name in names if not name.endswith("num_batches_tracked"))
    random = np.random.default_rng(0)
    state = {name: random.random(shapes.get(name, ())).astype(np.float32) for name in names}
    save_torch(tmp_path / "iter_160000.pth", {"meta": {"mmseg_version": "0.11.0"}, "state_dict": state})
    net = create_model(method, pretrained=tmp_path / "iter_160000.pth", **arguments)
    assert all(np.array_equal(item.asnumpy(), state[item.name]) for item in net.get_parameters())
    if method == "semantic_fpn":
        assert net.neck.lateral_convs[0].conv.weight.shape == (WIDTH, WIDTH, 1, 1)  # as wide as the backbone
    again = create_model(method, backbone_weights=tmp_path / "iter_160000.pth", **arguments)
    assert all(np.array_equal(item.asnumpy(), state[item.name]) for item in again.backbone.get_parameters())
    lacking = {name: value for name, value in state.items() if name != "decode_head.conv_seg.bias"}
    save_torch(tmp_path / "lacking.pth", {"state_dict": lacking})
    with pytest.raises(UserError, match="decode_head.conv_seg.bias"):
        create_model(method, pretrained=tmp_path / "lacking.pth", **arguments)
