"""Keys, their types and bounds, and what is said of a wrong value."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable

import pytest

from mindvit.errors import UserError
from mindvit.recipe.schema import FIELDS, WITHOUT_EFFECT, build, convert, type_name


def error(call: Callable[[], Any]) -> str:
    """The one line that a call refuses its input with."""
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def wrong(**values: Any) -> str:
    """The line for values from file f.yaml."""
    return error(lambda: build(values, dict.fromkeys(values, "f.yaml")))


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
        ("opt", "adam2", "did you mean adam"),
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
        ({"freeze": "some"}, "f.yaml: freeze is 'some', but must be stem, a number of blocks, all, or none"),
        (
            {"balanced": True, "class_weights": "balanced"},
            "f.yaml: class_weights is balanced, and balanced: True draws all classes equally often already: leave one",
        ),
        ({"decay_rate": 2}, "f.yaml: decay_rate is 2.0, but must be at most 1"),
        (
            {"scheduler": "multi_step_decay"},
            "f.yaml: scheduler is multi_step_decay, which needs multi_step_decay_milestones: [EPOCH, ...]",
        ),
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
