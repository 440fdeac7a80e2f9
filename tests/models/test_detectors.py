"""Detectors of the registry and on other backbones: names, counts, shapes, weights, mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from dense_counts import detector as multiply_adds
from mindspore import Tensor, nn, ops
from small import SMALL
from torchfile import save_torch

from mindvit.benchmark.census import Graph
from mindvit.errors import UserError
from mindvit.models import create_model, dense_info, list_models
from mindvit.models.detection import RCNN
from mindvit.models.detection.rcnn import Numbers
from mindvit.runtime import platform
from mindvit.weights import load_weights
from mindvit.weights.inspect import num_classes_of
from mindvit.weights.readers import WeightsFile

NAMES = list_models(task="detection")
SIDE, WIDER = 64, 96
FEW = Numbers(best_of_level_training=40, best_of_level=40, proposals=20, candidates=100)
PUBLISHED = {
    "retinanet_crossformer_small": (40.8, 282.0),
    "retinanet_crossformer_base": (62.1, 389.0),
    "mask_rcnn_crossformer_small": (50.2, 301.0),
    "mask_rcnn_crossformer_base": (71.5, 407.9),
    "mask_rcnn_crossformer_small_3x": (50.2, 291.1),
    "mask_rcnn_crossformer_base_3x": (71.5, 398.1),
    "cascade_mask_rcnn_crossformer_small_3x": (88.0, 769.7),
}


def small_detector(method: str, family: str, **arguments: Any) -> Any:
    """The method on a family's small network, with narrow heads and few boxes."""
    name, cut = SMALL[family]
    cut = {**cut, "depth": 6} if family == "xcit" else cut
    more = {} if method == "retinanet" else {"hidden": 32, "numbers": FEW}
    return create_model(
        method, **{**more, "backbone": name, "num_classes": 5, "channels": 16, "backbone_config": cut, **arguments}
    )


def images() -> tuple[Tensor, Tensor]:
    """Two of them, and their true sizes."""
    pixels = np.random.default_rng(0).standard_normal((2, 3, SIDE, WIDER)).astype(np.float32)
    return Tensor(pixels), Tensor(np.array([[SIDE, WIDER], [50, 70]], np.float32))


@pytest.mark.usefixtures("no_random_weights")
@pytest.mark.parametrize("name", NAMES)
def test_published_counts(name: str) -> None:
    info = dense_info(name)
    if name.endswith("_3x") and name[:-3] in NAMES:  # of other groups, which have no parameters
        assert info.params == dense_info(name[:-3]).params
    else:
        assert sum(item.size for item in create_model(name).trainable_params()) == info.params
    assert multiply_adds(name, *info.macs_size, padded=True) == info.macs
    params, macs = PUBLISHED[name]
    assert round(info.params / 1e6, 1) == params
    assert abs(info.macs / 1e9 / macs - 1) < 1e-3


class Heads(nn.Cell):
    """All that has weights, with a box for each head."""

    def __init__(self, net: Any):
        super().__init__(auto_prefix=False)
        self.net, self.is_rcnn = net, isinstance(net, RCNN)

    def construct(self, x: Tensor, boxes: Tensor, masks: Tensor) -> Any:
        maps = self.net.features(x)
        if not self.is_rcnn:
            return self.net.bbox_head(maps, x.shape[0])
        head, labels = self.net.roi_head, ops.zeros((1,), ms.int32)
        return self.net.rpn_head(maps, x.shape[0]), head.bbox_head(boxes), head.mask_head(masks, labels)


@pytest.mark.parametrize("method", ["retinanet", "mask_rcnn"])
def test_graphs_have_the_counted_multiply_adds(method: str) -> None:
    cut: Any = {"embed_dim": 32, "depths": (1, 2, 1, 1), "num_heads": (1, 2, 4, 8)}
    with platform.use(platform.PORTABLE):
        net = Heads(create_model(method, backbone="crossformer_tiny", backbone_config=cut)).set_train(False)
    boxes, masks = ops.zeros((1, 256, 7, 7), ms.float32), ops.zeros((1, 256, 14, 14), ms.float32)
    found = Graph(net, ops.zeros((1, 3, SIDE, WIDER), ms.float32), boxes, masks).multiply_adds()
    sizes = (cut["embed_dim"], cut["depths"], cut["num_heads"])
    expected = multiply_adds(f"{method}_crossformer_tiny", SIDE, WIDER, False, sizes, boxes=(1, 1))
    chosen = 0 if method == "retinanet" else 784 * 80  # the label's mask is taken by a product
    assert sum(found.values()) == expected + chosen


