"""XCiT beside the authors': its position table, its variants and names, and what the goldens don't reach."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from golden import FOLDER, VARIANTS, fill, filled
from mindspore import Tensor, nn

from mindvit.errors import UserError
from mindvit.layers.drop_path import Residual, number_drop_paths
from mindvit.models import create_model, list_models, model_info
from mindvit.models.network import Backbone
from mindvit.models.xcit import ClassAttention, CrossCovarianceAttention, fourier_table
from mindvit.optim.param_groups import is_decayed
from mindvit.runtime import platform

NANO = "xcit_nano_12_p16_224"
NAMES = list_models("xcit*")
TINY: dict[str, Any] = {"num_classes": 5, "embed_dim": 16, "depth": 1}


def noise(name: str, *shape: int) -> Tensor:
    return Tensor(fill.noise(name, shape))


@pytest.mark.parametrize("name", [NANO, "xcit_nano_12_p8_224"])
def test_position_table_is_the_authors(name: str) -> None:
    golden = np.load(FOLDER / f"{name}.extra.npz")
    place = list(golden["feat_name"]).index("pos_embeder.fourier")
    shape, index, value = golden["feat_shape"][place], golden["feat_idx"][place], golden["feat_val"][place]
    table = fourier_table(*shape[2:]).reshape(*shape[2:], 64).transpose(2, 0, 1)
    assert np.abs(np.broadcast_to(table, shape).ravel()[index] - value).max() < 2e-6


def test_positions_of_an_image_that_is_not_square() -> None:
    table = fourier_table(3, 5).reshape(3, 5, 64)
    assert (
        np.ptp(table[:, :, :32], 1).max() == 0 and np.ptp(table[:, :, 32:], 0).max() == 0
    )  # y first: the same along a row
    end = 2 * np.pi / (1 + 1e-6 / 5)
    assert np.allclose(table[0, -1, 32:34], [np.sin(end), np.cos(end)], atol=1e-6)
    assert np.allclose(
        table[0, 1, 34:36],
        [np.sin(end * 2 / 5 / 10000 ** (1 / 16)), np.cos(end * 2 / 5 / 10000 ** (1 / 16))],
        atol=1e-6,
    )


@pytest.mark.usefixtures("operator_by_operator")
@pytest.mark.parametrize("height, width", [(1, 1), (33, 16)])
def test_any_size_fits(height: int, width: int) -> None:
    net = create_model(NANO, **TINY).set_train(False)
    assert np.isfinite(net(noise("x", 1, 3, height, width)).asnumpy()).all()
    assert Backbone(net).set_train(False)(noise("x", 1, 3, height, width))[-1].shape == (
        1,
        16,
        -(-height // 16),
        -(-width // 16),
    )


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="0 x 224 px"):
        create_model(NANO, **TINY).check_size(0, 224)
    with pytest.raises(UserError, match="patch_size is 12, but must be 8 or 16"):
        create_model(NANO, **TINY, patch_size=12)
    with pytest.raises(UserError, match="not built for one size"):
        create_model(NANO, img_size=224)


@pytest.mark.usefixtures("operator_by_operator")
def test_both_layouts_of_maps_give_the_same() -> None:
    found = []
    for slow in (True, False):
        with platform.use(platform.Platform(slow_convolution=slow)):
            net = filled(NANO, **TINY)
        found.append(
            (
                net(noise("x", 2, 3, 40, 72)).asnumpy(),
                Backbone(net).set_train(False)(noise("x", 2, 3, 40, 72))[0].asnumpy(),
            )
        )
    assert np.abs(found[0][0] - found[1][0]).max() < 1e-5
    assert np.abs(found[0][1] - found[1][1]).max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_arguments_and_drop_paths_are_the_authors(name: str) -> None:
    arch, rate = VARIANTS[name]["arch"], VARIANTS[name]["train"]["drop_path_rate"]
    net = create_model(name, num_classes=1, embed_dim=16)  # thin: the full widths are in the parameter counts
    assert len(net.blocks) == arch["depth"] and len(net.cls_attn_blocks) == arch["cls_attn_layers"]
    assert [block.attn.heads for block in (*net.blocks, *net.cls_attn_blocks)] == [arch["num_heads"]] * (
        arch["depth"] + 2
    )
    gammas = [item.asnumpy() for item in net.get_parameters() if ".gamma" in item.name]
    assert len(gammas) == 3 * arch["depth"] + 4 and all((gamma == np.float32(arch["eta"])).all() for gamma in gammas)
    assert all(block.tokens_norm is arch["tokens_norm"] for block in net.cls_attn_blocks)
    assert net.feature_info[0].stride == 2 ** ((len(net.patch_embed.proj) + 1) // 2) == arch["patch_size"]
    for block in net.blocks:
        assert [cell.rate for _, cell in block.cells_and_names() if isinstance(cell, Residual)] == [rate] * 3
    assert len(number_drop_paths(net)) == (3 * arch["depth"] if rate else 0)  # none in class attention


def test_every_variant_is_there_under_its_names() -> None:
    assert (
        sorted(name for name, variant in VARIANTS.items() if variant["family"] == "xcit") == NAMES and len(NAMES) == 42
    )
    for name in NAMES:
        variant = VARIANTS[name]
        assert model_info(variant["seed_name"]).name == model_info(variant["timm_validation"]["model"]).name == name
        for shared in variant[
            "also_called"
        ].values():  # plain and distilled weights are called alike: the plain ones keep the name
            assert model_info(shared).name == (shared if shared in VARIANTS else name)


def test_detectors_take_four_blocks() -> None:
    assert create_model(NANO, embed_dim=16).default_indices == (3, 5, 7, 11)
    assert create_model("xcit_tiny_24_p16_224", embed_dim=16).default_indices == (7, 11, 15, 23)


def test_only_the_class_token_is_spared_weight_decay() -> None:
    net = create_model(NANO, **TINY)
    decayed = {
        item.name: is_decayed(item.name, item.ndim, "norm_and_bias", net.no_weight_decay())
        for item in net.trainable_params()
    }
    assert not decayed["cls_token"] and not decayed["blocks.0.gamma1"]
    assert decayed["blocks.0.attn.temperature"] and decayed["pos_embeder.token_projection.weight"]


@pytest.mark.usefixtures("operator_by_operator")
def test_half_precision_keeps_its_range() -> None:
    attention = CrossCovarianceAttention(16, 2, 0.0, 0.0)
    for item in attention.get_parameters():
        item.set_data(Tensor(fill.fill(f"blocks.0.attn.{item.name}", item.shape)))
    x = noise("x", 2 * 400, 16) * 300  # sums of squares over 400 tokens reach 1e8; float16 ends at 65504
    expected = attention(x, 2).asnumpy()
    for cell in (attention, attention.qkv, attention.proj):
        cell.compute_type = ms.float16
    attention.compile_cache.clear()
    assert np.abs(attention(x, 2).asnumpy() / np.abs(expected).max() - expected / np.abs(expected).max()).max() < 5e-3


class Mask(nn.Cell):
    """Dropout with one mask (B, h, N)."""

    active = True

    def __init__(self, mask: np.ndarray):
        super().__init__()
        self.mask = Tensor(mask)

    def construct(self, x: Tensor) -> Tensor:
        return x * self.mask


@pytest.mark.parametrize("dropped", [False, True])
def test_class_attention_is_what_keys_and_values_would_give(dropped: bool) -> None:
    batch, patches, channels, heads = 2, 6, 16, 4
    mask = (np.random.default_rng(0).random((batch, heads, 1 + patches)) > 0.3).astype(np.float32) / 0.7
    attention = ClassAttention(channels, heads, 0.3 if dropped else 0.0, 0.0).set_train(False)
    weights: dict[str, Any] = {}
    for item in attention.get_parameters():
        weights[item.name] = fill.fill(f"cls_attn_blocks.0.attn.{item.name}", item.shape)
        item.set_data(Tensor(weights[item.name]))
    if dropped:
        attention.attn_drop = Mask(mask)
    cls, rows = fill.noise("cls", (batch, channels)), fill.noise("rows", (batch * patches, channels))
    tokens = np.concatenate((cls[:, None], rows.reshape(batch, patches, channels)), 1)
    qkv = (tokens @ weights["qkv.weight"].T + weights["qkv.bias"]).reshape(batch, -1, 3, heads, channels // heads)
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)  # B h N d
    scores = (q[:, :, :1] * k).sum(-1) * (channels // heads) ** -0.5  # B h N
    chosen = np.exp(scores - scores.max(-1, keepdims=True))
    chosen = chosen / chosen.sum(-1, keepdims=True) * (mask if dropped else 1)
    expected = (chosen[:, :, :, None] * v).sum(2).reshape(batch, channels) @ weights["proj.weight"].T + weights[
        "proj.bias"
    ]
    assert np.abs(attention(Tensor(cls), Tensor(rows)).asnumpy() - expected).max() < 1e-5
