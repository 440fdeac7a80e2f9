"""A recipe from flat values: which keys there are, what each accepts, and what is wrong with others, in a line."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import typing
from dataclasses import dataclass
from typing import Any, Mapping, Union

from mindvit.errors import UserError, nearest
from mindvit.recipe.optim_options import OptimOptions, ScheduleOptions
from mindvit.recipe.options import (
    AugmentOptions,
    DataOptions,
    DistillOptions,
    ModelOptions,
    PrecisionOptions,
    RuntimeOptions,
)
from mindvit.recipe.run_options import CheckpointOptions, LogOptions
from mindvit.recipe.task_options import DetectionOptions, SegmentationOptions

# Keys that change nothing where a trained network is only validated: validate.py's help leaves them out, and it says so
# where one is an option.
TRAINING_ONLY = frozenset(
    (
        "train_split",
        "shuffle",
        "balanced",
        "drop_remainder",
        "aug_repeats",
        "bad_image",
        "scale",
        "ratio",
        "hflip",
        "vflip",
        "color_jitter",
        "auto_augment",
        "re_prob",
        "re_scale",
        "re_ratio",
        "re_value",
        "mixup",
        "cutmix",
        "mixup_prob",
        "mixup_switch_prob",
        "drop_rate",
        "attn_drop_rate",
        "drop_path_rate",
        "backbone_weights",
        "new_head",
        "ratio_range",
        "cat_max_ratio",
        "photometric_distortion",
        "auxiliary_weight",
        "sync_bn",
        "canvas",
        "short_sides",
        "max_instances",
        "empty_images",
        "rpn_samples",
        "sync_divisors",
        "roi_samples",
        *(
            item.name
            for cls in (DistillOptions, ScheduleOptions, CheckpointOptions, LogOptions)
            for item in dataclasses.fields(cls)
        ),
        *(item.name for item in dataclasses.fields(OptimOptions) if item.name != "ema"),
        "loss_scale_type",
        "loss_scale",
        "skip_nonfinite",
        "drop_overflow_update",
        "compile_cache",
        "seed",
    )
)

SHIPPED = ("digits", "scenes")  # data sets that need no folder
SECTIONS = {
    "data": DataOptions,
    "augment": AugmentOptions,
    "model": ModelOptions,
    "optim": OptimOptions,
    "distill": DistillOptions,
    "segmentation": SegmentationOptions,
    "detection": DetectionOptions,
    "schedule": ScheduleOptions,
    "precision": PrecisionOptions,
    "runtime": RuntimeOptions,
    "checkpoint": CheckpointOptions,
    "log": LogOptions,
}

# Keys of MindCV's files that change nothing here, and why.
WITHOUT_EFFECT = {
    "dataset_download": "no data set is downloaded",
    "dataset_sink_mode": "the device chooses",
    "filter_bias_and_bn": "see weight_decay_filter",
    "dynamic_loss_scale": "see loss_scale_type",
    "resume_opt": "a checkpoint is resumed whole",
    "ckpt_save_policy": "the newest and the best are kept",
    "aux_factor": "no auxiliary heads",
    "reduction": "the loss is a mean",
    "re_max_attempts": "ten, as in timm",
    "cutmix_prob": "see mixup_prob",
    "amp_cast_list": "the networks say what stays in float32",
    "enable_modelarts": "no ModelArts",
    "multi_data_url": "no ModelArts",
    "data_url": "no ModelArts",
    "ckpt_url": "no ModelArts",
    "train_url": "no ModelArts",
}

# Values of MindCV's for keys that we share, which are refused, and what to write instead. All are listed in
# docs/migrate.md.
MINDCV_VALUES = {
    "opt": {
        "lion": "opt: adamw",
        "adan": "opt: adamw",
    },
    "scheduler": {
        "one_cycle": "scheduler: cosine_decay, with warmup_epochs",
        "cyclic": "scheduler: cosine_decay, with num_cycles and decay_epochs",
    },
    "loss": {"asl_single_label": "loss: CE", "asl_multi_label": "loss: BCE", "jsd": "loss: CE"},
    "weight_decay_filter": {"auto": "weight_decay_filter: norm_and_bias"},
    "interpolation": {
        "pilcubic": "interpolation: bicubic",
        "area": "interpolation: bilinear",
        "antialias": "interpolation: bilinear",
    },
    "dataset": dict.fromkeys(
        ("mnist", "cifar10", "cifar100"), "dataset: imagenet, with data_dir: a folder of images, a folder a class"
    ),
}
# Keys of MindCV's that would change what is computed and that nothing here does, and what to do instead. Their value
# `none` is taken.
MINDCV_REFUSED = {
    "num_samples": "all images of a data set are taken: for fewer, list them in train_list.txt",
    "aug_splits": "each image is augmented once a step (aug_splits: 0)",
}


@dataclass(frozen=True)
class Recipe:
    """All sections, and for every key the file (or 'command line', 'default') that its value came from."""

    data: DataOptions
    augment: AugmentOptions
    model: ModelOptions
    optim: OptimOptions
    distill: DistillOptions
    segmentation: SegmentationOptions
    detection: DetectionOptions
    schedule: ScheduleOptions
    precision: PrecisionOptions
    runtime: RuntimeOptions
    checkpoint: CheckpointOptions
    log: LogOptions
    origins: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def flat(self) -> dict[str, Any]:
        """Every key with its value, in the order of the sections."""
        return {key: getattr(getattr(self, section), key) for key, (section, _, _) in FIELDS.items()}

    def changed(self) -> dict[str, Any]:
        """The keys whose values differ from the defaults."""
        return {key: value for key, value in self.flat().items() if value != FIELDS[key][1].default}

    def affecting_result(self) -> dict[str, Any]:
        """The keys with their values that change what a run computes."""
        return {key: value for key, value in self.flat().items() if FIELDS[key][1].metadata["affects_result"]}

    def replace(self, origin: str, **values: Any) -> Recipe:
        """A copy in which some keys have other values, checked anew."""
        return build({**self.flat(), **values}, {**self.origins, **dict.fromkeys(values, origin)})


def _fields() -> dict[str, tuple[str, dataclasses.Field, Any]]:
    found: dict[str, tuple[str, dataclasses.Field, Any]] = {}
    for section, cls in SECTIONS.items():
        hints = typing.get_type_hints(cls)
        found.update({item.name: (section, item, hints[item.name]) for item in dataclasses.fields(cls)})
    return found


FIELDS = _fields()

LEADING_ZERO = re.compile(r"[-+]?0\d")
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def type_name(kind: Any) -> str:
    """A type as a user reads it: 'an int', 'a list of 2 numbers or none', ..."""
    plain = {bool: "True or False", int: "an int", float: "a number", str: "a string", type(None): "none"}
    if kind in plain:
        return plain[kind]
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        count = "" if parts[-1] is ... else f"{len(parts)} "
        return f"a list of {count}{'ints' if parts[0] is int else 'numbers'}"
    return " or ".join(type_name(part) for part in parts)


def convert(value: Any, kind: Any) -> Any:
    """`value`, as YAML or the command line gave it, as the type `kind`; ValueError if it is not one."""
    if typing.get_origin(kind) is Union:
        for part in sorted(typing.get_args(kind), key=lambda part: part is str):
            try:
                return convert(value, part)
            except ValueError:
                continue
        raise ValueError(value)
    if typing.get_origin(kind) is tuple:
        parts = typing.get_args(kind)
        items = value.strip("[]() ").split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise ValueError(value)
        if parts[-1] is ...:
            parts = parts[:1] * len(items)
        if len(items) != len(parts):
            raise ValueError(value)
        return tuple(convert(item, part) for item, part in zip(items, parts))
    return _scalar(value, kind)


def _scalar(value: Any, kind: type) -> Any:
    if kind is type(None):
        if value is None or (isinstance(value, str) and value.strip().lower() in ("", "none", "null")):
            return None
    elif kind is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in TRUE + FALSE:
            return str(value).lower() in TRUE
    elif kind is str:
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            return str(value)
    elif not isinstance(value, bool) and isinstance(value, (int, float, str)):
        if isinstance(value, str) and LEADING_ZERO.match(value.strip()):
            raise ValueError(value)  # 8, as YAML 1.1 counts, or 10?
        number = float(value)  # PyYAML reads 1e-8 as a string: MindCV's recipes have that
        if kind is float and math.isfinite(number):
            return number
        if number == int(number):
            return int(number)
    raise ValueError(value)


def _checked(key: str, value: Any, where: str) -> Any:
    _, item, kind = FIELDS[key]
    try:
        value = convert(value, kind)
    except (ValueError, OverflowError):
        raise UserError(f"{where}: {key} is {value!r}, but must be {type_name(kind)}{_how_to_write(value)}") from None
    rules = item.metadata
    if rules["path"] and isinstance(value, str):
        value = os.path.expanduser(value)
    if rules["choices"] and value is not None and value not in rules["choices"]:
        known = [str(choice) for choice in rules["choices"]]
        instead = MINDCV_VALUES.get(key, {}).get(str(value).lower())
        hint = nearest(str(value), known) + (f" Instead of MindCV's {value} write {instead}" if instead else "")
        raise UserError(f"{where}: {key} is {value!r}, but must be one of {', '.join(known)}{hint}")
    low, high = rules["low"], rules["high"]
    for number in value if isinstance(value, tuple) else (value,):
        measured = isinstance(number, (int, float)) and not isinstance(number, bool)
        if measured and ((low is not None and number < low) or (high is not None and number > high)):
            bounds = [f"at least {low}"] * (low is not None) + [f"at most {high}"] * (high is not None)
            raise UserError(f"{where}: {key} is {number}, but must be {' and '.join(bounds)}")
    return value


def _how_to_write(value: Any) -> str:
    """What helps with a number that may be octal, as a phrase."""
    text = value.strip() if isinstance(value, str) else ""
    if not LEADING_ZERO.match(text):
        return ""
    return f": a leading 0 may mean octal; write {text.lstrip('0') or 0}" if text.isdigit() else " without a leading 0"


def check_known(key: str, value: Any, where: str) -> None:
    """UserError if nothing is known by this name, or a key of MindCV's asks for what nothing here does."""
    if key in MINDCV_REFUSED:
        if str(value).strip().lower() not in ("none", "null", "", "0"):
            raise UserError(f"{where}: {key} is {value!r}, a key of MindCV's that is not taken: {MINDCV_REFUSED[key]}")
    elif key not in FIELDS and key not in WITHOUT_EFFECT:
        raise UserError(f"{where}: unknown key {key!r}{nearest(key, FIELDS)} (all keys: python train.py --help)")


