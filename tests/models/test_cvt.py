"""CvT: small images, stochastic depth, and what its last block leaves out."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from golden import VARIANTS, deviation, fill, filled
from mindspore import Tensor, nn, ops

from mindvit.errors import UserError
from mindvit.layers.drop_path import Residual
from mindvit.layers.precision import set_precision
from mindvit.models import create_model, list_models, model_info
from mindvit.models.network import Backbone
from mindvit.optim.param_groups import is_decayed
from mindvit.runtime import platform

NARROW: dict[str, Any] = {"num_classes": 5, "embed_dim": (8, 16, 24), "num_heads": (1, 2, 3)}
TINY = {**NARROW, "depth": (1, 1, 2)}
DEAD = "stage2.blocks.1.attn.conv_proj_q."  # in TINY: forms queries of patches that the classifier never sees


def tiny(**others: Any) -> nn.Cell:
    return filled("cvt_13_224", **TINY, **others)


def image(height: int, width: int) -> Tensor:
    return Tensor(fill.image(2, (height, width)))


@pytest.mark.parametrize("wrong", [(2, 224), (224, 2), (0, 0)])
def test_images_that_are_too_small(wrong: tuple[int, int]) -> None:
    with pytest.raises(UserError, match=f"{wrong[0]} x {wrong[1]} px is too small: it needs at least 3 px"):
        tiny().check_size(*wrong)


@pytest.mark.usefixtures("operator_by_operator")
def test_the_smallest_image() -> None:
    assert np.isfinite(tiny()(image(3, 3)).asnumpy()).all()


@pytest.mark.parametrize("name", list_models("cvt*"))
def test_drop_path_rates(name: str) -> None:
    expected = VARIANTS[name]["train"]["drop_path_per_block"]
    net = create_model(name, **NARROW)  # the depths are the variant's
    found = [(path, cell.rate) for path, cell in net.cells_and_names() if isinstance(cell, Residual)]
    assert len(found) == 2 * sum(len(rates) for rates in expected.values())
    for path, rate in found:
        stage, _, block, _ = path.split(".")
        assert abs(rate - expected[stage][int(block)]) < 1e-6, path


@pytest.mark.usefixtures("operator_by_operator")
def test_both_layouts_of_maps_give_the_same() -> None:
    found = []
    for as_product in (False, True):
        with platform.use(platform.Platform(slow_convolution=as_product)):
            net = Backbone(tiny())
        found.append([each.asnumpy() for each in net(image(45, 70))])
    for one, other in zip(*found):
        assert one.shape == other.shape and deviation(one, other) < 1e-5


class Energy(nn.Cell):
    """Sum of the squares of a network's outputs."""

    def __init__(self, net: nn.Cell):
        super().__init__(auto_prefix=False)
        self.net = net

    def construct(self, x: Tensor) -> Tensor:
        return ops.square(self.net(x)).sum()


@pytest.mark.usefixtures("operator_by_operator")
def test_what_the_last_block_leaves_out() -> None:
    net = tiny(drop_path_rate=0.0).set_train(True)
    before = {item.name: item.asnumpy().copy() for item in net.get_parameters()}
    weights = ms.ParameterTuple(net.trainable_params())
    _, found = ops.value_and_grad(Energy(net), None, weights)(image(48, 48))
    gradients = {weight.name: gradient.asnumpy() for weight, gradient in zip(weights, found)}
    assert sum(name.startswith(DEAD) for name in gradients) == 3
    for name, gradient in gradients.items():
        assert gradient.any() != name.startswith(DEAD), name
    for parameter in net.untrainable_params():  # running statistics, the dead ones' too
        assert not np.array_equal(parameter.asnumpy(), before[parameter.name]), parameter.name


@pytest.mark.usefixtures("operator_by_operator")
def test_the_class_tokens_way_through_the_last_block_is_the_full_one() -> None:
    block = tiny().stage2.blocks[1]
    rows = Tensor(fill.noise("rows", (2 * 13, 24)))
    all_tokens = block(rows, 2, None, (3, 4)).asnumpy().reshape(2, 13, 24)
    assert deviation(block.for_class_token(rows, 2, None, (3, 4)).asnumpy(), all_tokens[:, 0]) < 1e-6


@pytest.mark.usefixtures("operator_by_operator")
def test_half_precision() -> None:
    net, x = tiny(), image(48, 48)
    expected = net(x).asnumpy()
    half = tiny()
    set_precision(half, "O2", ms.float16)
    found = half(x)
    assert found.dtype == ms.float32 and 0 < deviation(found.asnumpy(), expected) < 2e-2


def test_only_the_class_token_is_spared_weight_decay() -> None:
    net = tiny()
    spared = [
        item.name
        for item in net.trainable_params()
        if item.ndim > 1 and not is_decayed(item.name, item.ndim, "norm_and_bias", net.no_weight_decay())
    ]
    assert spared == ["stage2.cls_token"]


def test_names_that_two_variants_share_and_squeezed_images() -> None:
    assert model_info("cvt-13-384x384").name == "cvt_13_384" and model_info("cvt-13-384-22k").name == "cvt_13_384_22k"
    assert model_info("cvt-w24-384x384").name == model_info("CvT-w24-384-22k").name == "cvt_w24_384_22k"
    for name in list_models("cvt*"):
        assert (model_info(name).crop_mode == "squash") == ("resize_to" in VARIANTS[name]["eval"])
