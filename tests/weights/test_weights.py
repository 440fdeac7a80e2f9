"""Strict loading from mappings and files."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from safetensors.numpy import save_file
from small import small
from torchfile import View, save_torch

from mindvit.cli import convert, export, train, validate
from mindvit.errors import UserError, hints_for
from mindvit.models import create_model
from mindvit.recipe.commandline import options
from mindvit.recipe.schema import TRAINING_ONLY
from mindvit.weights import WeightsError, load_weights, names, read_weights
from mindvit.weights.load import resize_position
from mindvit.weights.write import save_weights


def network(num_classes: int = 3, img_size: tuple[int, int] = (24, 16)) -> nn.Cell:
    return create_model("crossvit_tiny", num_classes=num_classes, img_size=img_size)


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {item.name: random.standard_normal(item.shape).astype(np.float32) for item in network().get_parameters()}


def holds(net: nn.Cell, weights: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(item.asnumpy(), weights[item.name]) for item in net.get_parameters())


def test_a_mapping(weights: dict[str, np.ndarray]) -> None:
    net = network()
    report = load_weights(net, weights)
    assert holds(net, weights) and len(report.loaded) == len(weights) and str(report) == f"{len(weights)} loaded"
    assert not (report.resized or report.missing or report.unexpected or report.differing)


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors", ".npz"])
def test_files_of_every_format(weights: dict[str, np.ndarray], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".ckpt":
        ms.save_checkpoint([{"name": name, "data": ms.Tensor(value)} for name, value in weights.items()], str(path))
    elif suffix == ".safetensors":
        save_file(weights, path)
    else:
        np.savez(path, **weights)
    net = network()
    load_weights(net, path)
    assert holds(net, weights)
    renamed = path.rename(tmp_path / "weights.bin")  # the content tells the format
    assert set(read_weights(renamed)[0]) == set(weights) and [item.name for item in tmp_path.iterdir()] == [
        "weights.bin"
    ]


def test_anything_that_differs_is_refused_and_changes_nothing(weights: dict[str, np.ndarray]) -> None:
    net = network()
    before = {item.name: item.asnumpy().copy() for item in net.get_parameters()}
    lacking = {name: value for name, value in weights.items() if name != "norm.0.bias"}
    with pytest.raises(WeightsError, match="1 missing: norm.0.bias") as caught:
        load_weights(net, lacking)
    assert caught.value.report.missing == ["norm.0.bias"]
    with pytest.raises(WeightsError, match="1 unexpected: extra.weight"):
        load_weights(net, {**weights, "extra.weight": np.zeros(3, np.float32)})
    with pytest.raises(WeightsError, match=r"head.0.weight \(3, 96\) instead of \(7, 96\)"):
        load_weights(network(num_classes=7), weights)
    assert holds(net, before)


def test_what_may_differ_is_named_by_the_caller(weights: dict[str, np.ndarray]) -> None:
    net = network(num_classes=7)
    head = net.head[0].weight.asnumpy().copy()
    report = load_weights(net, {**weights, "extra.weight": np.zeros(3, np.float32)}, may_differ=["head.*", "extra.*"])
    assert (
        np.array_equal(net.head[0].weight.asnumpy(), head)
        and len(report.differing) == 4
        and report.unexpected == ["extra.weight"]
    )
    assert np.array_equal(net.norm[0].weight.asnumpy(), weights["norm.0.weight"])


def test_position_embeddings_are_resized_only_when_asked(weights: dict[str, np.ndarray]) -> None:
    with pytest.raises(WeightsError, match="resize=True"):
        load_weights(network(img_size=(48, 32)), weights)
    net = network(img_size=(48, 32))
    report = load_weights(net, weights, resize=True)
    assert sorted(report.resized) == ["pos_embed.0", "pos_embed.1"]
    table = {item.name: item.asnumpy() for item in net.get_parameters()}["pos_embed.0"]
    assert np.array_equal(table[:, 0], weights["pos_embed.0"][:, 0])  # the class token's stays


def test_resizing_keeps_a_plane_and_the_orientation() -> None:
    rows = np.concatenate([np.zeros(1), np.repeat(np.arange(4.0), 4)]).reshape(1, 17, 1).astype(np.float32)
    larger = resize_position(rows, (1, 65, 1))[0, 1:, 0].reshape(8, 8)
    assert np.abs(larger - larger[:, :1]).max() < 1e-6 and (np.diff(larger[:, 0]) > 0).all()
    with pytest.raises(UserError, match="square"):
        resize_position(rows, (1, 60, 1))


def official(family: str, **arguments: Any) -> tuple[nn.Cell, dict[str, np.ndarray]]:
    """A family's small network, and other weights for it under the authors' names."""
    random, net = np.random.default_rng(0), small(family, **arguments)
    return net, {item.name: random.standard_normal(item.shape).astype(np.float32) for item in net.get_parameters()}


ORIGINS = [(item.name, item.family) for item in names.ORIGINS if not item.refused and not item.absent]


@pytest.mark.parametrize("origin, family", ORIGINS)
def test_every_origin(origin: str, family: str, tmp_path: Path) -> None:
    net, weights = official(family)
    theirs = names.outwards(weights, names.origin(origin, family))
    report = load_weights(
        net,
        save_torch(tmp_path / "a.pth", {"model": {f"module.{name}": value for name, value in theirs.arrays.items()}}),
    )
    assert holds(net, weights) and report.origin == origin and len(report.loaded) == len(weights)
    assert bool(report.renamed) == (origin != "pytorch") and bool(report.transposed) == (origin == "paddlevit")
    assert "taken: model" in str(report) and ("names of" in str(report)) == (origin != "pytorch")


def test_number_types_are_told(tmp_path: Path) -> None:
    net, weights = official("xcit")
    theirs = names.outwards(weights, names.origin("timm", "xcit")).arrays
    brain: dict[str, Any] = dict(theirs)
    for name in [name for name in theirs if ".attn.q." in name or name == "cls_token"]:
        brain[name] = View(np.ascontiguousarray((theirs[name].view(np.uint32) >> 16).astype(np.uint16)))
    brain["head.weight"] = brain["head.weight"].astype(np.float64)
    del brain["cls_attn_blocks.1.attn.q.weight"]
    with pytest.raises(
        WeightsError,
        match="1 missing: cls_attn_blocks.1.attn.qkv.weight; 2 unexpected: cls_attn_blocks.1.attn.k.weight",
    ):
        load_weights(net, save_torch(tmp_path / "a.pth", brain))
    brain["cls_attn_blocks.1.attn.q.weight"] = theirs["cls_attn_blocks.1.attn.q.weight"].astype(np.float16)
    report = load_weights(net, save_torch(tmp_path / "b.pth", brain))
    assert {item.split(" ")[0]: item.split(" ")[1] for item in report.converted} == {
        "cls_token": "bfloat16",
        "head.weight": "float64",
        "cls_attn_blocks.0.attn.qkv.weight": "bfloat16",
        "cls_attn_blocks.0.attn.qkv.bias": "bfloat16",
        "cls_attn_blocks.1.attn.qkv.bias": "bfloat16",
    }
    assert "of another number type: " in str(report) and (net.cls_token.asnumpy() == np.float32(0)).sum() == 0


def test_a_new_head_is_asked_for() -> None:
    net, weights = official("cvt", num_classes=7)
    before = net.head.weight.asnumpy().copy()
    weights["head.weight"], weights["head.bias"] = np.zeros((21841, 48), np.float32), np.zeros(21841, np.float32)
    with pytest.raises(
        WeightsError,
        match="the file's head has 21841 classes, those of ImageNet-22k: new_head=True .*num_classes=21841 takes it",
    ):
        load_weights(net, weights)
    report = load_weights(net, weights, new_head=True)
    assert report.kept == ["head.weight", "head.bias"] and np.array_equal(net.head.weight.asnumpy(), before)
    assert "2 left at initial values: head.weight, head.bias" in str(report)
    assert np.array_equal(net.norm.weight.asnumpy(), weights["norm.weight"])
    net, weights = official("crossformer", num_classes=0)
    headed = {**weights, "head.weight": np.zeros((5, 256), np.float32)}
    assert load_weights(net, headed).unused == ["head.weight"]  # a network without classifier
    assert load_weights(
        create_model("crossformer_tiny", embed_dim=32, depths=(1, 1, 2, 1), features_only=True), headed
    ).unused == ["head.weight"]


def test_other_input_channels_are_asked_for() -> None:
    for family, stems in (("crossvit", 2), ("cvt", 1), ("crossformer", 4), ("xcit", 1)):
        weights = official(family)[1]
        for channels in (1, 6):
            net = small(family, in_channels=channels)
            with pytest.raises(WeightsError, match="adapt_channels=True"):
                load_weights(net, weights)
            report = load_weights(net, weights, adapt_channels=True)
            assert len(report.adapted) == stems and "fitted to other input channels" in str(report)
            adapted = {item.name: item.asnumpy() for item in net.get_parameters() if item.name in report.adapted}
            for name, value in adapted.items():  # a grey image gives what it gave
                assert np.allclose(value.sum(1), weights[name].sum(1), atol=1e-4) and value.shape[1] == channels


def test_backbones_of_detectors(tmp_path: Path) -> None:
    net, weights = official("crossformer")
    detector = {f"backbone.{name}": value for name, value in weights.items() if not name.startswith(("norm.", "head."))}
    detector.update(
        {
            "bbox_head.retina_cls.weight": np.zeros((2, 2), np.float32),
            "backbone.layers.0.blocks.0.attn.biases": np.zeros((169, 2), np.float32),
        }
    )
    path = save_torch(tmp_path / "a.pth", {"meta": {"epoch": 12}, "state_dict": detector})
    with pytest.raises(WeightsError, match="4 missing: norm.weight, norm.bias, head.weight and 1 more.*new_head"):
        load_weights(net, path)
    report = load_weights(net, path, new_head=True)
    assert sorted(report.kept) == ["head.bias", "head.weight", "norm.bias", "norm.weight"]
    assert sorted(report.unused) == ["bbox_head.retina_cls.weight", "layers.0.blocks.0.attn.biases"]
    report = load_weights(create_model("crossformer_tiny", embed_dim=32, depths=(1, 1, 2, 1), features_only=True), path)
    assert sorted(report.kept) == ["norm.bias", "norm.weight"] and len(report.loaded) == len(weights) - 4


def test_create_model_takes_weights(weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = save_torch(tmp_path / "a.pth", weights)
    assert holds(create_model("crossvit_tiny", num_classes=3, img_size=(24, 16), pretrained=path), weights)
    with pytest.raises(WeightsError, match="doesn't fit"):
        create_model("crossvit_tiny", num_classes=4, img_size=(24, 16), pretrained=str(path))


COMMANDS = {  # what each command can be hinted at
    "train": (options(train.EXTRA), {"--new_head", "--num_classes 4"}),
    "validate": (options(validate.EXTRA, TRAINING_ONLY), {"--num_classes 4"}),
    "predict": (["--ckpt_path", "--model", "--classes"], set()),
    "convert": (convert.parser().options(), {"--new_head", "--num_classes 4"}),
    "export": (export.parser().options(), {"--num_classes 4"}),
}
HINTS = {
    "--new_head",
    "--num_classes 4",
    "--resize",
    "--features_only",
    "--adapt_channels",
    "new_head=",
    "num_classes=",
    "may_differ",
    "resize=",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_hint_names_what_its_command_has(command: str) -> None:
    known, shown = COMMANDS[command]
    arrays = {
        **small_arrays(num_classes=3),
        **{f"head.{branch}.weight": np.zeros((4, 48 * (branch + 1)), np.float32) for branch in (0, 1)},
    }
    with pytest.raises(WeightsError) as caught, hints_for(known):
        load_weights(small("crossvit", num_classes=3), arrays)
    text = str(caught.value)
    assert (
        {hint for hint in HINTS if hint in text} == shown
        and "the file's head has 4 classes" in text
        and "\n" not in text
    )


def small_arrays(**arguments: Any) -> dict[str, np.ndarray]:
    return {item.name: item.asnumpy() for item in small("crossvit", **arguments).get_parameters()}


def test_weights_of_another_size_are_told_with_that_size() -> None:
    arrays = small_arrays(img_size=(48, 32))
    for known, says in (
        (None, "img_size=(48,32) takes the file's size; resize=True interpolates position embeddings"),
        (options(validate.EXTRA, TRAINING_ONLY), "--img_size 48,32 takes the file's size"),
        (
            convert.parser().options(),
            "--img_size 48,32 takes the file's size; --resize interpolates position embeddings",
        ),
    ):
        with pytest.raises(WeightsError) as caught, contextlib.nullcontext() if known is None else hints_for(known):
            load_weights(small("crossvit"), arrays)
        assert says in str(caught.value) and ("--resize" in str(caught.value)) == ("--resize" in (known or ()))


def test_the_set_to_take_is_asked_for_where_it_can_be_said(tmp_path: Path) -> None:
    path = save_torch(tmp_path / "a.pth", {"one": {"w": np.ones(2, np.float32)}, "two": {"w": np.ones(2, np.float32)}})
    for known, says in (
        (["--take"], ": say which, --take one or two"),
        (["--model"], ": holds several sets of weights, one, two"),
    ):
        with pytest.raises(UserError) as caught, hints_for(known):
            load_weights(small("crossvit"), path)
        assert str(caught.value).endswith(says)


def test_no_hint_where_nothing_helps() -> None:
    with pytest.raises(WeightsError) as caught:
        load_weights(small("crossvit", embed_dim=(24, 48)), official("crossvit")[1])
    assert not any(word in str(caught.value) for word in ("resize", "new_head", "adapt_channels"))


def test_a_file_of_another_model_says_so(tmp_path: Path) -> None:
    net, weights = official("cvt")
    save_weights(tmp_path / "a.safetensors", weights, {"model": "cvt_21_224"})
    report = load_weights(net, tmp_path / "a.safetensors")  # which are the same tensors here
    assert "saved as cvt_21_224" in str(report)
    del weights["norm.weight"]
    save_weights(tmp_path / "a.ckpt", weights, {"model": "cvt_21_224"})
    with pytest.raises(WeightsError, match="is a mindvit file of cvt_21_224, but the network is cvt_13_224"):
        load_weights(net, tmp_path / "a.ckpt")


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_truncated_files(weights: dict[str, np.ndarray], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        np.savez(path, **weights)
    else:
        save_file(weights, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="damaged") as caught:
        read_weights(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