def build(values: Mapping[str, Any], origins: Mapping[str, str]) -> Recipe:
    """A recipe from flat `values`; `origins` names where each came from. UserError for anything not accepted."""
    for key in values:
        check_known(key, values[key], origins.get(key, "recipe"))
    flat = {key: _checked(key, values[key], origins.get(key, "recipe")) for key in values if key in FIELDS}
    sections = {
        name: cls(**{item.name: flat[item.name] for item in dataclasses.fields(cls) if item.name in flat})
        for name, cls in SECTIONS.items()
    }
    recipe = Recipe(
        **sections,
        origins={
            key: origins.get(key, "default") for key in (*FIELDS, *(key for key in values if key in WITHOUT_EFFECT))
        },
    )
    _cross_check(recipe)
    return recipe


Rule = tuple[str, bool, str]  # a key, whether it is wrong, and why


def _optim_rules(recipe: Recipe) -> list[Rule]:
    optim, schedule = recipe.optim, recipe.schedule
    return [
        (
            "warmup_epochs",
            schedule.warmup_steps is None and schedule.warmup_epochs > schedule.epoch_size,
            f"is {schedule.warmup_epochs}, more than epoch_size = {schedule.epoch_size}",
        ),
        (
            "freeze",
            isinstance(optim.freeze, str) and optim.freeze not in ("stem", "all"),
            f"is {optim.freeze!r}, but must be stem, a number of blocks, all, or none",
        ),
        (
            "class_weights",
            recipe.data.balanced and optim.class_weights == "balanced",
            "is balanced, and balanced: True draws all classes equally often already: leave one of them out",
        ),
        (
            "decay_rate",
            schedule.decay_rate > 1 and schedule.scheduler != "polynomial_decay",
            f"is {schedule.decay_rate}, but must be at most 1",
        ),
        (
            "scheduler",
            schedule.scheduler == "multi_step_decay" and not schedule.multi_step_decay_milestones,
            "is multi_step_decay, which needs multi_step_decay_milestones: [EPOCH, ...]",
        ),
    ]