@pytest.mark.parametrize(("method", "family"), [("retinanet", "cvt"), ("mask_rcnn", "xcit")])
def test_other_backbones(method: str, family: str) -> None:
    net = small_detector(method, family).set_train(False)
    found = [item.asnumpy() for item in net(*images())]
    assert [item.shape for item in found[:3]] == [(2, 100, 4), (2, 100), (2, 100)]
    boxes, scores, labels = found[:3]
    assert (boxes >= 0).all() and (boxes[1] <= np.array([70, 50, 70, 50])).all()
    assert (np.diff(scores) <= 0).all() and ((scores == 0) | (scores > 0.05)).all()
    assert ((labels >= 0) & (labels < 5)).all()
    if method == "mask_rcnn":
        assert found[3].shape == (2, 100, 28, 28) and ((found[3] >= 0) & (found[3] <= 1)).all()


@pytest.mark.parametrize("method", ["mask_rcnn", "cascade_mask_rcnn"])
def test_without_masks(method: str) -> None:
    names = {item.name for item in small_detector(method, "crossformer", mask=False).get_parameters()}
    assert any("bbox_head" in name for name in names)
    assert not any("mask_head" in name for name in names)


@pytest.mark.big
def test_the_same_without_kernels() -> None:
    net = small_detector("mask_rcnn", "crossformer").set_train(False)
    with platform.use(platform.PORTABLE):
        plain = small_detector("mask_rcnn", "crossformer").set_train(False)
    values = {item.name: item for item in net.get_parameters()}
    for item in plain.get_parameters():
        item.set_data(values[item.name])
    for found, expected in zip(plain(*images()), net(*images())):
        assert np.allclose(found.asnumpy(), expected.asnumpy(), atol=1e-3)


def test_retinanet_leaves_out_what_is_less_sure_than_it_is_told() -> None:
    net = small_detector("retinanet", "cvt", in_channels=3)
    logits = Tensor(np.array([[[2.0, -4, -4, -4, -4], [-4, -1.0, -4, -4, -4], [-4, -4, -4, -4, 0.5]]], np.float32))
    anchors = Tensor(np.array([[0, 0, 8, 8], [20, 0, 28, 8], [40, 0, 48, 8]], np.float32))
    sizes = Tensor(np.array([[SIDE, WIDER]], np.float32))
    levels = (logits,), (ops.zeros((1, 3, 4)),), (anchors,), sizes
    for given, found in (((), 3), ((0.5,), 2), ((Tensor([0.7], ms.float32),), 1)):
        assert (net.detections(*levels, *given)[1].asnumpy() > 0).sum() == found


def test_mistakes() -> None:
    for arguments, message in (
        ({"name": "retinanet", "mask": True}, "retinanet has no masks: leave mask out"),
        ({"name": "mask_rcnn", "backbone": "crossvit_9"}, "crossvit_9 has no pyramid of feature maps"),
        ({"name": "mask_rcnn", "backbone": "mindcv/xcit_tiny_12_p16"}, "MindCV's networks can't be backbones"),
        ({"name": "mask_rcnn_crossformer_small", "backbone": "cvt_13_224"}, "has its backbone, crossformer_small"),
        ({"name": "retinanet", "num_classes": 0}, "num_classes is 0, but a detector has at least 1"),
        ({"name": "retinanet", "anchor_scales": 3}, "no argument 'anchor_scales'; did you mean anchor_scale"),
        ({"name": "mask_rcnn_crosformer_small"}, "did you mean mask_rcnn_crossformer_small"),
    ):
        with pytest.raises(UserError, match=message):
            create_model(**arguments)


def test_files_of_mmdetection(tmp_path: Path) -> None:
    net = small_detector("cascade_mask_rcnn", "crossformer")
    arrays = {item.name: np.full(item.shape, 0.25, np.float32) for item in net.get_parameters()}
    extra = {
        "roi_head.bbox_head.0.shared_convs.0.bn.num_batches_tracked": np.array(3, np.int64),
        "backbone.layers.0.blocks.0.attn.biases": np.zeros((169, 2), np.float32),
    }
    save_torch(tmp_path / "cascade.pth", {"state_dict": {**arrays, **extra}, "meta": {"epoch": 1}})
    result = load_weights(net, tmp_path / "cascade.pth")
    assert len(result.loaded) == len(arrays)
    assert all((item.asnumpy() == 0.25).all() for item in net.get_parameters())
    arrays["roi_head.extra"] = arrays.pop("rpn_head.rpn_cls.bias")
    with pytest.raises(UserError, match=r"1 missing: rpn_head.rpn_cls.bias; 1 unexpected: roi_head.extra"):
        load_weights(net, arrays)


@pytest.mark.parametrize("method", ["retinanet", "mask_rcnn", "cascade_mask_rcnn"])
def test_other_classes(method: str) -> None:
    theirs, net = small_detector(method, "cvt", num_classes=7), small_detector(method, "cvt")
    arrays = {item.name: np.full(item.shape, 0.25, np.float32) for item in theirs.get_parameters()}
    assert num_classes_of(WeightsFile(arrays, {}, "")) == 7
    with pytest.raises(UserError, match="shape"):
        load_weights(net, arrays)
    kept = {name.split(".")[-2] for name in load_weights(net, arrays, new_head=True).kept}
    assert kept == ({"retina_cls"} if method == "retinanet" else {"fc_cls", "fc_reg", "conv_logits"})
