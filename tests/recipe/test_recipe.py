"""Keys, types and bounds; MindCV's recipes; the recipes that ship."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
from rates import assert_same_rates, first_and_last, official

import mindvit
from mindvit.errors import UserError
from mindvit.recipe.commandline import parse
from mindvit.recipe.files import read_recipe, read_yaml
from mindvit.recipe.schema import FIELDS, WITHOUT_EFFECT, Recipe, build, convert, type_name

CONFIGS = Path(__file__).parents[2] / "configs"
LEAVES = sorted(CONFIGS.glob("[!_]*/*.yaml"))
SHIPPED = [
    path.stem.replace("_ascend", "")
    for path in LEAVES
    if path.parent.name != "quickstart" and "_mindcv" not in path.stem
]


def error(call: Callable[[], Any]) -> str:
    """The one line that a call refuses its input with."""
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def wrong(**values: Any) -> str:
    """The line for values from file f.yaml."""
    return error(lambda: build(values, dict.fromkeys(values, "f.yaml")))


def leaf(name: str, *arguments: str) -> Recipe:
    return parse(["--config", str(CONFIGS / name.split("_")[0] / f"{name}_ascend.yaml"), *arguments], "")[0]


def differences(before: str, after: str) -> dict[str, Any]:
    """What the second recipe says otherwise than the first, beside its network and its folder."""
    old, new = leaf(before).flat(), leaf(after).flat()
    changed = {key: value for key, value in new.items() if old[key] != value}
    assert (changed.pop("model"), changed.pop("ckpt_save_dir")) == (after, f"runs/{after}")
    return changed


@pytest.mark.parametrize(
    "key, given, taken",
    [
        ("eps", "1e-8", 1e-8),
        ("lr", 1, 1.0),
        ("lr", "5e-4", 5e-4),
        ("batch_size", "64", 64),
        ("batch_size", 64.0, 64),
        ("seed", "0", 0),
        ("distribute", "False", False),
        ("distribute", "false", False),
        ("distribute", "no", False),
        ("distribute", "off", False),
        ("distribute", "0", False),
        ("distribute", 0, False),
        ("distribute", "True", True),
        ("distribute", "on", True),
        ("clip_grad", False, False),
        ("scale", [0.1, 1], (0.1, 1.0)),
        ("scale", "0.1,1", (0.1, 1.0)),
        ("scale", "[0.1, 1.0]", (0.1, 1.0)),
        ("mean", (1, 2, 3), (1.0, 2.0, 3.0)),
        ("img_size", "None", None),
        ("img_size", 48, 48),
        ("img_size", [240, 224], (240, 224)),
        ("img_size", "240,224", (240, 224)),
        ("pretrained", "False", False),
        ("pretrained", True, True),
        ("pretrained", "a.ckpt", "a.ckpt"),
        ("ckpt_path", "", None),
        ("ckpt_path", "a", "a"),
        ("auto_augment", "none", None),
        ("auto_augment", None, None),
        ("re_value", 0, "0"),
        ("data_dir", 2012, "2012"),
        ("mode", "1", 1),
    ],
)
def test_a_value_is_taken_as_the_key_s_type(key: str, given: Any, taken: Any) -> None:
    result = convert(given, FIELDS[key][2])
    assert result == taken and type(result) is type(taken)


@pytest.mark.parametrize(
    "key, given, says",
    [
        ("batch_size", "many", "an int"),
        ("batch_size", 1.5, "an int"),
        ("batch_size", True, "an int"),
        ("batch_size", None, "an int"),
        ("lr", "fast", "a number"),
        ("lr", [1, 2], "a number"),
        ("lr", float("nan"), "a number"),
        ("lr", ".inf", "a number"),
        ("lr", float("inf"), "a number"),
        ("distribute", "maybe", "True or False"),
        ("distribute", 2, "True or False"),
        ("model", True, "a string"),
        ("model", ["a"], "a string"),
        ("scale", [0.1], "a list of 2 numbers"),
        ("scale", [0.1, 0.5, 1], "a list of 2 numbers"),
        ("scale", 0.1, "a list of 2 numbers"),
        ("scale", [0.1, "x"], "a list of 2 numbers"),
        ("mean", "0.5", "a list of 3 numbers or none"),
        ("img_size", [1, 2, 3], "none or an int or a list of 2 ints"),
    ],
)
def test_a_wrong_type_names_file_key_value_and_type(key: str, given: Any, says: str) -> None:
    assert wrong(**{key: given}) == f"f.yaml: {key} is {given!r}, but must be {says}"


@pytest.mark.parametrize(
    "key, given, says",
    [
        ("batch_size", 0, "at least 1"),
        ("hflip", 1.5, "at least 0 and at most 1"),
        ("hflip", -0.5, "at least 0 and at most 1"),
        ("lr", -1, "at least 0"),
        ("crop_pct", 1.1, "at least 0.01 and at most 1"),
        ("epoch_size", 0, "at least 1"),
        ("drop_path_rate", 1.0, "at least 0 and at most 0.99"),
        ("distill_alpha", 1.5, "at least 0 and at most 1"),
        ("distill_alpha", -0.1, "at least 0 and at most 1"),
        ("distill_tau", -1, "at least 0"),
    ],
)
def test_a_value_out_of_bounds_names_them(key: str, given: Any, says: str) -> None:
    text = wrong(**{key: given})
    assert text.startswith(f"f.yaml: {key} is {given}") and text.endswith(f"but must be {says}")


def test_bounds_are_included() -> None:
    build({"hflip": 1, "vflip": 0, "batch_size": 1, "warmup_epochs": 300}, {})


@pytest.mark.parametrize(
    "key, given, near",
    [
        ("amp_level", "O4", "O0, O1, O2, O3; did you mean O"),
        ("interpolation", "bicubik", "did you mean bicubic"),
        ("opt", "adam", "did you mean adamw or lamb?"),
        ("dataset", "image_net", "did you mean imagenet?"),
        ("scheduler", "cosine", "did you mean cosine_decay"),
        ("mode", 2, "one of 0, 1"),
        ("drop_overflow_update", False, "one of True"),
        ("re_value", 1, "one of random, 0"),
        ("distill_type", "harder", "did you mean hard?"),
    ],
)
def test_a_wrong_choice_names_the_choices_and_the_nearest(key: str, given: Any, near: str) -> None:
    text = wrong(**{key: given})
    assert (
        text.startswith(f"f.yaml: {key} is {given!r}" if not isinstance(given, int) else f"f.yaml: {key} is ")
        and near in text
    )


@pytest.mark.parametrize(
    "key, near",
    [
        ("batchsize", "batch_size"),
        ("drop_path", "drop_path_rate"),
        ("image_size", "img_size"),
        ("warmup_epoch", "warmup_epochs"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, near: str) -> None:
    text = wrong(**{key: 1})
    assert text.startswith(f"f.yaml: unknown key {key!r}; did you mean ") and near in text


@pytest.mark.parametrize(
    "values, says",
    [
        ({"epoch_size": 3, "warmup_epochs": 5}, "f.yaml: warmup_epochs is 5, more than epoch_size = 3"),
        ({"dataset": "digits", "data_dir": "x"}, "f.yaml: data_dir is given, but dataset: digits"),
        ({"mean": [1, 1, 1]}, "f.yaml: mean and std must be given together"),
        ({"mean": [0, 0, 0], "std": [0, 1, 1]}, "f.yaml: std must be positive"),
        ({"scale": [1.0, 0.1]}, "f.yaml: scale is (1.0, 0.1)"),
        ({"re_ratio": [0, 1]}, "f.yaml: re_ratio is (0.0, 1.0)"),
        ({"distill_type": "hard"}, "f.yaml: distill_type is hard, but no teacher is given"),
        (
            {"distill_type": "soft", "teacher_ckpt_path": "t.ckpt"},
            "f.yaml: distill_type is soft, but no teacher is given",
        ),
        ({"teacher": "crossvit_9"}, "f.yaml: teacher is given, but distill_type is none"),
        ({"teacher_ckpt_path": "t.ckpt"}, "f.yaml: teacher_ckpt_path is given, but distill_type is none"),
        ({"distill_type": "soft", "teacher": "crossvit_9", "distill_tau": 0}, "f.yaml: distill_tau must be positive"),
    ],
)
def test_keys_that_contradict_each_other(values: dict[str, Any], says: str) -> None:
    assert wrong(**values).startswith(says)


def test_every_key_has_a_section_a_line_of_help_and_a_default_that_it_accepts() -> None:
    recipe = build({}, {})
    assert build(recipe.flat(), {}).flat() == recipe.flat()
    for key, (section, item, kind) in FIELDS.items():
        assert item.metadata["doc"] and type_name(kind), key
        assert getattr(getattr(recipe, section), key) == item.default
    assert not set(FIELDS) & set(WITHOUT_EFFECT)


def test_a_recipe_is_frozen_and_replaced_as_a_whole() -> None:
    recipe = build({"lr": 1e-3}, {"lr": "f.yaml"})
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.schedule.lr = 1.0  # type: ignore[misc]
    other = recipe.replace("a test", seed="7")
    assert (other.runtime.seed, other.schedule.lr, other.origins["seed"], other.origins["lr"]) == (
        7,
        1e-3,
        "a test",
        "f.yaml",
    )
    bounds = "but must be at least 0 and at most 4294967295"
    assert error(lambda: recipe.replace("a test", seed=-1)) == f"a test: seed is -1, {bounds}"
    assert error(lambda: recipe.replace("a test", seed=2**32)) == f"a test: seed is 4294967296, {bounds}"


# Keys and spellings as in MindCV's recipes: quotes, 0. and 1e-8 (a text for PyYAML), an empty path, pixels of 0..255.
MINDCV = """
mode: 0
distribute: True
num_parallel_workers: 8
val_while_train: True
val_interval: 1
dataset: 'imagenet'
data_dir: '/path/to/imagenet'
train_split: train
val_split: val
shuffle: True
dataset_download: False
batch_size: 256
drop_remainder: True
image_resize: 240
scale: [ 0.08, 1.0 ]
ratio: [0.75, 1.333]
hflip: 0.5
vflip: 0.
interpolation: 'bicubic'
auto_augment: 'randaug-m9-mstd0.5-inc1'
re_prob: 0.25
re_value: 0
re_max_attempts: 10
mixup: 0.8
cutmix: 1.0
cutmix_prob: 1.0
color_jitter: 0.4
crop_pct: 0.935
mean: [123.675, 116.28, 103.53]
std: [58.395, 57.12, 57.375]
model: 'crossvit_9'
num_classes: 1000
pretrained: False
ckpt_path: ''
keep_checkpoint_max: 10
ckpt_save_policy: 'latest_k'
ckpt_save_dir: './ckpt'
epoch_size: 300
dataset_sink_mode: True
amp_level: 'O2'
val_amp_level: 'O2'
drop_path_rate: 0.1
ema: False
ema_decay: 0.9999
clip_grad: False
loss: 'CE'
label_smoothing: 0.1
scheduler: 'cosine_decay'
lr: 0.0011
min_lr: 0.00001
warmup_epochs: 30
warmup_factor: 0.0
decay_epochs: 270
decay_rate: 0.1
num_cycles: 1
cycle_decay: 1
opt: 'adamw'
weight_decay: 0.05
weight_decay_filter: 'disable'
filter_bias_and_bn: True
momentum: 0.9
loss_scale_type: 'dynamic'
drop_overflow_update: True
loss_scale: 1024
use_nesterov: False
eps: 1e-8
lr_epoch_stair: True
"""
MINDCV_VALUES = {
    "decay_rate": 0.1,
    "momentum": 0.9,
    "use_nesterov": False,
    "mode": 0,
    "distribute": True,
    "num_parallel_workers": 8,
    "val_while_train": True,
    "val_interval": 1,
    "dataset": "imagenet",
    "data_dir": "/path/to/imagenet",
    "train_split": "train",
    "val_split": "val",
    "shuffle": True,
    "batch_size": 256,
    "drop_remainder": True,
    "image_resize": 240,
    "scale": (0.08, 1.0),
    "ratio": (0.75, 1.333),
    "hflip": 0.5,
    "vflip": 0.0,
    "interpolation": "bicubic",
    "auto_augment": "randaug-m9-mstd0.5-inc1",
    "re_prob": 0.25,
    "re_value": "0",
    "mixup": 0.8,
    "cutmix": 1.0,
    "color_jitter": 0.4,
    "crop_pct": 0.935,
    "mean": (123.675, 116.28, 103.53),
    "std": (58.395, 57.12, 57.375),
    "model": "crossvit_9",
    "num_classes": 1000,
    "pretrained": False,
    "ckpt_path": None,
    "keep_checkpoint_max": 10,
    "ckpt_save_dir": "./ckpt",
    "epoch_size": 300,
    "amp_level": "O2",
    "val_amp_level": "O2",
    "drop_path_rate": 0.1,
    "ema": False,
    "ema_decay": 0.9999,
    "clip_grad": False,
    "loss": "CE",
    "label_smoothing": 0.1,
    "scheduler": "cosine_decay",
    "lr": 0.0011,
    "min_lr": 1e-5,
    "warmup_epochs": 30,
    "warmup_factor": 0.0,
    "decay_epochs": 270,
    "num_cycles": 1,
    "cycle_decay": 1.0,
    "opt": "adamw",
    "weight_decay": 0.05,
    "weight_decay_filter": "disable",
    "loss_scale_type": "dynamic",
    "drop_overflow_update": True,
    "loss_scale": 1024.0,
    "eps": 1e-8,
    "lr_epoch_stair": True,
}


def test_a_mindcv_recipe_is_read_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "crossvit_9_ascend.yaml"
    path.write_text(MINDCV, "utf-8")
    recipe, _ = parse(["-c", str(path)], "")
    changed = {key: value for key, value in recipe.flat().items() if recipe.origins[key] == str(path)}
    assert changed == MINDCV_VALUES
    assert all(type(changed[key]) is type(value) for key, value in MINDCV_VALUES.items())
    assert (
        set(recipe.origins) - set(FIELDS)
        == {
            "dataset_download",
            "dataset_sink_mode",
            "filter_bias_and_bn",
            "re_max_attempts",
            "cutmix_prob",
            "ckpt_save_policy",
        }
        <= set(WITHOUT_EFFECT)
    )


def test_the_shipped_mindcv_recipe_trains_as_mindcv_s_own() -> None:
    ours, untold = (
        leaf("crossvit_9_mindcv").flat(),
        (
            "mean",
            "std",
            "num_classes",
            "data_dir",
            "ckpt_save_dir",
            "keep_checkpoint_max",
            "num_parallel_workers",
            "auto_augment",
            "val_amp_level",
            "loss_scale",
        ),
    )
    assert {key: ours[key] for key in MINDCV_VALUES if key not in untold} == {
        key: value for key, value in MINDCV_VALUES.items() if key not in untold
    }
    assert (
        ours["auto_augment"].replace("rand-", "randaug-") == MINDCV_VALUES["auto_augment"]
    )  # two spellings of one policy
    assert (ours["re_scale"], ours["re_ratio"], ours["lr_reference_batch"], ours["aug_repeats"], ours["lr_lag"]) == (
        (0.02, 0.33),
        (0.3, 3.3),
        None,
        0,
        0,
    )


# What the authors' repositories say, and for 384 px DeiT's where they say nothing; of the rows that fit a name, the
# later wins.
AUTHORS: list[tuple[str, dict[str, Any]]] = [
    (
        "*",
        {
            "scheduler": "cosine_decay",
            "min_lr": 1e-5,
            "warmup_lr": 1e-6,
            "warmup_factor": None,
            "cosine_from_start": True,
            "lr_epoch_stair": True,
            "lr_lag": 0,
            "epoch_size": 300,
            "lr": 5e-4,
            "lr_reference_batch": 512,
            "warmup_epochs": 5,
            "decay_epochs": None,
            "opt": "adamw",
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0.05,
            "weight_decay_filter": "norm_and_bias",
            "clip_grad": False,
            "ema": False,
            "loss": "CE",
            "label_smoothing": 0.1,
            "mixup": 0.8,
            "cutmix": 1.0,
            "mixup_prob": 1.0,
            "mixup_switch_prob": 0.5,
            "distill_type": "none",
            "auto_augment": "rand-m9-mstd0.5-inc1",
            "color_jitter": 0.4,
            "re_prob": 0.25,
            "re_value": "random",
            "re_scale": (0.02, 1 / 3),
            "re_ratio": (0.3, 10 / 3),
            "hflip": 0.5,
            "vflip": 0.0,
            "scale": (0.08, 1.0),
            "ratio": (3 / 4, 4 / 3),
            "interpolation": "bicubic",
            "aug_repeats": 0,
            "drop_rate": 0.0,
            "attn_drop_rate": 0.0,
            "amp_level": "O2",
            "val_amp_level": None,
            "amp_type": "auto",
            "device_target": "auto",
            "jit_level": "auto",
        },
    ),
    ("crossvit_*", {"image_resize": 240, "batch_size": 256, "aug_repeats": 3, "drop_path_rate": 0.1, "lr_lag": 1}),
    ("crossvit_*_384", {"image_resize": 408, "crop_pct": 1.0, "aug_repeats": 0, "drop_path_rate": 0.0}),
    ("cvt_*", {"batch_size": 256, "drop_path_rate": 0.1, "val_amp_level": "O0"}),
    ("cvt_21_*", {"batch_size": 128, "weight_decay": 0.1}),
    ("cvt_21_224", {"aug_repeats": 3}),
    ("cvt_w24_*", {"batch_size": 128, "weight_decay": 0.1, "drop_path_rate": 0.3}),
    (
        "crossformer_*",
        {
            "image_resize": 224,
            "batch_size": 128,
            "lr": 1e-3,
            "lr_reference_batch": 1024,
            "warmup_epochs": 20,
            "lr_epoch_stair": False,
            "lr_lag": 1,
            "clip_grad": True,
            "clip_value": 5.0,
        },
    ),
    *[
        (f"crossformer_{size}", {"drop_path_rate": rate})
        for size, rate in (("tiny", 0.1), ("small", 0.2), ("base", 0.3), ("large", 0.5))
    ],
    (
        "xcit_*",
        {"batch_size": 128, "epoch_size": 400, "aug_repeats": 3, "lr_lag": 1, "ema": True, "ema_decay": 0.99996},
    ),
    *[
        (f"xcit_{size}_*", {"drop_path_rate": rate})
        for size, rate in (
            ("nano_12", 0.0),
            ("tiny_12", 0.0),
            ("tiny_24", 0.05),
            ("small_12", 0.05),
            ("small_24", 0.1),
            ("medium_24", 0.15),
            ("large_24", 0.25),
        )
    ],
    (
        "xcit_*_distill",
        {
            "distill_type": "hard",
            "teacher": "mindcv/regnet_y_16gf",
            "teacher_ckpt_path": None,
            "distill_alpha": 0.5,
            "distill_tau": 1.0,
        },
    ),
    *[(f"{family}_*_224*", {"image_resize": 224}) for family in ("cvt", "xcit")],
    *[(f"{family}_*_384*", {"image_resize": 384}) for family in ("cvt", "xcit")],
    *[
        (f"{family}_*_384*", {"batch_size": 64, "epoch_size": 30, "lr": 5e-6, "min_lr": 5e-6, "weight_decay": 1e-8})
        for family in ("crossvit", "xcit")
    ],
]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_authors_hyper_parameters_and_nothing_else(name: str) -> None:
    expected = {**build({}, {}).flat(), "model": name, "ckpt_save_dir": f"runs/{name}"}
    for pattern, values in AUTHORS:
        if fnmatch.fnmatchcase(name, pattern):
            expected.update(values)
    assert leaf(name).flat() == expected


@pytest.mark.parametrize(
    "name, curve",
    [
        ("crossvit_9", "crossvit_batch2048_warmup5"),
        ("cvt_13_224", "cvt_batch2048"),
        ("cvt_13_384", "cvt_batch2048"),
        ("crossformer_small", "crossformer"),
        ("xcit_small_12_p16_224", "xcit_batch1024"),
        ("xcit_small_12_p16_224_distill", "xcit_batch1024"),
    ],
)
def test_eight_cards_follow_the_authors_learning_rate(name: str, curve: str) -> None:
    recipe, rates = leaf(name), official(curve)
    assert_same_rates(
        first_and_last(recipe.schedule, 8 * recipe.data.batch_size),
        rates if rates.ndim == 2 else np.stack((rates, rates), 1),
    )


def test_fine_tuning_differs_from_training_in_these_keys_only() -> None:
    deit = {"batch_size": 64, "epoch_size": 30, "lr": 5e-6, "min_lr": 5e-6, "weight_decay": 1e-8}
    for name in ("crossvit_15_dagger", "crossvit_18_dagger"):
        assert differences(name, f"{name}_384") == {
            **deit,
            "image_resize": 408,
            "crop_pct": 1.0,
            "aug_repeats": 0,
            "drop_path_rate": 0.0,
        }
    larger = [name for name in SHIPPED if fnmatch.fnmatchcase(name, "xcit_*_384_distill")]
    assert len(larger) == 14
    for name in larger:
        assert differences(name.replace("_384", "_224"), name) == {**deit, "image_resize": 384}


def test_the_larger_images_of_cvt_change_nothing_else() -> None:
    assert differences("cvt_13_224", "cvt_13_384") == {"image_resize": 384}
    assert differences("cvt_21_224", "cvt_21_384") == {"image_resize": 384, "aug_repeats": 0}
    for name in ("cvt_13_384", "cvt_21_384"):
        assert differences(name, f"{name}_22k") == {}


def test_distillation_differs_from_training_in_these_keys_only() -> None:
    distilled = [name for name in SHIPPED if fnmatch.fnmatchcase(name, "xcit_*_224_distill")]
    assert len(distilled) == 14
    for name in distilled:
        assert differences(name.replace("_distill", ""), name) == {
            "distill_type": "hard",
            "teacher": "mindcv/regnet_y_16gf",
        }


def test_distillation_is_switched_off_by_one_key() -> None:
    recipe = leaf("xcit_nano_12_p16_224_distill", "--distill_type", "none")
    assert (recipe.distill.distill_type, recipe.distill.teacher) == ("none", "mindcv/regnet_y_16gf")


def test_every_network_has_a_recipe_and_every_recipe_a_network() -> None:
    assert sorted(SHIPPED) == mindvit.list_models()


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_recipe_that_ships_is_short_and_names_its_network(path: Path) -> None:
    recipe, given = parse(["--config", str(path)], "")
    info = mindvit.model_info(recipe.model.model)
    assert given["config"] == str(path) and info.name == recipe.model.model
    if path.parent.name == "quickstart":
        assert recipe.data.dataset == "digits"
        return
    text, command = path.read_text("utf-8"), f"--config configs/{info.family}/{path.name} --data_dir DIR"
    assert len(text.splitlines()) <= 20
    assert path.parent.name == info.family and re.sub(r"(_mindcv)?_ascend$", "", path.stem) == info.name
    assert recipe.augment.image_resize == info.input_size
    assert "This recipe's: not measured." in text
    if "_mindcv" not in path.stem:  # a published figure is the registry's, with its source
        figures = f"{info.acc1:.3f}" if info.acc5 is None else f"{info.acc1:.3f} / {info.acc5:.3f}"
        assert f"authors' weights: {figures} % ({info.accuracy_source})" in text and command in text
        assert (" --ckpt_path FILE" in text) == (recipe.schedule.epoch_size == 30 or info.name.endswith("_22k"))
        assert (" --teacher_ckpt_path FILE" in text) == (recipe.distill.distill_type != "none")


def test_no_recipe_repeats_what_it_inherits() -> None:
    for path in CONFIGS.glob("*/*.yaml"):
        own, inherited = read_yaml(path), {}
        bases = own.pop("base", [])
        for base in [bases] if isinstance(bases, str) else bases:
            inherited.update(read_recipe(path.parent / base)[0])
        assert not [key for key, value in own.items() if key in inherited and inherited[key] == value], path
