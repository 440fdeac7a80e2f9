"""Recipe files, inheritance, the command line, and what a user is told when one is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Union

import pytest
from recipes import read, refused, write

from mindvit.errors import UserError
from mindvit.recipe.commandline import describe, parse, parser, without_effect
from mindvit.recipe.schema import (
    FIELDS,
    MINDCV_REFUSED,
    MINDCV_VALUES,
    SECTIONS,
    TRAINING_ONLY,
    WITHOUT_EFFECT,
)

ROOT = Path(__file__).parents[2]


QUICKSTART = "configs/quickstart/crossvit_digits.yaml"


# Recipes and scripts of users have these names: add to them, but rename none.
OPTIONS = {
    "data": "dataset data_dir train_split val_split classes shuffle balanced batch_size drop_remainder aug_repeats "
    "num_parallel_workers python_multiprocessing "
    "val_share split_seed bad_image max_pixels",
    "augment": "image_resize scale ratio hflip vflip color_jitter auto_augment re_prob re_scale re_ratio re_value "
    "mixup cutmix mixup_prob mixup_switch_prob "
    "interpolation crop_pct tta mean std",
    "model": "model backbone backbone_config backbone_weights head_channels neck_channels "
    "num_classes in_channels img_size drop_rate attn_drop_rate drop_path_rate pretrained ckpt_path "
    "new_head take",
    "optim": "opt betas eps momentum alpha use_nesterov weight_decay weight_decay_filter freeze layer_decay "
    "gradient_accumulation_steps clip_grad "
    "clip_value ema ema_decay loss class_weights label_smoothing",
    "distill": "distill_type teacher teacher_ckpt_path teacher_take distill_alpha distill_tau",
    "segmentation": "crop_size img_scale ratio_range cat_max_ratio photometric_distortion reduce_zero_label "
    "auxiliary_weight sync_bn test_mode slide_stride aug_test size_divisor",
    "detection": "canvas test_canvas short_sides max_instances empty_images mask head_norm class_agnostic anchor_scale "
    "rpn_pre proposals rpn_samples sync_divisors roi_samples score_thr",
    "schedule": "epoch_size epoch_steps patience scheduler lr lr_reference_batch min_lr warmup_epochs warmup_steps "
    "warmup_lr warmup_factor decay_epochs decay_at multi_step_decay_milestones decay_rate poly_power "
    "cosine_from_start num_cycles cycle_decay lr_epoch_stair lr_lag",
    "precision": "amp_level val_amp_level amp_type amp_on_cpu loss_scale_type loss_scale skip_nonfinite "
    "drop_overflow_update",
    "runtime": "device_target mode jit_level compile_cache recompute distribute seed",
    "checkpoint": "ckpt_save_dir ckpt_save_interval ckpt_save_steps resume keep_checkpoint_max",
    "log": "val_while_train val_interval log_interval chance_epochs summary results_csv",
}


def script(*arguments: Union[str, Path], **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_names_of_all_options_stay_as_they_are() -> None:
    assert {name: [key for key, (section, _, _) in FIELDS.items() if section == name] for name in SECTIONS} == {
        name: keys.split() for name, keys in OPTIONS.items()
    }


def test_a_file_wins_over_its_bases_and_a_later_base_over_an_earlier_one(tmp_path: Path) -> None:
    leaf = write(
        tmp_path,
        root={"lr": 1, "seed": 1, "hflip": 0.1, "mixup": 0.1},
        first={"base": "root.yaml", "seed": 2, "hflip": 0.2, "mixup": 0.2},
        second={"hflip": 0.3, "mixup": 0.3},
        leaf={"base": ["first.yaml", "second.yaml"], "mixup": 0.4},
    )
    recipe = read(leaf)
    assert (
        recipe.schedule.lr,
        recipe.runtime.seed,
        recipe.augment.hflip,
        recipe.augment.mixup,
        recipe.augment.cutmix,
    ) == (1.0, 2, 0.3, 0.4, 0.0)
    files = {key: Path(recipe.origins[key]).stem for key in ("lr", "seed", "hflip", "mixup", "cutmix")}
    assert files == {"lr": "root", "seed": "first", "hflip": "second", "mixup": "leaf", "cutmix": "default"}


def test_a_base_is_found_beside_the_file_that_names_it_and_its_path_is_printed_short(tmp_path: Path) -> None:
    write(tmp_path / "_base", device={"amp_level": "O2"}, common={"base": "device.yaml"})
    leaf = write(tmp_path / "family", leaf={"base": "../_base/common.yaml"})
    assert read(leaf).origins["amp_level"] == str(tmp_path / "_base" / "device.yaml")


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    leaf = write(tmp_path, leaf={"lr": 1, "seed": 1, "distribute": True, "scale": [0.1, 0.9]})
    recipe = read(leaf, "--seed", "7", "--distribute", "False", "--scale=0.2,0.8")
    assert (recipe.schedule.lr, recipe.runtime.seed, recipe.runtime.distribute, recipe.augment.scale) == (
        1.0,
        7,
        False,
        (0.2, 0.8),
    )
    assert [recipe.origins[key] for key in ("lr", "seed", "distribute")] == [str(leaf), "command line", "command line"]


@pytest.mark.parametrize(
    "arguments, taken",
    [
        (["--clip_grad"], True),
        (["--clip_grad", "True"], True),
        (["--clip_grad=yes"], True),
        (["--clip_grad", "1"], True),
        (["--clip_grad", "False"], False),
        (["--clip_grad=false"], False),
        (["--clip_grad", "no"], False),
        (["--clip_grad", "0"], False),
    ],
)
def test_a_false_boolean_is_false(arguments: list[str], taken: bool) -> None:
    recipe, _ = parse([*arguments, "--seed", "3"], "")
    assert recipe.optim.clip_grad is taken and recipe.runtime.seed == 3


def test_extra_arguments_of_a_command_are_no_recipe_keys() -> None:
    extra = ((("--print_config",), {"action": "store_true"}),)
    recipe, given = parse(["--print_config", "--lr", "1e-3"], "", extra)
    assert (
        given == {"print_config": True, "config": None}
        and recipe.schedule.lr == 1e-3
        and "print_config" not in recipe.flat()
    )


@pytest.mark.parametrize(
    "content, says",
    [
        ("batchsize: 3", "unknown key 'batchsize'; did you mean batch_size"),
        ("batch_size: many", "batch_size is 'many', but must be an int"),
        ("scale: [0.1, 0.5, 1.0]", "scale is [0.1, 0.5, 1.0], but must be a list of 2 numbers"),
        ("hflip: 2", "hflip is 2.0, but must be at least 0 and at most 1"),
        ("amp_level: O5", "amp_level is 'O5', but must be one of O0, O1, O2, O3; did you mean"),
        ("lr: [1, 2", "not valid YAML: "),
        ("lr: 1\n\tseed: 2", "not valid YAML: "),
        ("", "must hold 'key: value' lines"),
        ("- lr", "must hold 'key: value' lines"),
        ("3: 4", "must hold 'key: value' lines"),
        ("base: 3", "base is 3, but must be a file or a list of files"),
        ("base:", "base is None, but must be a file or a list of files"),
        ("base: {a: b}", "base is {'a': 'b'}, but must be a file"),
        ("base: [1]", "base is [1], but must be a file or a list of files"),
    ],
)
def test_a_mistake_in_a_file_or_in_its_base_names_that_file(tmp_path: Path, content: str, says: str) -> None:
    wrong = write(tmp_path, wrong=content)
    leaf = write(tmp_path, leaf={"base": "wrong.yaml", "lr": 1})
    for path in (wrong, leaf):
        assert refused("-c", path).startswith(f"{wrong}: {says}")


def test_a_missing_file_names_its_neighbour_and_who_asked(tmp_path: Path) -> None:
    missing = tmp_path / "imagnet.yaml"
    leaf = write(tmp_path, imagenet={}, leaf={"base": missing.name})
    assert refused("-c", missing).startswith(f"no recipe {missing}; did you mean imagenet.yaml")
    assert refused("-c", leaf).startswith(f"{leaf}: base: no recipe {missing}; did you mean imagenet.yaml")
    assert refused("-c", missing.with_suffix("")).startswith(
        f"no recipe {missing.with_suffix('')}; did you mean imagenet.yaml"
    )
    assert refused("-c", tmp_path / "no" / "such.yaml") == f"no recipe {tmp_path / 'no' / 'such.yaml'}"
    assert refused("-c", tmp_path).startswith(f"{tmp_path}: can't be read: ")


def test_a_recipe_that_inherits_from_itself_names_the_circle(tmp_path: Path) -> None:
    folder = tmp_path / "family"
    first = write(folder, second={"base": "../family/first.yaml"}, first={"base": "second.yaml"})
    circle = f"{first} -> {folder / 'second.yaml'} -> {first}"
    assert refused("-c", first) == f"{first}: base: inherits from itself: {circle}"


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--batchsize", "3"], "unknown argument '--batchsize'; did you mean --batch_size"),
        (["--lrr=3"], "unknown argument '--lrr=3'; did you mean --lr"),
        (["--epoch", "3"], "unknown argument '--epoch'; did you mean --epoch_size"),
        (["3"], "unknown argument '3'"),
        (["--lr"], "argument --lr: expected one argument"),
        (["--lr", "fast"], "lr is 'fast', but must be a number"),
        (["--lr", "-1"], "lr is -1.0, but must be at least 0"),
        (["--clip_grad", "maybe"], "clip_grad is 'maybe', but must be True or False"),
        (["--mean", "1,2"], "mean is '1,2', but must be a list of 3 numbers or none"),
        (["--opt", "adams"], "opt is 'adams', but must be one of adamw, lamb, sgd, adam, nadam, rmsprop, adagrad, "),
        (["--multi_step_decay_milestones", "3,x"], "multi_step_decay_milestones is '3,x', but must be a list of ints"),
        (["--config"], "argument -c/--config: expected one argument"),
    ],
)
def test_a_mistake_on_the_command_line(arguments: list[str], says: str) -> None:
    assert refused(*arguments).startswith(f"command line: {says}")


def test_a_printed_recipe_names_every_origin_and_is_a_recipe(tmp_path: Path) -> None:
    leaf = write(
        tmp_path,
        base={"eps": "1e-8", "scale": [0.1, 1]},
        leaf={"base": "base.yaml", "re_value": 0, "img_size": [240, 224], "data_dir": "a: #b"},
    )
    recipe = read(leaf, "--seed", "5")
    lines = {line.split(":")[0]: line for line in describe(recipe).splitlines()}
    assert list(lines) == list(FIELDS)
    for key, origin in {
        "eps": str(tmp_path / "base.yaml"),
        "re_value": str(leaf),
        "seed": "command line",
        "lr": "default",
    }.items():
        assert lines[key].endswith(f"  # {origin}")
    assert read(write(tmp_path, again=describe(recipe))).flat() == recipe.flat()


def test_mindcv_s_keys_without_effect_are_told_with_the_reason(tmp_path: Path) -> None:
    told = without_effect(read(write(tmp_path, leaf={"dataset_sink_mode": True, "lr": 1})))
    assert told == "dataset_sink_mode (the device chooses)"
    assert without_effect(parse([], "")[0]) == ""


@pytest.mark.parametrize("key, value", [(key, value) for key, values in MINDCV_VALUES.items() for value in values])
def test_mindcv_s_other_values_are_told_what_to_write_instead_and_listed(key: str, value: str, tmp_path: Path) -> None:
    instead = MINDCV_VALUES[key][value]
    assert f"Instead of MindCV's {value} write {instead}" in refused(f"--{key}", value)
    page = (ROOT / "docs" / "migrate.md").read_text("utf-8")
    assert f"`{value}`" in page
    if instead.startswith(f"{key}: "):  # what is to be written is accepted
        parse([f"--{key}", instead.split()[1].rstrip(",")], "")


def test_keys_of_mindcv_s_that_are_refused_or_change_nothing(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "migrate.md").read_text("utf-8")
    for key, instead in MINDCV_REFUSED.items():
        assert refused("-c", write(tmp_path, leaf={key: 100})).endswith(
            f"leaf.yaml: {key} is 100, a key of MindCV's that is not taken: {instead}"
        )
        assert refused(f"--{key}", "100").startswith(
            f"command line: unknown argument '--{key}', a key of MindCV's that is not taken: {instead}"
        )
        assert f"`{key}`" in page
        read(write(tmp_path, leaf={key: None}))
    for key, why in WITHOUT_EFFECT.items():
        assert f"'--{key}=1', a key of MindCV's that changes nothing here ({why}): leave it out" in refused(
            f"--{key}=1"
        )


def test_a_misspelt_option_is_told_the_nearest_of_all_that_the_command_has() -> None:
    extra = ((("--print_config",), {"action": "store_true"}),)
    for word, near in (
        ("--cofnig", "--config"),
        ("--conf=a.yaml", "--config"),
        ("--print_cnofig", "--print_config"),
        ("--batchsize", "--batch_size"),
    ):
        with pytest.raises(UserError, match=f"unknown argument '{word}'; did you mean .*{near}"):
            parse([word], "", extra)


def test_validation_hides_what_only_training_uses_and_takes_it() -> None:
    assert set(FIELDS) > TRAINING_ONLY
    assert {
        "batch_size",
        "ema",
        "model",
        "ckpt_path",
        "image_resize",
        "img_size",
        "mean",
        "device_target",
        "amp_level",
        "data_dir",
        "take",
    }.isdisjoint(TRAINING_ONLY)
    hidden = parser("", (), TRAINING_ONLY)
    assert {f"--{key}" for key in FIELDS} <= set(hidden.options())
    assert "schedule" not in hidden.format_help() and "schedule" in parser("").format_help()
    assert parse(["--lr", "1"], "", (), TRAINING_ONLY)[0].schedule.lr == 1


def test_help_and_printing_need_no_mindspore(tmp_path: Path) -> None:
    (tmp_path / "mindspore.py").write_text("raise SystemExit('mindspore was imported')", "utf-8")
    for name in ("train.py", "validate.py", "config.py"):
        done = script(name, "--help", PYTHONPATH=str(tmp_path))
        shown = {key for key in FIELDS if f"--{key} VALUE" in done.stdout or f"--{key} [VALUE]" in done.stdout}
        assert (done.returncode, done.stderr) == (0, "") and shown == (
            set(FIELDS) - TRAINING_ONLY if name == "validate.py" else set(FIELDS)
        )
    for arguments in (["config.py", "-c", QUICKSTART], ["train.py", "--print_config", "-c", QUICKSTART]):
        done = script(*arguments, PYTHONPATH=str(tmp_path))
        assert done.returncode == 0 and done.stdout.splitlines()[0].split() == ["dataset:", "digits", "#", QUICKSTART]
    done = script(
        "-c",
        "import sys; from mindvit.recipe.commandline import parse; parse([], ''); sys.exit('mindspore' in sys.modules)",
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["config.py", "--batchsize", "3"], "command line: unknown argument '--batchsize'; did you mean --batch_size"),
        (
            ["validate.py", "-c", QUICKSTART, "--batch_size", "many"],
            "command line: batch_size is 'many', but must be an int",
        ),
        (
            ["train.py", "-c", "configs/quickstart/crossvit_digit.yaml"],
            "no recipe configs/quickstart/crossvit_digit.yaml; did you mean crossvit_digits.yaml",
        ),
        (
            ["train.py", "-c", QUICKSTART, "--model", "crossvit_99"],
            "unknown model 'crossvit_99'; did you mean crossvit_9 or ",
        ),
    ],
)
def test_a_script_ends_with_code_2_and_one_line(arguments: list[str], says: str) -> None:
    done = script(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {says}") and done.stderr.count("\n") == 1


def test_a_script_tells_a_mistake_in_a_file_in_one_line(tmp_path: Path) -> None:
    leaf = write(tmp_path, leaf="base: other.yaml\nlr: 1", other="warmup: 3")
    for name in ("train.py", "validate.py", "config.py"):
        done = script(name, "--config", tmp_path / "leaf.yaml")
        assert (
            done.returncode == 2
            and done.stderr.count("\n") == 1
            and done.stderr.startswith(f"error: {leaf}: unknown key 'warmup'; did you mean warmup_lr")
        )


def test_only_what_differs_from_the_defaults() -> None:
    recipe, _ = parse(["--lr", "0.002", "--batch_size", "128", "--betas", "0.9,0.95"], "")
    assert describe(recipe, changed=True).splitlines() == [
        "betas: [0.9, 0.95]".ljust(56) + "  # command line",
        "lr: 0.002".ljust(56) + "  # command line",
    ]