def _cross_check(recipe: Recipe) -> None:
    augment, data, distill = recipe.augment, recipe.data, recipe.distill
    switched_off = (
        recipe.origins["distill_type"] != "default"
    )  # said, so that --distill_type none is enough for a recipe with a teacher
    rules: list[Rule] = [
        *_optim_rules(recipe),
        (
            "data_dir",
            data.dataset in SHIPPED and data.data_dir is not None,
            f"is given, but dataset: {data.dataset} ships with mindvit and has no folder",
        ),
        ("balanced", data.balanced and not data.shuffle, "draws images at random: leave shuffle on"),
        ("std", augment.std is not None and min(augment.std) <= 0, "must be positive"),
        ("mean", (augment.mean is None) != (augment.std is None), "and std must be given together"),
        (
            "distill_type",
            distill.distill_type != "none" and not distill.teacher,
            f"is {distill.distill_type}, but no teacher is given: NAME or mindcv/NAME",
        ),
        ("distill_tau", distill.distill_tau <= 0, "must be positive"),
    ]
    for key in ("teacher", "teacher_ckpt_path", "teacher_take"):
        unused = distill.distill_type == "none" and not switched_off and getattr(distill, key) is not None
        rules.append((key, unused, "is given, but distill_type is none: say soft or hard"))
    ranges = {key: getattr(augment, key) for key in ("scale", "ratio", "re_scale", "re_ratio")}
    for key, (low, high) in {**ranges, "ratio_range": recipe.segmentation.ratio_range}.items():
        rules.append(
            (key, not 0 < low <= high, f"is ({low}, {high}), but must be two positive numbers, the smaller one first")
        )
    for key, wrong, why in rules:
        if wrong:
            raise UserError(f"{recipe.origins.get(key, 'recipe')}: {key} {why}")
