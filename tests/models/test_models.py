"""Every registered network: facts, construction, sizes, heads."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from golden import VARIANTS, is_without_gradient
from mindspore import Tensor
from modes import uncompiled
from small import SIDE, SMALL, inputs_of, small
from steps import neutral_inputs, train_step

import mindvit
from mindvit.errors import UserError
from mindvit.models import create_model, list_models, model_info, registry
from mindvit.models.crossvit import branch_sizes
from mindvit.models.registry import model_config
from mindvit.optim.param_groups import is_decayed

# variants that differ in weights or image size alone are one network
CORRECTED = {"cvt_13_224": {"acc5": 95.67}, "cvt_21_224": {"acc1": 82.46, "acc5": 96.0}}  # docs/errata.md
DISTINCT = list({str(model_config(name)): name for name in reversed(list_models())}.values())


@pytest.mark.usefixtures("no_random_weights")
@pytest.mark.parametrize("name", DISTINCT)
def test_parameters_are_counted_exactly(name: str) -> None:
    measured, net = VARIANTS[name]["measured"], create_model(name)
    assert sum(item.size for item in net.trainable_params()) == measured["params"] == model_info(name).params
    assert len(net.trainable_params()) == measured["param_tensors"]
    told, names = net.pretrained_cfg, {item.name for item in net.get_parameters()}
    heads = [told["classifier"]] if isinstance(told["classifier"], str) else told["classifier"]
    assert {f"{head}.weight" for head in heads} < names
    widths = [net.parameters_dict()[f"{head}.weight"].shape[1] for head in heads]
    assert net.num_features == net.head_hidden_size == sum(widths)
    assert net.num_classes == told["num_classes"] == 1000
    assert net.get_classifier() is net.head


@pytest.mark.parametrize("name", list_models())
def test_facts_are_the_measured_ones(name: str) -> None:
    info, variant = model_info(name), VARIANTS[name]
    seed = {**variant["seed"], **CORRECTED.get(info.name, {})}
    published = variant.get("timm_validation", seed)  # the same weights measured again, where somebody did
    assert info.macs == variant["measured"]["macs"]["total"] and (info.acc1, info.acc5) == (
        published["acc1"],
        published.get("acc5"),
    )
    assert (
        published.get("model", {"cvt": "BR-IDL/PaddleViT README"}.get(info.family, f"{variant['repo']} README"))
        in info.accuracy_source
    )
    assert variant["repo"] in info.source and variant.get("checkpoint", variant["source"]) in info.source
    evaluation = variant["eval"]
    assert (
        [info.input_size] * 2 == evaluation["input"]
        and info.crop_pct == evaluation["crop_pct"]
        and info.interpolation == evaluation["interpolation"]
    )
    told = registry.pretrained_cfg(name)
    assert list(told["input_size"]) == [3, *evaluation["input"]]
    assert all(told[key] == evaluation[key] for key in ("crop_pct", "interpolation"))
    assert list(told["mean"]) == evaluation["mean"] and list(told["std"]) == evaluation["std"]
    assert told["fixed_input_size"] == (info.family == "crossvit")
    assert evaluation.get("resize_short_side") == (
        None if (info.crop_mode == "squash") else int(info.input_size / info.crop_pct)
    )
    rate = variant["train"]["drop_path_rate"]
    assert (
        list(info.mean) == evaluation["mean"]
        and list(info.std) == evaluation["std"]
        and info.drop_path_rate == np.max(rate)
    )


def test_variants_of_one_network_have_its_parameters() -> None:
    assert len(DISTINCT) == 32
    counts = {str(model_config(name)): model_info(name).params for name in DISTINCT}
    for name in list_models():
        assert counts[str(model_config(name))] == model_info(name).params == VARIANTS[name]["measured"]["params"], name


@pytest.mark.parametrize("name", list_models())
def test_aliases_mean_the_same_network(name: str) -> None:
    for alias in (VARIANTS[name]["seed_name"], *VARIANTS[name].get("also_called", {}).values()):
        found = model_info(alias).name
        assert found == name or VARIANTS[found]["golden"] == VARIANTS[name]["golden"], (
            alias
        )  # other weights of the same network have one name too


def test_timm_s_names_with_their_tags() -> None:
    sizes = {name: 408 if name.endswith("_384") else 240 for name in list_models("crossvit_*")}
    for name, size in sizes.items():
        assert model_info(f"{name.replace('_384', '')}_{size}.in1k").name == name
    assert model_info("xcit_tiny_12_p8_384.fb_dist_in1k").name == "xcit_tiny_12_p8_384_distill"
    with pytest.raises(UserError, match=r"unknown model 'crossvit_9_240.in22k': crossvit_9_240 has no tag but .in1k"):
        model_info("crossvit_9_240.in22k")
    with pytest.raises(UserError, match="crossvit_9_dagger has no tags"):
        model_info("crossvit_9_dagger.in1k")
    with pytest.raises(UserError, match=r"did you mean crossvit_9_240.in1k"):
        model_info("crossvit_9_241.in1k")


def test_all_variants_are_there() -> None:
    assert mindvit.list_models() == sorted(VARIANTS)
    assert mindvit.list_models("crossvit_*dagger_384") == ["crossvit_15_dagger_384", "crossvit_18_dagger_384"]
    assert mindvit.list_models("resnet*") == []


@pytest.mark.parametrize("name", list_models())
def test_arguments_are_the_authors(name: str) -> None:
    arch, config = VARIANTS[name]["arch"], dict(model_config(name))
    named = {
        "img_size": arch.get("img_size"),
        "revision": "head",
        "stem": "conv" if arch.get("multi_conv") else "patch",
    }
    if VARIANTS[name]["family"] == "crossvit":
        named.update(
            depth=tuple(arch["depth"][0][:2]), mlp_ratio=tuple(arch["mlp_ratio"][:2]), img_size=arch["img_size"][0]
        )
    for key, value in config.items():
        expected = named.get(key, arch.get(key))
        assert value == (tuple(expected) if isinstance(expected, list) else expected), key


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


@pytest.mark.usefixtures("operator_by_operator")
@pytest.mark.parametrize("family", SMALL)
def test_heads_come_and_go(family: str) -> None:
    net, x = small(family, in_channels=1).set_train(False), inputs_of(family, channels=1)
    assert net(x).shape == (2, 5)
    net.reset_classifier(3)
    assert net.num_classes == 3
    fresh = small(family, in_channels=1, num_classes=3)
    assert {item.name: item.shape for item in net.get_parameters()} == {
        item.name: item.shape for item in fresh.get_parameters()
    }
    assert net.get_classifier() is net.head
    net.reset_classifier(0)
    assert net.get_classifier() is None
    width = net(x).shape[1]
    assert width == net.num_features
    assert width == sum(item.channels for item in net.feature_info[-2 if family == "crossvit" else -1 :])
    assert not [item.name for item in net.get_parameters() if item.name.startswith("head")]
    with pytest.raises(UserError, match="num_classes is -1"):
        net.reset_classifier(-1)


@pytest.mark.usefixtures("operator_by_operator")
@pytest.mark.parametrize("family", SMALL)
def test_feature_maps_are_what_feature_info_says(family: str) -> None:
    every = range(len(small(family).feature_info))
    x = inputs_of(family, wider=0 if family == "crossvit" else 32)
    net = small(family, features_only=True, out_indices=(*every, -1)).set_train(False)
    maps = net(x)
    assert len(maps) == len(net.feature_info) == len(every) + 1 and np.array_equal(
        maps[-1].asnumpy(), maps[-2].asnumpy()
    )
    assert net.feature_info.channels() == [item.shape[1] for item in maps]
    assert net.feature_info.reduction() == [item["reduction"] for item in net.feature_info]
    assert net.feature_info.module_name() == [item["module"] for item in net.feature_info]
    assert net.pretrained_cfg["input_size"] == net.default_cfg["input_size"]
    for found, info in zip(maps, net.feature_info):
        assert found.shape == (2, info.channels, round(x.shape[2] / info.stride), round(x.shape[3] / info.stride)), info
    assert not [item.name for item in net.get_parameters() if item.name.startswith("head")]
    assert {item.name for item in net.get_parameters()} == {
        item.name for item in small(family, num_classes=0).get_parameters()
    }


@pytest.mark.parametrize("family", SMALL)
def test_operator_by_operator_gives_the_same(family: str) -> None:
    x, compiled = inputs_of(family), small(family).set_train(False)
    names, logits = [item.name for item in compiled.get_parameters()], compiled(inputs_of(family)).asnumpy()
    with uncompiled():
        net = small(family).set_train(False)
        features = net.forward_features(x)
        assert np.abs(net.forward_head(features).asnumpy() - logits).max() < 1e-5
        assert net.forward_head(features, pre_logits=True).shape == (2, net.num_features)
        assert np.abs(net(x).asnumpy() - logits).max() < 1e-5 and [item.name for item in net.get_parameters()] == names


def test_wrong_feature_maps_are_refused() -> None:
    for indices in ((4,), (-5,), ()):
        with pytest.raises(UserError, match=r"out_indices is .* 4 feature maps, 0 to 3"):
            small("crossformer", features_only=True, out_indices=indices)
    with pytest.raises(UserError, match="features_only is False"):
        small("crossformer", out_indices=(1,))


@pytest.mark.parametrize("family", [family for family in SMALL if family != "crossvit"])
def test_networks_of_any_size_say_so(family: str) -> None:
    with pytest.raises(UserError, match="takes images as they come"):
        small(family, img_size=64)
    with pytest.raises(UserError, match="0 x 32 px"):
        small(family).check_size(0, 32)


@pytest.mark.parametrize("family", SMALL)
def test_dropout_is_in_the_training_graph_only(family: str) -> None:
    net, x = small(family, drop_rate=0.3, attn_drop_rate=0.3, drop_path_rate=0.3), inputs_of(family)
    net.set_train(False)
    assert np.array_equal(net(x).asnumpy(), net(x).asnumpy())
    net.set_train(True)
    assert not np.array_equal(net(x).asnumpy(), net(x).asnumpy())


@pytest.mark.parametrize("family", SMALL)
def test_one_batch_is_learned_by_heart(family: str) -> None:
    net = small(family, drop_path_rate=0.1).set_train(True)
    names = [item.name for item in net.trainable_params()]
    decayed = [
        is_decayed(item.name, item.ndim, "norm_and_bias", net.no_weight_decay()) for item in net.trainable_params()
    ]
    assert net.no_weight_decay() <= set(names)
    step = train_step(net, decayed, mean=(0.5,) * 3, std=(0.25,) * 3)
    side, count = SIDE[family], 8
    images = Tensor(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8))
    labels = Tensor((np.arange(count) % 5).astype(np.int32))
    unused = neutral_inputs(count, side, 3, step.drop_paths)[2:6]
    keep = Tensor(np.ones((max(step.drop_paths, 1), count), np.float32))  # drop path keeps every sample
    losses = [float(step(images, labels, *unused, keep, Tensor(3e-3, ms.float32))[0].asnumpy()) for _ in range(60)]
    assert losses[0] > 1 and losses[-1] < 0.05, losses[::10]
    pairs = zip(small(family).trainable_params(), step.weights)
    unmoved = [
        new.name
        for old, new in pairs
        if np.array_equal(old.asnumpy(), new.asnumpy()) and not is_without_gradient(new.name)
    ]
    assert not [
        name for name in unmoved if not name.startswith("stage2.blocks.1.attn.conv_proj_q.")
    ]  # CvT's last queries of patches are seen by nobody


@pytest.mark.usefixtures("operator_by_operator")
def test_crossvit_resizes_images_of_other_sizes() -> None:
    net = small("crossvit").set_train(False)
    assert net(Tensor(np.ones((2, 3, 30, 40), np.float32))).shape == (
        2,
        5,
    )  # neither branch's height: both are resized to squares
    with pytest.raises(UserError, match="24 x 32 px: .* must be square"):
        net(inputs_of("crossvit", wider=8))
