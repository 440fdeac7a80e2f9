"""Segmentors of the registry and on other backbones: names, counts, maps, weights, mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from dense_counts import multiply_adds
from mindspore import Tensor, ops
from small import SMALL
from torchfile import save_torch

import mindvit
from mindvit.benchmark.census import Graph
from mindvit.errors import UserError
from mindvit.layers.norm import BatchNorm
from mindvit.layers.sync_batch_norm import synchronize_batch_norm
from mindvit.models import create_model, dense_info, list_models, network_info
from mindvit.runtime import platform
from mindvit.tasks.segmentation.losses import ChannelDropout
from mindvit.weights import load_weights
from mindvit.weights.checkpoint_info import CheckpointInfo
from mindvit.weights.readers import read

NAMES = list_models(task="segmentation")
SIDE, WIDER = 64, 96
STRIDES = {"crossformer": (4, 8, 16, 32), "cvt": (4, 8, 16), "xcit": (4, 8, 16, 32)}


def small_backbone(family: str) -> tuple[str, dict[str, Any]]:
    """A network's name, and arguments that cut it down; XCiT's four maps are of four of at least six blocks."""
    name, cut = SMALL[family]
    return name, {**cut, "depth": 6} if family == "xcit" else cut


def small_segmentor(method: str, family: str, **arguments: Any) -> Any:
    """The method on a family's small network, with narrow heads."""
    name, cut = small_backbone(family)
    return create_model(method, backbone=name, num_classes=5, channels=16, backbone_config=cut, **arguments)


def images(width: int = WIDER) -> Tensor:
    return Tensor(np.random.default_rng(0).standard_normal((2, 3, SIDE, width)).astype(np.float32))


@pytest.mark.usefixtures("no_random_weights")
@pytest.mark.parametrize("name", NAMES)
def test_published_counts(name: str) -> None:
    info, net = dense_info(name), create_model(name)
    assert sum(item.size for item in net.trainable_params()) == info.params
    assert multiply_adds(name, *info.macs_size, padded=True) == info.macs
    published = {"semantic_fpn": (209.8, 320.1, 482.7), "upernet": (979.5, 1089.7, 1257.8)}[info.method]
    assert abs(info.macs / 1e9 / published[("small", "base", "large").index(name.split("_")[-1])] - 1) < 1e-3


@pytest.mark.parametrize("method", ["semantic_fpn", "upernet"])
def test_graphs_have_the_counted_multiply_adds(method: str) -> None:
    cut: Any = {"embed_dim": 32, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 4, 8)}
    with platform.use(platform.PORTABLE):
        net = create_model(method, backbone="crossformer_tiny", backbone_config=cut).set_train(False)
    found = Graph(net, ops.zeros((1, 3, SIDE, WIDER), ms.float32)).multiply_adds()
    sizes = (cut["embed_dim"], cut["depths"], cut["num_heads"])
    assert sum(found.values()) == multiply_adds(f"{method}_crossformer_tiny", SIDE, WIDER, padded=False, sizes=sizes)


@pytest.mark.usefixtures("operator_by_operator")
def test_semantic_fpn_on_another_backbone() -> None:
    net = small_segmentor("semantic_fpn", "xcit").set_train(False)
    found = net(images()).asnumpy()
    assert found.shape == (2, 5, SIDE, WIDER)
    assert np.isfinite(found).all() and found.std() > 1e-3


@pytest.mark.usefixtures("operator_by_operator")
@pytest.mark.parametrize("family", ["cvt", "xcit"])  # CrossFormer has goldens
def test_every_weight_of_upernet_takes_part(family: str) -> None:
    net = small_segmentor("upernet", family, drop_path_rate=0.0).set_train(True)
    assert tuple(feature.stride for feature in net.backbone.feature_info) == STRIDES[family]
    weights = ms.ParameterTuple(net.trainable_params())

    def loss(x: Tensor) -> Tensor:
        decode, auxiliary = net.heads(x)
        return (decode * decode).sum() + (auxiliary * auxiliary).sum()

    gradients = ops.grad(loss, None, weights)(images())
    idle = {weight.name for weight, gradient in zip(weights, gradients) if not np.abs(gradient.asnumpy()).max() > 0}
    assert not idle


