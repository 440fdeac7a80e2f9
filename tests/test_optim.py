"""The learning rate against the official curves and MindCV's, and which tensors are decayed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mindcv.scheduler import create_scheduler

from mindvit import create_model
from mindvit.commandline import parse
from mindvit.optim import is_decayed, learning_rate, peak_lr
from mindvit.recipe import ScheduleOptions

TESTS = Path(__file__).parent
IMAGENET = 1281167  # training pictures


def assert_same_rates(ours: np.ndarray, theirs: np.ndarray) -> None:
    """But for the last digits of float64."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=0)


def official(name: str) -> np.ndarray:
    """Learning rates that the authors' scheduler classes gave: one an epoch; CrossFormer: of each epoch's first and last step."""
    with np.load(TESTS / "goldens" / "lr_curves.npz") as curves:
        return curves[name]


def shipped(name: str, *arguments: str) -> ScheduleOptions:
    return parse(["-c", str(TESTS.parent / "configs" / "crossvit" / f"{name}_ascend.yaml"), *arguments], "")[0].schedule


def first_and_last(schedule: ScheduleOptions, global_batch: int) -> np.ndarray:
    """(epochs, 2): the rates of each epoch's first and last step."""
    steps = IMAGENET // global_batch
    return np.array([[learning_rate(epoch * steps + step, schedule=schedule, steps_per_epoch=steps, global_batch=global_batch) for step in (0, steps - 1)]
                     for epoch in range(schedule.epoch_size)])


CROSSVIT = shipped("crossvit_9")
XCIT = ScheduleOptions(epoch_size=400, lr=5e-4, lr_reference_batch=512, min_lr=1e-5, warmup_epochs=5, warmup_lr=1e-6, cosine_from_start=True,
                       lr_epoch_stair=True, lr_lag=1)
CVT = ScheduleOptions(lr=5e-4, lr_reference_batch=512, min_lr=1e-5, warmup_epochs=5, warmup_lr=1e-6, cosine_from_start=True, lr_epoch_stair=True)
CROSSFORMER = ScheduleOptions(lr=1e-3, min_lr=1e-5, warmup_epochs=20, warmup_lr=1e-6, cosine_from_start=True, lr_lag=1)


@pytest.mark.parametrize("name, schedule, batch", [
    ("crossvit_batch2048_warmup5", CROSSVIT, 2048),
    ("crossvit_batch4096_warmup30", shipped("crossvit_9", "--batch_size", "128", "--warmup_epochs", "30"), 4096),
    ("xcit_batch1024", XCIT, 1024), ("cvt_batch2048", CVT, 2048)])
def test_one_rate_an_epoch_as_in_the_authors_loops(name: str, schedule: ScheduleOptions, batch: int) -> None:
    rates = first_and_last(schedule, batch)
    assert (rates[:, 0] == rates[:, 1]).all()
    assert_same_rates(rates[:, 0], official(name))


def test_one_rate_a_step_as_in_crossformer_s_loop() -> None:
    assert_same_rates(first_and_last(CROSSFORMER, 1024), official("crossformer"))


def test_all_crossvit_recipes_but_fine_tuning_and_mindcv_s_share_one_schedule() -> None:
    names = [path.stem.replace("_ascend", "") for path in (TESTS.parent / "configs" / "crossvit").glob("*.yaml")]
    assert {name for name in names if shipped(name) != CROSSVIT} == {"crossvit_9_mindcv", "crossvit_15_dagger_384", "crossvit_18_dagger_384"}


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


@pytest.mark.parametrize("stair", [True, False])
@pytest.mark.parametrize("keys", [
    {"epoch_size": 300, "lr": 0.0011, "min_lr": 1e-5, "warmup_epochs": 30, "decay_epochs": 270},
    {"epoch_size": 60, "lr": 0.0009, "min_lr": 1e-5, "warmup_epochs": 3, "decay_epochs": 27, "num_cycles": 2, "cycle_decay": 0.5, "warmup_factor": 0.01},
    {"epoch_size": 30, "lr": 1e-3, "min_lr": 1e-6, "warmup_epochs": 0, "decay_epochs": 20},
    {"epoch_size": 30, "lr": 1e-3, "min_lr": 1e-6, "warmup_epochs": 5, "decay_epochs": 40, "scheduler": "warmup_cosine_decay"},
    {"epoch_size": 12, "lr": 1e-3, "min_lr": 1e-6, "warmup_epochs": 3, "scheduler": "constant"}])
def test_mindcv_s_schedules(keys: dict, stair: bool) -> None:
    theirs = create_scheduler(7, num_epochs=keys["epoch_size"], lr_epoch_stair=stair, **{
        "scheduler": "cosine_decay", **{key: value for key, value in keys.items() if key != "epoch_size"}})
    schedule = ScheduleOptions(lr_epoch_stair=stair, **keys)
    ours = [learning_rate(step, schedule=schedule, steps_per_epoch=7, global_batch=2048) for step in range(len(theirs))]
    assert len(theirs) == 7 * keys["epoch_size"]
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-18)


def test_the_shipped_mindcv_recipe_follows_mindcv_s_schedule() -> None:
    assert shipped("crossvit_9_mindcv") == ScheduleOptions(epoch_size=300, lr=0.0011, min_lr=1e-5, warmup_epochs=30, warmup_factor=0.0, decay_epochs=270,
                                                           lr_epoch_stair=True)


def test_the_authors_groups_of_crossvit_9() -> None:
    net = create_model("crossvit_9")
    decayed = {item.name: is_decayed(item.name, item.ndim, "norm_and_bias", net.no_weight_decay()) for item in net.trainable_params()}
    norms = [f".{kind}.weight" for kind in ("norm1", "norm2")] + [f"projs.{branch}.0.weight" for branch in (0, 1)]
    expected = {name: not (name.endswith((".bias", *norms)) or name in ("norm.0.weight", "norm.1.weight")) for name in decayed}
    assert decayed == expected
    assert all(decayed[name] for name in ("cls_token.0", "cls_token.1", "pos_embed.0", "pos_embed.1"))  # asked for, and missed by name, in the authors' code
    assert (sum(decayed.values()), len(decayed)) == (92, 268)


@pytest.mark.parametrize("name, dimensions, decayed", [
    ("blocks.0.attn.qkv.weight", 2, True), ("blocks.0.attn.qkv.bias", 1, False), ("blocks.0.norm1.weight", 1, False), ("cls_token", 3, False),
    ("cls_token.0", 3, True), ("attn.temperature", 3, True), ("table.bias", 2, False), ("gamma1", 1, False)])
def test_one_dimensional_tensors_biases_and_whole_names_are_not_decayed(name: str, dimensions: int, decayed: bool) -> None:
    assert is_decayed(name, dimensions, "norm_and_bias", {"cls_token", "temperature"}) is decayed
    assert is_decayed(name, dimensions, "disable", {"cls_token"})  # MindCV's: everything is
