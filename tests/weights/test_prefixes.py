"""Weights out of what training tools write: prefixes in any order, several sets, heads of other names, settings of
any class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mindspore import nn
from oracle import lists
from small import small
from torchfile import Call, Name, View, save_torch

from mindvit.errors import UserError
from mindvit.inference.predictor import Predictor
from mindvit.weights import WeightsError, load_weights, names, prefixes
from mindvit.weights.inspect import num_classes_of
from mindvit.weights.readers import read

Arrays = dict[str, np.ndarray]
LISTS = lists()
SMALLEST = {
    file.split("/")[0] + names.recognise(LISTS[file]).family: file  # type: ignore[union-attr]
    for file in sorted(LISTS, reverse=True)
}
PREFIXES = (
    "module.",
    "module.module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "model.",
    "net.",
    "network.",
    "model._orig_mod.module.",
    "model.module.",
    "encoder.",
    "_fsdp_wrapped_module.",
    "_forward_module.model.",
    "state.vit.",
    "module.backbone.",
)


@pytest.mark.parametrize("file", SMALLEST.values())
def test_prefixes_in_any_order(file: str) -> None:
    there = list(LISTS[file])
    is_backbone = "backbone" in file or file.startswith("mm/")
    for prefix in PREFIXES:
        (found,) = prefixes.split([prefix + name for name in there] + ["n_averaged"])
        assert found.is_known and found.unused == ["n_averaged"]
        if not is_backbone:
            assert list(found.names.values()) == there, prefix
    (found,) = prefixes.split(["module." + name for name in there])
    assert list(found.names.values()) == there  # a detector's backbone keeps its own prefix
    inner = [
        name.replace("blocks.0.", "blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module.", 1) for name in there
    ]
    assert list(prefixes.split(inner)[0].names.values()) == there


def official(family: str, **arguments: Any) -> tuple[nn.Cell, Arrays]:
    """A family's small network, and other weights for it under the authors' names."""
    random, net = np.random.default_rng(0), small(family, **arguments)
    return net, {item.name: random.standard_normal(item.shape).astype(np.float32) for item in net.get_parameters()}


def holds(net: nn.Cell, weights: Arrays) -> bool:
    return all(np.array_equal(item.asnumpy(), weights[item.name]) for item in net.get_parameters())


def under(prefix: str, weights: Arrays, without: str = "-") -> Arrays:
    return {prefix + name: value for name, value in weights.items() if not name.startswith(without)}


def half(weights: Arrays) -> Arrays:
    """Other weights of the same network."""
    return {name: value / 2 for name, value in weights.items()}


FAMILIES = ("crossvit", "cvt", "crossformer", "xcit")
EXTRAS = {"criterion.weight": np.ones(5, np.float32), "train_acc.tp": np.ones(5, np.float32)}
FILES = {  # by tool: what its file holds of a network's weights
    "DataParallel twice": lambda it: {"state_dict": under("module.module.", it)},
    "averaged": lambda it: {"n_averaged": np.array(7), **under("module.", it)},
    "averaged, compiled, parallel": lambda it: {
        "averaged": {"n_averaged": np.array(7), **under("module.module._orig_mod.", it)},
        "epoch": 3,
    },
    "Lightning": lambda it: {
        "state_dict": {**under("model.", it), **EXTRAS},
        "pytorch-lightning_version": "2.1",
        "loops": {},
    },
    "Lightning with an average": lambda it: {
        "state_dict": {**under("net.", it), **under("net_ema.module.", half(it)), "net_ema.n_averaged": np.array(2)}
    },
    "MMPretrain": lambda it: {
        "meta": {"epoch": 3},
        "state_dict": {
            **under("backbone.", it, "head."),
            **{
                name.replace("head.", "head.fc.") if "head.weight" in it else f"backbone.{name}": value
                for name, value in it.items()
                if name.startswith("head.")
            },
        },
    },
    "a backbone and a classifier": lambda it: {
        "model": {
            **under("module.backbone.", it, "head."),
            **{
                name.replace("head.", "module.classifier." if "head.weight" in it else "module.backbone.head."): value
                for name, value in it.items()
                if name.startswith("head.")
            },
        }
    },
    "DeepSpeed": lambda it: {"module": under("module.", it), "optimizer": {"state": {0: {"exp_avg": np.ones(3)}}}},
    "nested": lambda it: {"checkpoint": {"model": it, "ema": half(it)}, "step": 4},
    "an average beside": lambda it: {**it, **under("ema.module.", half(it))},
    "mean teacher": lambda it: {
        "student": under("module.", half(it)),
        "teacher": it,
        "dino_loss": {"center": np.ones((1, 9), np.float32)},
        "epoch": 3,
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_files_of_training_tools(family: str, tmp_path: Path) -> None:
    net, weights = official(family)
    for number, (tool, write) in enumerate(FILES.items()):
        if family in ("cvt", "crossformer") and number in (0, 2, 7, 8, 9):
            continue  # nothing there has to do with the family
        content = read(save_torch(tmp_path / f"{number}.pth", write(weights)))
        assert num_classes_of(content) == 5, tool
        report = load_weights(net, content)
        assert holds(net, weights) and len(report.loaded) == len(weights), tool
        for item in net.get_parameters():
            item.set_data(item * 0)
    assert [item in str(report) for item in ("taken: teacher", "also there: student, dino_loss")] == [True, True]
    taken = read(tmp_path / "4.pth", "net_ema.module")
    load_weights(net, taken)
    assert (
        holds(net, half(weights))
        and taken.others == ["state_dict.net"]
        and read(tmp_path / "4.pth", "state_dict").taken == "state_dict.net"
    )
    assert read(tmp_path / "4.pth", "ema").taken == "state_dict.net_ema.module" and taken.is_average
    with pytest.raises(UserError, match="has no 'swa' to take, but state_dict.net, state_dict.net_ema.module"):
        read(tmp_path / "4.pth", "swa")


def test_a_student_and_another_teacher_are_asked_about(tmp_path: Path) -> None:
    weights, other = official("xcit")[1], official("xcit", depth=3)[1]
    path = save_torch(tmp_path / "a.pth", {"student": weights, "teacher": other})
    with pytest.raises(
        UserError, match="several sets of weights, student, teacher: say which, take=.student. or .teacher."
    ):
        read(path)
    assert set(read(path, "student").arrays) == set(weights)


def test_self_supervised_weights_have_no_classifier(tmp_path: Path) -> None:
    net, weights = official("xcit")
    body = under("", weights, "head.")
    head = {
        "head.mlp.0.weight": np.ones((8, 32), np.float32),
        "head.mlp.0.bias": np.ones(8, np.float32),
        "head.last_layer.weight_g": np.ones((9, 1), np.float32),
    }
    path = save_torch(
        tmp_path / "dino.pth",
        {
            "student": {**under("module.backbone.", half(body)), **under("module.", head)},
            "teacher": {**under("backbone.", body), **head},
            "optimizer": {"state": {}},
            "args": Call("argparse.Namespace"),
        },
    )
    content = read(path)
    assert content.taken == "teacher" and num_classes_of(content) is None and set(content.arrays) == set(body)
    with pytest.raises(
        WeightsError,
        match=r"2 missing: head.weight, head.bias; 3 of no use here: .*without classes .*projection head.*new_head",
    ):
        load_weights(net, content)
    before = net.head.weight.asnumpy()
    assert sorted(load_weights(net, content, new_head=True).kept) == ["head.bias", "head.weight"]
    assert np.array_equal(net.head.weight.asnumpy(), before) and np.array_equal(
        net.norm.weight.asnumpy(), body["norm.weight"]
    )
    with pytest.raises(UserError, match="dino.pth has no classifier, only what comes before it: train one"):
        Predictor(path, "xcit_nano_12_p16_224", device_target="CPU")


def test_transformers_model_without_its_classifier(tmp_path: Path) -> None:
    net, weights = official("cvt")
    theirs = names.outwards(weights, names.origin("hf", "cvt")).arrays
    bare = {name[len("cvt.") :]: value for name, value in theirs.items() if name.startswith("cvt.")}
    for prefix in ("", "model.", "module.backbone."):
        content = read(save_torch(tmp_path / "a.bin", under(prefix, bare)))
        report = load_weights(net, content, new_head=True)
        assert report.origin == "hf" and sorted(report.kept) == ["head.bias", "head.weight", "norm.bias", "norm.weight"]
        assert np.array_equal(net.stage0.patch_embed.proj.weight.asnumpy(), weights["stage0.patch_embed.proj.weight"])
    content = read(
        save_torch(
            tmp_path / "b.bin",
            {
                **under("model.", theirs, "classifier."),
                "model.head.weight": weights["head.weight"],
                "model.head.bias": weights["head.bias"],
            },
        )
    )
    load_weights(net, content)
    assert holds(net, weights) and num_classes_of(content) == 5


def test_a_detector_of_another_family_gives_its_backbone(tmp_path: Path) -> None:
    net, weights = official("xcit")
    detector = {
        **under("backbone.", weights, "head."),
        "neck.lateral_convs.0.weight": np.ones(3, np.float32),
        "rpn_head.x.weight": np.ones(3, np.float32),
    }
    report = load_weights(net, read(save_torch(tmp_path / "a.pth", {"state_dict": detector})), new_head=True)
    assert (
        sorted(report.unused) == ["neck.lateral_convs.0.weight", "rpn_head.x.weight"]
        and len(report.loaded) == len(weights) - 2
    )


def test_what_nobody_knows_beside_a_network_is_named(tmp_path: Path) -> None:
    net, weights = official("xcit")
    with pytest.raises(WeightsError, match="1 unexpected: adapter.weight"):
        load_weights(
            net,
            read(
                save_torch(tmp_path / "a.pth", {**under("model.", weights), "adapter.weight": np.ones(3, np.float32)})
            ),
        )
    with pytest.raises(UserError, match="two tensors would be called cls_token without the prefixes"):
        read(save_torch(tmp_path / "b.pth", {**weights, "_orig_mod.cls_token": weights["cls_token"]}))
    assert list(prefixes.split(["model.weight", "model.bias"])[0].names.values()) == [
        "model.weight",
        "model.bias",
    ]  # perhaps the network's own names


class Built:
    """Pickled as an object of a class: made without arguments, then given items and a state."""

    def __init__(self, name: str, state: Any = None, items: Any = None, entries: Any = None):
        self.name, self.state, self.items, self.entries = name, state, items, entries

    def __reduce__(self) -> tuple:
        return (
            Name(self.name),
            (),
            self.state,
            iter(self.items) if self.items else None,
            iter(self.entries) if self.entries else None,
        )


SETTINGS = {
    "args": Call("argparse.Namespace"),
    "path": Call("pathlib.PosixPath", "/", "data"),
    "counter": Call("collections.Counter", {"a": 1}),
    "lists": Built("collections.defaultdict", None, None, [("a", [1])]),
    "queue": Built("collections.deque", None, [1, 2]),
    "hyper_parameters": Built(
        "lightning_fabric.utilities.data.AttributeDict",
        None,
        None,
        [("lr", 1e-3), ("dir", Call("pathlib.WindowsPath", "C:"))],
    ),
    "config": Built(
        "omegaconf.dictconfig.DictConfig",
        {
            "_metadata": Built("omegaconf.base.ContainerMetadata", {"ref_type": Name("typing.Any")}),
            "_content": {
                "lr": Built("omegaconf.nodes.AnyNode", {"_val": 1}),
                "names": Built("omegaconf.listconfig.ListConfig", {"_content": ["a"]}),
            },
        },
    ),
    "yacs": Built(
        "yacs.config.CfgNode",
        {"__immutable__": True},
        None,
        [("MODEL", Built("yacs.config.CfgNode", None, None, [("NAME", "x")]))],
    ),
    "meta": {
        "hub": Built("mmengine.logging.message_hub.MessageHub", {"a": 1}),
        "time": Call("datetime.datetime", b"\x07\xe8\x01\x01\x00\x00\x00\x00\x00\x00"),
        "cfg": Built("mmengine.config.config.ConfigDict", None, None, [("a", 1)]),
        "easy": Built("easydict.EasyDict", None, None, [("a", 1)]),
    },
    "mode": Call("__main__.Mode", 2),
    Call("enum_of_mine.Split", "val"): 3,
    "set": {Call("pathlib.PosixPath", "a")},
    "kind": Name("torch.float8_e4m3fn"),
    "made": Call("functools.partial", Name("torch.nn.modules.normalization.LayerNorm")),
    "old": Call("copy_reg._reconstructor", Name("my.Config"), 1, None),
    "random": {
        "numpy": ("MT19937", np.arange(4), 624, 0, 0.0),
        "numpy2": Call("numpy.random._pickle.__randomstate_ctor", "MT19937"),
        "scalar": Call("numpy.core.multiarray.scalar", Call("numpy.dtype", "f8", False, True), b"12345678"),
    },
    "names": Built("numpy.ndarray", (1, (2,), Call("numpy.dtype", "U3", False, True), False, "a" * 24)),
    "dropped": Call("my.Config", View(np.arange(3, dtype=np.float32)), View(np.arange(5, dtype=np.int64))),
    "complex": {"a": np.ones(3, np.complex64)},
    "objects": Built("numpy.ndarray", (1, (2,), Call("numpy.dtype", "O8", False, True), False, ["a", "b"])),
    "optimizer": {
        "state": {0: {"exp_avg": np.ones(3, np.float32)}},
        "param_groups": [{"lr": Call("numpy.float64", 1.0), "fn": Name("torch.optim.adamw.AdamW")}],
    },
}


@pytest.mark.parametrize("is_legacy", [False, True])
def test_settings_of_any_class_are_no_reason_to_refuse(is_legacy: bool, tmp_path: Path) -> None:
    weights = official("xcit")[1]
    content = read(save_torch(tmp_path / "a.pth", {"model": weights, **SETTINGS}, is_legacy))
    assert content.taken == "model" and list(content.arrays) == list(weights)
    assert all(np.array_equal(content.arrays[name], value) for name, value in weights.items())
    inside = read(
        save_torch(
            tmp_path / "b.pth",
            Built(
                "easydict.EasyDict",
                None,
                None,
                [("state_dict", Built("torch.my.Dict", None, None, list(weights.items())))],
            ),
        )
    )
    assert inside.taken == "state_dict"


def test_a_whole_module_is_told_apart(tmp_path: Path) -> None:
    path = save_torch(tmp_path / "a.pth", Built("timm.models.xcit.Xcit", {"_parameters": {}}))
    with pytest.raises(
        UserError,
        match=r"holds no weights by name, but an object of timm.models.xcit.Xcit \(save model.state_dict\(\)\)",
    ):
        read(path)


def test_flat_files_and_an_optimizer_s_copies(tmp_path: Path) -> None:
    net, weights = official("xcit")
    copies = {f"adam_m.{name}": value for name, value in under("backbone.", weights).items()}
    for number, arrays in enumerate(
        (
            under("module._orig_mod.", weights),
            {**under("backbone.", weights), **copies, "global_step": np.array([3])},
            {**under("model.", weights), **under("model_ema.module.", half(weights))},
        )
    ):
        np.savez(tmp_path / f"{number}.npz", **arrays)
        load_weights(net, read(tmp_path / f"{number}.npz"))
        assert holds(net, weights)
        for item in net.get_parameters():
            item.set_data(item * 0)
    load_weights(net, tmp_path / "2.npz", take="ema")
    assert holds(net, half(weights))


@pytest.mark.usefixtures("small_networks")
def test_predictors_count_the_classes_in_the_file_s_own_layout(tmp_path: Path) -> None:
    for origin, family in (("paddlevit", "crossvit"), ("paddlevit", "cvt"), ("hf", "cvt"), ("mmpretrain", "xcit")):
        weights = official(family, num_classes=7)[1]
        theirs = names.outwards(weights, names.origin(origin, family)).arrays
        path = save_torch(tmp_path / f"{origin}_{family}.pth", {"state_dict": under("module.model.", theirs)})
        found = Predictor(path, f"small_{family}", device_target="CPU")
        assert found.class_names == tuple("0123456") and holds(found.net, weights), origin
