"""Every registered network: facts, construction, sizes, heads."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from golden import VARIANTS
from mindspore import Tensor

import mindvit
from mindvit.errors import UserError
from mindvit.models import create_model, list_models, model_info
from mindvit.models.crossvit import branch_sizes

TINY = {"num_classes": 5, "img_size": (24, 16)}


def picture(channels: int = 3, height: int = 24, width: int = 24) -> Tensor:
    return Tensor(np.random.default_rng(0).standard_normal((2, channels, height, width)).astype(np.float32))


@pytest.mark.parametrize("name", list_models())
def test_parameters_are_counted_exactly(name: str) -> None:
    measured, net = VARIANTS[name]["measured"], create_model(name)
    assert sum(item.size for item in net.trainable_params()) == measured["params"] == model_info(name).params
    assert len(net.trainable_params()) == measured["param_tensors"]


@pytest.mark.parametrize("name", list_models())
def test_facts_are_the_measured_ones(name: str) -> None:
    info, variant = model_info(name), VARIANTS[name]
    published = variant["timm_validation"]
    assert info.macs == variant["measured"]["macs"]["total"] and (info.acc1, info.acc5) == (published["acc1"], published["acc5"])
    assert published["model"] in info.accuracy_source and variant["checkpoint"] in info.source
    evaluation = variant["eval"]
    assert [info.input_size] * 2 == evaluation["input"] and info.crop_pct == evaluation["crop_pct"] and info.interpolation == evaluation["interpolation"]
    assert int(info.input_size / info.crop_pct) == evaluation["resize_short_side"]
    assert list(info.mean) == evaluation["mean"] and list(info.std) == evaluation["std"] and info.drop_path_rate == variant["train"]["drop_path_rate"]


@pytest.mark.parametrize("name", list_models())
def test_aliases_mean_the_same_network(name: str) -> None:
    for alias in (VARIANTS[name]["seed_name"], *VARIANTS[name]["also_called"].values()):
        assert model_info(alias).name == name, alias


def test_all_variants_of_the_finished_families_are_there() -> None:
    assert mindvit.list_models("crossvit*") == sorted(name for name, variant in VARIANTS.items() if variant["family"] == "crossvit")
    assert mindvit.list_models("crossvit_*dagger_384") == ["crossvit_15_dagger_384", "crossvit_18_dagger_384"]
    assert mindvit.list_models("resnet*") == []


def test_unknown_names_and_arguments() -> None:
    with pytest.raises(UserError, match="unknown model 'crosvit_9'; did you mean crossvit_9"):
        create_model("crosvit_9")
    with pytest.raises(UserError, match="no argument 'drop_pth'; did you mean drop_path_rate"):
        create_model("crossvit_9", drop_pth=0.1)


def test_published_sizes_and_others() -> None:
    assert branch_sizes(240) == (240, 224) and branch_sizes(408) == (408, 384) and branch_sizes((48, 32)) == (48, 32)
    for wrong in (224, (240, 230), (0, 16)):
        with pytest.raises(UserError, match="multiple of 12"):
            branch_sizes(wrong)


def test_no_head_gives_both_class_tokens() -> None:
    net = create_model("crossvit_tiny", **{**TINY, "num_classes": 0}).set_train(False)
    assert net(picture()).shape == (2, 96 + 192)


def test_other_channels_overrides_and_sizes() -> None:
    net = create_model("crossvit_tiny", **TINY, in_channels=1, embed_dim=(48, 96)).set_train(False)
    assert net(picture(channels=1)).shape == (2, 5)
    assert net(picture(channels=1, height=30, width=40)).shape == (2, 5)  # neither branch's height: both are resized to squares


def test_dropout_is_in_the_training_graph_only() -> None:
    ms.set_seed(3)
    net, x = create_model("crossvit_tiny", **TINY, drop_rate=0.3, attn_drop_rate=0.3, drop_path_rate=0.3), picture()
    net.set_train(False)
    assert np.array_equal(net(x).asnumpy(), net(x).asnumpy())
    net.set_train(True)
    assert not np.array_equal(net(x).asnumpy(), net(x).asnumpy())