def test_what_is_known_of_every_tasks_networks() -> None:
    for name, task, size in (
        ("upernet_crossformer_small", "segmentation", 512),
        ("semantic_fpn", "segmentation", 512),
        ("crossvit_9", "classification", 240),
    ):
        info = network_info(name)
        assert (info.name, info.task, info.input_size) == (name, task, size)
        assert info.mean == (0.485, 0.456, 0.406)
    with pytest.raises(UserError, match="did you mean upernet"):
        network_info("uppernet")


def test_crossvit_is_refused() -> None:
    with pytest.raises(UserError, match="crossvit_9 has no pyramid of feature maps.*take crossformer_"):
        create_model("upernet", backbone="crossvit_9")


def test_a_pyramid_of_the_last_map_alone() -> None:
    name, cut = SMALL["xcit"]
    config = {**cut, "depth": 2, "out_indices": (1, 1, 1, 1)}
    backbone = create_model("semantic_fpn", backbone=name, channels=8, backbone_config=config).backbone
    assert [(feature.name, feature.stride) for feature in backbone.feature_info] == [
        ("blocks.1", stride) for stride in (4, 8, 16, 32)
    ]
    assert backbone.indices == (1, 1, 1, 1)
    for indices, message in (
        ((0, 1, 1), "out_indices is .0, 1, 1., but its maps are of one stride, and four make a pyramid"),
        ((0, 1, 1, 2), "out_indices is .0, 1, 1, 2., but must be numbers of its maps, 0 to 1"),
        ("last", "out_indices is last, but must be numbers"),
    ):
        with pytest.raises(UserError, match=message):
            create_model("upernet", backbone=name, backbone_config={**config, "out_indices": indices})


def test_mistakes() -> None:
    for arguments, message in (
        ({"name": "upernet", "backbone": "cvt_21_38"}, "unknown model 'cvt_21_38'; did you mean cvt_21_384"),
        ({"name": "upernet", "backbone": "upernet_crossformer_small"}, "upernet_crossformer_small is no classifier"),
        ({"name": "upernet", "backbone": "mindcv/xcit_tiny_12_p16"}, "MindCV's networks can't be backbones"),
        ({"name": "upernet_crossformer_small", "backbone": "cvt_13_224"}, "has its backbone, crossformer_small"),
        ({"name": "upernet_crossformer_small", "num_classes": 0}, "num_classes is 0, but a segmentor has at least 1"),
        ({"name": "upernet", "backbon": "cvt_13_224"}, "no argument 'backbon'; did you mean backbone"),
        ({"name": "upernet", "features_only": True}, "upernet is no classifier"),
        ({"name": "upernet_crosformer_small"}, "did you mean upernet_crossformer_small"),
    ):
        with pytest.raises(UserError, match=message):
            create_model(**arguments)
    with pytest.raises(UserError, match="upernet is no classifier, which is wanted here"):
        mindvit.model_info("upernet")
    with pytest.raises(UserError, match="task is 'segmentatoin'"):
        list_models(task="segmentatoin")


def test_images_that_the_backbone_cannot_take() -> None:
    with pytest.raises(UserError, match="multiples of 32"):
        small_segmentor("upernet", "crossformer")(images(width=80))


