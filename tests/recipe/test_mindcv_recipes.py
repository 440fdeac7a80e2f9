"""MindCV's recipes, read as they are."""

from __future__ import annotations

from pathlib import Path

from mindvit.recipe.commandline import parse
from mindvit.recipe.schema import FIELDS, WITHOUT_EFFECT, Recipe

CONFIGS = Path(__file__).parents[2] / "configs"


def leaf(name: str, *arguments: str) -> Recipe:
    return parse(["--config", str(CONFIGS / name.split("_")[0] / f"{name}_ascend.yaml"), *arguments], "")[0]


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
