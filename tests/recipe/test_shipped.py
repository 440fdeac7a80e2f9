"""The recipes that ship: the authors' hyper-parameters, and nothing else."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rates import assert_same_rates, first_and_last, official

import mindvit
from mindvit.models import dense_info, list_models, network_info
from mindvit.optim.schedule import learning_rate
from mindvit.recipe.commandline import parse
from mindvit.recipe.files import read_recipe, read_yaml
from mindvit.recipe.schema import SHIPPED as SHIPPED_DATA
from mindvit.recipe.schema import Recipe, build

CONFIGS = Path(__file__).parents[2] / "configs"


LEAVES = sorted(CONFIGS.glob("[!_]*/*.yaml"))


SHIPPED = [
    path.stem.replace("_ascend", "")
    for path in LEAVES
    if path.parent.name not in ("quickstart", "segmentation", "detection", "finetune") and "_mindcv" not in path.stem
]


def leaf(name: str, *arguments: str) -> Recipe:
    return parse(["--config", str(CONFIGS / name.split("_")[0] / f"{name}_ascend.yaml"), *arguments], "")[0]


def differences(before: str, after: str) -> dict[str, Any]:
    """What the second recipe says otherwise than the first, beside its network and its folder."""
    old, new = leaf(before).flat(), leaf(after).flat()
    changed = {key: value for key, value in new.items() if old[key] != value}
    assert (changed.pop("model"), changed.pop("ckpt_save_dir")) == (after, f"runs/{after}")
    return changed


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
    known, text = network_info(recipe.model.model), path.read_text("utf-8")
    assert given["config"] == str(path) and known.name == recipe.model.model
    if path.parent.name == "quickstart":
        assert recipe.data.dataset in SHIPPED_DATA
        return
    assert len(text.splitlines()) <= 20
    if path.parent.name == "finetune":
        assert recipe.model.pretrained and recipe.model.new_head and "images of your own" in text
        return
    if known.task != "classification":
        return
    info = mindvit.model_info(known.name)
    command = f"--config configs/{info.family}/{path.name} --data_dir DIR"
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


@pytest.mark.parametrize("name", list_models(task="segmentation"))
def test_recipes_of_segmentors_are_the_authors(name: str) -> None:
    path = CONFIGS / "segmentation" / f"{name}_ade20k.yaml"
    recipe, text, info = parse(["--config", str(path)], "")[0], path.read_text("utf-8"), dense_info(name)
    upernet = info.method == "upernet"
    assert (
        recipe.flat().items()
        >= {
            "model": name,
            "dataset": "ade20k",
            "crop_size": (512, 512),
            "img_scale": (2048, 512),
            "ratio_range": (0.5, 2.0),
            "cat_max_ratio": 0.75,
            "hflip": 0.5,
            "photometric_distortion": True,
            "reduce_zero_label": True,
            "batch_size": 2,
            "drop_rate": 0.1,
            "drop_path_rate": {"small": 0.2, "base": 0.3, "large": 0.5}[name.split("_")[-1]],
            "opt": "adamw",
            "betas": (0.9, 0.999),
            "lr": 6e-5 if upernet else 1e-4,
            "lr_reference_batch": None,
            "weight_decay": 0.01 if upernet else 1e-4,
            "weight_decay_filter": "norm_names" if upernet else "disable",
            "scheduler": "poly_decay",
            "poly_power": 1.0 if upernet else 0.9,
            "min_lr": 0,
            "warmup_steps": 1500 if upernet else 0,
            "clip_grad": False,
            "ema": False,
        }.items()
    )
    assert recipe.schedule.epoch_size * (recipe.schedule.epoch_steps or 0) == (160_000 if upernet else 80_000)
    assert f"--config configs/segmentation/{path.name} --data_dir DIR --backbone_weights FILE" in text
    several = info.metrics.get("mIoU, multi-scale")
    assert f"authors' weights: {info.metrics['mIoU']} mIoU" + (f", {several} with several" if several else "") in text
    assert "This recipe's: not measured." in text


@pytest.mark.parametrize("name", list_models(task="detection"))
def test_recipes_of_detectors_are_the_authors(name: str) -> None:
    path = CONFIGS / "detection" / f"{name}_coco.yaml"
    recipe, text, info = parse(["--config", str(path)], "")[0], path.read_text("utf-8"), dense_info(name)
    long = name.endswith("_3x")
    assert (
        recipe.flat().items()
        >= {
            "model": name,
            "dataset": "coco",
            "img_scale": (1333, 800),
            "canvas": (800, 1088, 800, 1344, 1088, 800, 1344, 800),
            "short_sides": (480, 800) if long else None,
            "hflip": 0.5,
            "batch_size": 2,
            "drop_path_rate": 0.3 if "base" in name else 0.2,
            "opt": "adamw",
            "betas": (0.9, 0.999),
            "lr": 1e-4,
            "lr_reference_batch": None,
            "weight_decay": 1e-4,
            "weight_decay_filter": "disable",
            "scheduler": "step_decay",
            "decay_rate": 0.1,
            "decay_at": (27, 33) if long else (8, 11),
            "epoch_size": 36 if long else 12,
            "warmup_steps": 500,
            "warmup_factor": 0.001,
            "clip_grad": False,
            "ema": False,
        }.items()
    )
    rates = [
        learning_rate(1000 * epoch, schedule=recipe.schedule, steps_per_epoch=1000, global_batch=16)
        for epoch in (7, 10, 11)
    ]
    assert np.allclose(rates, [1e-4] * 3 if long else [1e-4, 1e-5, 1e-6])
    assert f"--config configs/detection/{path.name} --data_dir DIR --backbone_weights FILE" in text
    figures = ", ".join(f"{value} {key}" for key, value in info.metrics.items())
    assert f"authors' weights: {figures} (cheerss/CrossFormer detection/README). This recipe's: not measured." in text
