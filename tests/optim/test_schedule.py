"""The learning rate against the official curves and MindCV's, and which tensors are decayed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mindcv.scheduler import create_scheduler
from rates import assert_same_rates, first_and_last, official

from mindvit import create_model
from mindvit.optim.param_groups import is_decayed
from mindvit.optim.schedule import floors, learning_rate, peak_lr, schedule_lines
from mindvit.recipe.commandline import parse
from mindvit.recipe.optim_options import ScheduleOptions

TESTS = Path(__file__).parents[1]
CONFIGS = TESTS.parent / "configs"
FAMILIES = ("crossformer", "crossvit", "cvt", "xcit")  # folders of classifiers' recipes
LEAVES = [
    path
    for path in sorted(CONFIGS.glob("[!_]*/*.yaml"))
    if path.parent.name in FAMILIES or path.stem.endswith("_digits")
]


def shipped(name: str, *arguments: str) -> ScheduleOptions:
    return parse(["-c", str(TESTS.parent / "configs" / "crossvit" / f"{name}_ascend.yaml"), *arguments], "")[0].schedule


CROSSVIT = shipped("crossvit_9")
XCIT = ScheduleOptions(
    epoch_size=400,
    lr=5e-4,
    lr_reference_batch=512,
    min_lr=1e-5,
    warmup_epochs=5,
    warmup_lr=1e-6,
    cosine_from_start=True,
    lr_epoch_stair=True,
    lr_lag=1,
)
CVT = ScheduleOptions(
    lr=5e-4,
    lr_reference_batch=512,
    min_lr=1e-5,
    warmup_epochs=5,
    warmup_lr=1e-6,
    cosine_from_start=True,
    lr_epoch_stair=True,
)
CROSSFORMER = ScheduleOptions(lr=1e-3, min_lr=1e-5, warmup_epochs=20, warmup_lr=1e-6, cosine_from_start=True, lr_lag=1)


@pytest.mark.parametrize(
    "name, schedule, batch",
    [
        ("crossvit_batch2048_warmup5", CROSSVIT, 2048),
        ("crossvit_batch4096_warmup30", shipped("crossvit_9", "--batch_size", "128", "--warmup_epochs", "30"), 4096),
        ("xcit_batch1024", XCIT, 1024),
        ("cvt_batch2048", CVT, 2048),
    ],
)
def test_one_rate_an_epoch_as_in_the_authors_loops(name: str, schedule: ScheduleOptions, batch: int) -> None:
    rates = first_and_last(schedule, batch)
    assert (rates[:, 0] == rates[:, 1]).all()
    assert_same_rates(rates[:, 0], official(name))


def test_one_rate_a_step_as_in_crossformer_s_loop() -> None:
    assert_same_rates(first_and_last(CROSSFORMER, 1024), official("crossformer"))


def test_all_crossvit_recipes_but_fine_tuning_and_mindcv_s_share_one_schedule() -> None:
    names = [path.stem.replace("_ascend", "") for path in (TESTS.parent / "configs" / "crossvit").glob("*.yaml")]
    assert {name for name in names if shipped(name) != CROSSVIT} == {
        "crossvit_9_mindcv",
        "crossvit_15_dagger_384",
        "crossvit_18_dagger_384",
    }


def test_the_lag_leaves_the_first_two_epochs_at_the_start_of_the_warm_up() -> None:
    rates = first_and_last(CROSSVIT, 2048)[:, 0]
    assert rates[0] == rates[1] == 1e-6 < rates[2] and rates[-1] > 1e-5


def test_fine_tuning_warms_up_to_one_rate_and_keeps_it() -> None:
    rates = first_and_last(shipped("crossvit_18_dagger_384"), 512)[:, 0]
    np.testing.assert_allclose(rates, [1e-6, *np.linspace(1e-6, 5e-6, 6)[:5], *[5e-6] * 24], rtol=1e-12)


@pytest.mark.parametrize("batch, peak", [(64, 6.25e-5), (512, 5e-4), (2048, 2e-3), (4096, 4e-3)])
def test_only_the_peak_follows_the_batch(batch: int, peak: float) -> None:
    assert peak_lr(CROSSVIT, batch) == pytest.approx(peak, rel=1e-12)
    assert peak_lr(shipped("crossvit_9_mindcv"), batch) == 1.1e-3
    assert learning_rate(0, schedule=CROSSVIT, steps_per_epoch=10, global_batch=batch) == 1e-6


def rises_then_falls(schedule: ScheduleOptions, global_batch: int, steps: int = 4) -> bool:
    """Whether the rate never falls in the warm-up, never rises after it, and stays within the peak. Rounding apart."""
    rates = np.array(
        [
            learning_rate(step, schedule=schedule, steps_per_epoch=steps, global_batch=global_batch)
            for step in range(schedule.epoch_size * steps)
        ]
    )
    changes, warm = (
        np.diff(rates),
        schedule.warmup_epochs * steps + schedule.lr_lag * (steps if schedule.lr_epoch_stair else 1),
    )
    little = 1e-12 * peak_lr(schedule, global_batch)
    return bool(
        (changes[: max(warm - 1, 0)] >= -little).all()
        and (changes[warm:] <= little).all()
        and rates.max() <= peak_lr(schedule, global_batch) + little
    )


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
def test_no_shipped_recipe_falls_in_its_warm_up_or_rises_in_its_decay(path: Path) -> None:
    recipe = parse(["-c", str(path)], "")[0]
    for batch in (1, 8, recipe.data.batch_size, 8 * recipe.data.batch_size, 64 * recipe.data.batch_size):
        assert rises_then_falls(recipe.schedule, batch), batch


@pytest.mark.parametrize(
    "keys",
    [
        {"lr": 1e-6},
        {"lr": 0.0},
        {"lr": 1e-5, "min_lr": 1e-4, "warmup_lr": 1e-3},
        {"lr": 1e-6, "scheduler": "linear_decay"},
        {"lr": 1e-6, "scheduler": "step_decay"},
        {"lr": 1e-5, "min_lr": 4e-6, "scheduler": "exponential_decay", "decay_rate": 0.9},
        {"lr": 1e-6, "scheduler": "polynomial_decay", "decay_rate": 2.0},
        {"lr": 1e-5, "min_lr": 4e-6, "num_cycles": 3, "decay_epochs": 8, "cycle_decay": 0.1, "warmup_epochs": 0},
        {"lr": 1e-6, "scheduler": "constant"},
    ],
)
@pytest.mark.parametrize("reference", [None, 512])
def test_a_floor_never_lies_above_the_peak(keys: dict, reference: int) -> None:
    schedule = ScheduleOptions(**{"epoch_size": 30, "warmup_lr": 1e-5, "lr_reference_batch": reference, **keys})
    if keys.get("num_cycles", 1) == 1:  # every cycle begins anew
        assert rises_then_falls(schedule, 64)
    rates = [learning_rate(step, schedule=schedule, steps_per_epoch=5, global_batch=64) for step in range(150)]
    assert max(rates) <= peak_lr(schedule, 64) * (1 + 1e-12) and min(rates) >= min(floors(schedule, 64)) * (1 - 1e-12)


def test_a_curve_on_one_card_keeps_the_shape_of_the_authors_on_eight() -> None:
    schedule = shipped("crossvit_15_dagger_384")
    eight, one = first_and_last(schedule, 512), first_and_last(schedule, 64)
    np.testing.assert_allclose(one, eight / 8, rtol=1e-12)
    assert schedule_lines(schedule, 512) == [
        "learning rate: peak 5e-06 (lr 5e-06 x batch 512/512), warm-up from 1e-06, end 5e-06"
    ]
    told = schedule_lines(schedule, 64)
    assert (
        told[0] == "learning rate: peak 6.25e-07 (lr 5e-06 x batch 64/512), warm-up from 1.25e-07, end 6.25e-07"
        and len(told) == 2
    )
    assert told[1].startswith(
        "WARNING: the learning rate's peak is 6.25e-07, and warmup_lr 1e-06 lies above it: 1.25e-07 is taken and "
        "min_lr 5e-06 lies "
    )


def test_the_rates_in_force_are_told_in_one_line_where_nothing_is_wrong() -> None:
    assert schedule_lines(CROSSVIT, 64) == [
        "learning rate: peak 6.25e-05 (lr 0.0005 x batch 64/512), warm-up from 1e-06, end 1e-05"
    ]
    assert schedule_lines(ScheduleOptions(scheduler="constant", warmup_epochs=0, lr=1e-6), 8) == [
        "learning rate: peak 1e-06"
    ]
    assert schedule_lines(ScheduleOptions(warmup_factor=0.1, lr=1e-3), 8) == [
        "learning rate: peak 0.001, warm-up from 0.0001, end 1e-05"
    ]
    assert (
        "min_lr 1e-05 lies above it: 1e-06 is taken" in schedule_lines(ScheduleOptions(lr=1e-6), 8)[1]
    )  # min_lr's default


@pytest.mark.parametrize("stair", [True, False])
@pytest.mark.parametrize(
    "keys",
    [
        {"epoch_size": 300, "lr": 0.0011, "min_lr": 1e-5, "warmup_epochs": 30, "decay_epochs": 270},
        {
            "epoch_size": 60,
            "lr": 0.0009,
            "min_lr": 1e-5,
            "warmup_epochs": 3,
            "decay_epochs": 27,
            "num_cycles": 2,
            "cycle_decay": 0.5,
            "warmup_factor": 0.01,
        },
        {"epoch_size": 30, "lr": 1e-3, "min_lr": 1e-6, "warmup_epochs": 0, "decay_epochs": 20},
        {
            "epoch_size": 30,
            "lr": 1e-3,
            "min_lr": 1e-6,
            "warmup_epochs": 5,
            "decay_epochs": 40,
            "scheduler": "warmup_cosine_decay",
        },
        {"epoch_size": 12, "lr": 1e-3, "min_lr": 1e-6, "warmup_epochs": 3, "scheduler": "constant"},
    ],
)
def test_mindcv_s_schedules(keys: dict, stair: bool) -> None:
    theirs = create_scheduler(
        7,
        num_epochs=keys["epoch_size"],
        lr_epoch_stair=stair,
        **{"scheduler": "cosine_decay", **{key: value for key, value in keys.items() if key != "epoch_size"}},
    )
    schedule = ScheduleOptions(lr_epoch_stair=stair, **keys)
    ours = [learning_rate(step, schedule=schedule, steps_per_epoch=7, global_batch=2048) for step in range(len(theirs))]
    assert len(theirs) == 7 * keys["epoch_size"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize("stair", [True, False])
@pytest.mark.parametrize(
    "keys",
    [
        {"scheduler": "exponential_decay", "decay_rate": 0.9},
        {"scheduler": "polynomial_decay", "decay_rate": 1.7},
        {"scheduler": "step_decay", "decay_epochs": 4, "decay_rate": 0.5},
        {"scheduler": "multi_step_decay", "decay_rate": 0.3, "milestones": (2, 5, 6)},
    ],
    ids=lambda keys: keys["scheduler"],
)
def test_mindcv_s_other_schedules(keys: dict, stair: bool) -> None:
    """They know no min_lr, and count epochs from the end of the warm-up."""
    same: dict[str, Any] = {"lr": 1e-3, "warmup_epochs": 3, "lr_epoch_stair": stair}
    theirs = create_scheduler(7, num_epochs=12, **same, **keys)
    ours = {key if key != "milestones" else "multi_step_decay_milestones": value for key, value in keys.items()}
    schedule = ScheduleOptions(epoch_size=12, min_lr=0.0, **same, **ours)
    rates = [learning_rate(step, schedule=schedule, steps_per_epoch=7, global_batch=1) for step in range(84)]
    np.testing.assert_allclose(rates, theirs, rtol=1e-9, atol=1e-18)
    floor = ScheduleOptions(epoch_size=12, min_lr=5e-4, **same, **ours)
    assert learning_rate(83, schedule=floor, steps_per_epoch=7, global_batch=1) >= 5e-4


def test_the_shipped_mindcv_recipe_follows_mindcv_s_schedule() -> None:
    assert shipped("crossvit_9_mindcv") == ScheduleOptions(
        epoch_size=300,
        lr=0.0011,
        min_lr=1e-5,
        warmup_epochs=30,
        warmup_factor=0.0,
        decay_epochs=270,
        lr_epoch_stair=True,
    )


def test_the_authors_groups_of_crossvit_9() -> None:
    net = create_model("crossvit_9")
    decayed = {
        item.name: is_decayed(item.name, item.ndim, "norm_and_bias", net.no_weight_decay())
        for item in net.trainable_params()
    }
    norms = [f".{kind}.weight" for kind in ("norm1", "norm2")] + [f"projs.{branch}.0.weight" for branch in (0, 1)]
    expected = {
        name: not (name.endswith((".bias", *norms)) or name in ("norm.0.weight", "norm.1.weight")) for name in decayed
    }
    assert decayed == expected
    assert all(
        decayed[name] for name in ("cls_token.0", "cls_token.1", "pos_embed.0", "pos_embed.1")
    )  # asked for, and missed by name, in the authors' code
    assert (sum(decayed.values()), len(decayed)) == (92, 268)


@pytest.mark.parametrize(
    "name, dimensions, decayed",
    [
        ("blocks.0.attn.qkv.weight", 2, True),
        ("blocks.0.attn.qkv.bias", 1, False),
        ("blocks.0.norm1.weight", 1, False),
        ("cls_token", 3, False),
        ("cls_token.0", 3, True),
        ("attn.temperature", 3, True),
        ("table.bias", 2, False),
        ("gamma1", 1, False),
    ],
)
def test_one_dimensional_tensors_biases_and_whole_names_are_not_decayed(
    name: str, dimensions: int, decayed: bool
) -> None:
    assert is_decayed(name, dimensions, "norm_and_bias", {"cls_token", "temperature"}) is decayed
    assert is_decayed(name, dimensions, "disable", {"cls_token"})  # MindCV's: everything is


FINETUNE = "configs/_base/finetune.yaml"


def test_the_page_s_fine_tuning_recipe_is_fit_for_a_few_thousand_images(tmp_path: Path) -> None:
    page = (TESTS.parent / "docs" / "own_data.md").read_text("utf-8")
    text = page.split("```yaml\n")[1].split("```")[0]
    assert f"configs/crossvit/crossvit_9_ascend.yaml, {FINETUNE}" in text
    (tmp_path / "configs").symlink_to(CONFIGS)
    (tmp_path / "mine.yaml").write_text(text, "utf-8")
    recipe = parse(["-c", str(tmp_path / "mine.yaml")], "")[0]
    steps = 2000 // recipe.data.batch_size
    rates = [
        learning_rate(step, schedule=recipe.schedule, steps_per_epoch=steps, global_batch=recipe.data.batch_size)
        for step in range(30 * steps)
    ]
    assert rises_then_falls(recipe.schedule, recipe.data.batch_size, steps)
    assert (
        rates[steps] > 0.4e-4 and rates[2 * steps] == max(rates) == 1e-4 and rates[-1] < 2e-6
    )  # half of the peak after one epoch, all after two
    assert schedule_lines(recipe.schedule, recipe.data.batch_size) == [
        "learning rate: peak 0.0001, warm-up from 1e-06, end 1e-06"
    ]
    assert recipe.data.aug_repeats == 0 and recipe.model.new_head and recipe.optim.layer_decay < 1
    augment = recipe.augment
    assert (augment.mixup, augment.cutmix, augment.re_prob, augment.auto_augment) == (0, 0, 0, None) and augment.scale[
        0
    ] > 0.08


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
def test_fine_tuning_takes_back_what_any_recipe_has_for_imagenet(path: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"base: [{path}, {TESTS.parent / FINETUNE}]", "utf-8")
    recipe = parse(["-c", str(tmp_path / "mine.yaml")], "")[0]
    assert recipe.schedule == ScheduleOptions(epoch_size=30, lr=1e-4, min_lr=1e-6, warmup_epochs=2, warmup_lr=1e-6)
    assert (recipe.data.aug_repeats, recipe.distill.distill_type) == (0, "none")


def openmmlab(step: int, steps: int, base: float, power: float, warmup: int, ratio: float) -> float:
    """The poly policy with a linear warm-up, step by step: the regular rate, times a factor that grows to 1."""
    regular = base * (1 - step / steps) ** power
    return regular * (1 - (1 - step / warmup) * (1 - ratio)) if step < warmup else regular


@pytest.mark.parametrize("name, power, warmup", [("semantic_fpn", 0.9, 0), ("upernet", 1.0, 1500)])
def test_the_rates_of_segmentors_are_openmmlabs(name: str, power: float, warmup: int) -> None:
    path = CONFIGS / "segmentation" / f"{name}_crossformer_small_ade20k.yaml"
    schedule = parse(["-c", str(path)], "")[0].schedule
    steps = schedule.epoch_size * (schedule.epoch_steps or 0)
    for step in (0, 1, 2, 749, 1499, 1500, 1501, 8000, steps // 2, steps - 1):
        rate = learning_rate(step, schedule=schedule, steps_per_epoch=schedule.epoch_steps or 0, global_batch=16)
        assert rate == pytest.approx(openmmlab(step, steps, schedule.lr, power, warmup, 1e-6), rel=1e-9), step
    (line,) = schedule_lines(schedule, 16)
    assert ("warm-up from 6e-11" in line) == (warmup > 0)
