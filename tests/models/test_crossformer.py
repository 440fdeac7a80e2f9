"""CrossFormer: both of the authors' groupings, the dense backbone, position bias, sizes, drop rates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from golden import FOLDER, VARIANTS, deviation, fill, filled, logits
from mindspore import Tensor

from mindvit.errors import UserError
from mindvit.models import create_model, list_models
from mindvit.models.crossformer import GroupAttention, grouping, mask, offsets, pairs
from mindvit.models.network import Backbone

TOLERANCE = 1e-4
GROUPS: dict[str, dict[str, Any]] = {"g7": {}, "g14": {"group_size": (14, 14, 7, 7), "interval": (16, 8, 2, 1)}}
NARROW: dict[str, Any] = {"embed_dim": 16, "num_classes": 5}


# 224x320 has a last map that is as high as a group, 256x416 maps that nothing divides and, with g7, several regions
@pytest.mark.usefixtures("operator_by_operator")
@pytest.mark.parametrize(
    "revision, groups, height, width",
    [("iclr", "g7", 224, 320), ("iclr", "g14", 256, 416), ("head", "g7", 256, 416), ("head", "g14", 224, 320)],
)
def test_backbone(revision: str, groups: str, height: int, width: int) -> None:
    golden = np.load(FOLDER / "crossformer_small_backbone.npz")
    net = filled("crossformer_small", num_classes=0, revision=revision, **GROUPS[groups])
    backbone = Backbone(net)
    assert [item.channels for item in backbone.feature_info] == VARIANTS["crossformer_small"]["dense"]["out_channels"]
    assert [item.stride for item in backbone.feature_info] == VARIANTS["crossformer_small"]["dense"]["strides"]
    unused = [
        item for item in net.trainable_params() if item.name.startswith("norm.")
    ]  # the authors' backbone leaves the last norm out
    assert (
        sum(item.size for item in net.trainable_params()) - sum(item.size for item in unused)
        == VARIANTS["crossformer_small"]["dense"]["backbone_params"]
    )
    maps = backbone(Tensor(fill.image(2, (height, width))))
    assert len(maps) == 4
    for index, found in enumerate(maps):
        assert_like(
            found.asnumpy(),
            {
                part: golden[f"{revision}/{groups}/{height}x{width}/{index}/{part}"]
                for part in ("shape", "stat", "idx", "val")
            },
        )


def assert_like(found: np.ndarray, reference: dict[str, np.ndarray]) -> None:
    """Shape, mean, standard deviation, norm and samples are the reference's."""
    assert found.shape == tuple(side for side in reference["shape"] if side)
    known = reference["idx"] >= 0
    assert deviation(found.ravel()[reference["idx"][known]], reference["val"][known]) < TOLERANCE
    exact = found.astype(np.float64)
    assert np.allclose((exact.mean(), exact.std(), np.linalg.norm(exact)), reference["stat"], rtol=TOLERANCE)


@pytest.fixture(scope="module")
def extra() -> Any:
    return np.load(FOLDER / "crossformer_tiny.extra.npz")


@pytest.mark.usefixtures("operator_by_operator")
def test_classifier_of_2021(extra: Any) -> None:
    assert (
        deviation(logits(filled("crossformer_tiny", revision="iclr_classifier"), 448), extra["iclr/448x448"])
        < TOLERANCE
    )


def feature(extra: Any, name: str) -> dict[str, np.ndarray]:
    row = list(extra["feat_name"]).index(name)
    return {part: extra[f"feat_{part}"][row] for part in ("shape", "stat", "idx", "val")}


@pytest.mark.usefixtures("operator_by_operator")
def test_position_bias(extra: Any) -> None:
    cells = dict(filled("crossformer_tiny").cells_and_names())
    for block in ("layers.0.blocks.0", "layers.2.blocks.7", "layers.3.blocks.5"):
        biases = cells[f"{block}.attn.pos"](7, 7).asnumpy()
        table = np.empty((len(offsets(7, 7)), len(biases)), np.float32)
        table[pairs(7, 7).asnumpy()] = biases.reshape(len(biases), -1).T
        assert_like(table, feature(extra, f"{block}.attn.pos"))