def test_files_of_mmsegmentation(tmp_path: Path) -> None:
    net = small_segmentor("upernet", "crossformer")
    arrays = {item.name: np.full(item.shape, 0.25, np.float32) for item in net.get_parameters()}
    extra = {
        "decode_head.bottleneck.bn.num_batches_tracked": np.array(3, np.int64),
        "backbone.layers.0.blocks.0.attn.biases": np.zeros((169, 2), np.float32),
    }
    save_torch(tmp_path / "upernet.pth", {"state_dict": {**arrays, **extra}, "meta": {"epoch": 1}})
    result = load_weights(net, tmp_path / "upernet.pth")
    told = CheckpointInfo.of(read(str(tmp_path / "upernet.pth")))
    assert told.num_classes == 5
    assert told.network("upernet").task == "segmentation"
    with pytest.raises(UserError, match="upernet is no classifier"):
        told.classifier("upernet")
    assert len(result.loaded) == len(arrays)
    assert all((item.asnumpy() == 0.25).all() for item in net.get_parameters())
    arrays["decode_head.extra"] = arrays.pop("decode_head.conv_seg.bias")
    with pytest.raises(UserError, match=r"1 missing: decode_head.conv_seg.bias; 1 unexpected: decode_head.extra"):
        load_weights(net, arrays)


def test_other_classes() -> None:
    net = small_segmentor("upernet", "cvt")
    arrays = {item.name: np.full(item.shape, 0.25, np.float32) for item in net.get_parameters()}
    arrays["decode_head.conv_seg.weight"] = np.zeros((150, 16, 1, 1), np.float32)
    with pytest.raises(UserError, match="decode_head.conv_seg.weight"):
        load_weights(net, arrays)
    result = load_weights(net, arrays, new_head=True)
    assert {name.split(".")[-2] for name in result.kept} == {"conv_seg"}


@pytest.mark.parametrize("family", STRIDES)
def test_backbones_begin_with_a_classifiers_weights(family: str, tmp_path: Path) -> None:
    name, cut = small_backbone(family)
    classifier = create_model(name, **cut)
    arrays = {item.name: np.full(item.shape, 0.5, np.float32) for item in classifier.get_parameters()}
    np.savez(tmp_path / "classifier.npz", **arrays)
    net = small_segmentor("upernet", family, backbone_weights=tmp_path / "classifier.npz")
    taken = [item for item in net.backbone.get_parameters() if ".fpn" not in item.name]
    assert all((item.asnumpy() == 0.5).all() for item in taken)
    assert {item.name.removeprefix("backbone.") for item in taken} < set(arrays)
    assert not (net.decode_head.conv_seg.weight.asnumpy() == 0.5).any()


@pytest.mark.usefixtures("operator_by_operator")
def test_channels_are_dropped_and_scaled() -> None:
    rand = Tensor(np.array([[0.05, 0.5, 0.1, 0.0, 0.9]], np.float32))
    first, second = ChannelDropout((2, 3), 0.1)(rand)
    assert np.allclose(first.asnumpy(), [[0, 1 / 0.9]])
    assert np.allclose(second.asnumpy(), [[1 / 0.9, 0, 1 / 0.9]])
    net = small_segmentor("upernet", "cvt").set_train(True)
    assert net.dropout_channels == (16, 256)
    net.decode_head.conv_seg.bias.set_data(Tensor(np.arange(5, dtype=np.float32)))
    logits = net.heads(images(), None, (ops.zeros((2, 16), ms.float32), ops.ones((2, 256), ms.float32)))[0]
    assert np.array_equal(net.layout.to_images(logits).asnumpy()[1, :, 0, 0], np.arange(5))


@pytest.mark.parametrize("family, norms", [("crossformer", 13), ("xcit", 24)])
def test_every_batch_norm_is_synchronized(family: str, norms: int) -> None:
    net = small_segmentor("upernet", family)
    assert synchronize_batch_norm(net, 2) == norms
    cells = [cell for _, cell in net.cells_and_names()]
    assert all(cell.sync_op.ranks == 2 for cell in cells if isinstance(cell, BatchNorm))
    assert not any(cell.fused_branch for cell in cells if getattr(cell, "holds_batch_norm", False))
    assert synchronize_batch_norm(net, 1) == norms
    assert not any(cell.sync_op for cell in cells if isinstance(cell, BatchNorm))