def test_offsets_and_pairs(extra: Any) -> None:
    assert np.array_equal(offsets(7, 7).asnumpy(), extra["biases_7"])
    assert np.array_equal(pairs(7, 7).asnumpy().reshape(49, 49), extra["relative_position_index_7"])
    y, x = offsets(2, 5).asnumpy()[pairs(2, 5).asnumpy()].reshape(10, 10, 2).transpose(2, 0, 1)  # a rectangular group
    assert y[7, 4] == 1 and x[7, 4] == 2 - 4


def test_groups() -> None:
    for revision in ("head", "iclr", "iclr_classifier"):  # the same at 224 px
        assert grouping(56, 56, 7, 8, False, revision) == ((8, 7, 1), (8, 7, 1))
        assert grouping(56, 56, 7, 8, True, revision) == ((1, 7, 8), (1, 7, 8))
        assert grouping(7, 7, 7, 1, True, revision) == ((1, 7, 1), (1, 7, 1))
    assert grouping(64, 104, 7, 8, True, "head") == ((2, 7, 8), (2, 7, 8))
    assert grouping(64, 104, 7, 8, True, "iclr") == ((1, 8, 8), (1, 13, 8))
    assert grouping(64, 104, 7, 8, True, "iclr_classifier") == ((1, 7, 10), (1, 7, 15))
    assert grouping(7, 10, 7, 1, True, "head") == ((1, 10, 1), (1, 10, 1))
    assert grouping(7, 10, 7, 1, True, "iclr") == ((1, 7, 1), (2, 7, 1))


def test_mask_hides_padding_only() -> None:
    hidden = mask(
        3, 4, (2, 2, 1), (1, 2, 2)
    ).asnumpy()  # 3 x 4 tokens padded to 4 x 4: every second column, two rows a group
    assert hidden.shape == (4, 1, 1, 4)
    assert np.array_equal(hidden[:2], np.zeros((2, 1, 1, 4))) and np.array_equal(
        hidden[2:, 0, 0], [[0, 0, -1e6, -1e6]] * 2
    )


@pytest.mark.usefixtures("operator_by_operator")
@pytest.mark.parametrize("revision", ["iclr", "head"])
def test_the_smallest_image(revision: str) -> None:
    net = create_model(
        "crossformer_tiny",
        **NARROW,
        depths=(1, 2),
        num_heads=(1, 1),
        group_size=(7, 7),
        interval=(8, 4),
        revision=revision,
    ).set_train(False)
    assert net(Tensor(fill.image(2, (8, 16)))).shape == (2, 5)  # 1 x 2 tokens are left


def test_sizes() -> None:
    net = create_model("crossformer_tiny", **NARROW)
    for height, width in ((32, 32), (32, 800), (224, 224)):
        net.check_size(height, width)
    for call in (net, Backbone(net)):
        for wrong in ((225, 224), (32, 48), (16, 64)):
            with pytest.raises(
                UserError, match=f"{wrong[0]} x {wrong[1]} px, but height and width must be multiples of 32"
            ):
                call(Tensor(np.zeros((1, 3, *wrong), np.float32)))
    with pytest.raises(UserError, match="0 x 32 px"):
        net.check_size(0, 32)


def test_wrong_arguments() -> None:
    with pytest.raises(UserError, match="revision is 'cvpr', but must be one of head, iclr"):
        create_model("crossformer_tiny", revision="cvpr")
    with pytest.raises(UserError, match="group_size .7, 7, 7.*one number for each stage"):
        create_model("crossformer_tiny", group_size=(7, 7, 7))


@pytest.mark.parametrize("name", list_models("crossformer*"))
def test_drop_path_and_distance_of_every_block(name: str) -> None:
    net = create_model(name, **NARROW)
    expected = VARIANTS[name]["train"]["drop_path_per_block"]
    assert len(expected) == len(net.layers)
    for stage, layer in enumerate(net.layers):
        for path in ("residual1", "residual2"):
            assert np.allclose(
                [getattr(block, path).rate for block in layer.blocks], expected[f"stage{stage}"], atol=1e-6
            )
        attentions = [block.attn for block in layer.blocks]
        assert all(isinstance(item, GroupAttention) for item in attentions)
        assert [item.rule[2] for item in attentions] == [index % 2 == 1 for index in range(len(attentions))]
