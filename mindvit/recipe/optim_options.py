"""What a training recipe may say of the optimizer and of the learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple, Union

from mindvit.recipe.options import Pair, option


@dataclass(frozen=True)
class OptimOptions:
    """The optimiser."""

    opt: str = option(
        "adamw",
        "optimiser, as in PyTorch, lamb as in timm; momentum and nesterov: MindCV's words for sgd",
        ("adamw", "lamb", "sgd", "adam", "nadam", "rmsprop", "adagrad", "momentum", "nesterov"),
    )
    betas: Pair = option((0.9, 0.999), "adamw, lamb, adam, nadam: decay of the two moments")
    eps: float = option(1e-8, "all but sgd: added to the denominator", low=0)
    momentum: float = option(0.9, "sgd, rmsprop: momentum", low=0, high=1)
    alpha: float = option(0.99, "rmsprop: decay of the mean of the squares (MindCV's: 0.9)", low=0, high=1)
    use_nesterov: bool = option(False, "sgd: Nesterov's momentum")
    weight_decay: float = option(
        0.05, "weight decay; decoupled with adamw and lamb, part of the gradient with the others", low=0
    )
    weight_decay_filter: str = option(
        "norm_and_bias",
        "tensors without weight decay: one-dimensional ones, biases and what the paper's code names (norm_and_bias), "
        "those with norm in their names, as OpenMMLab's recipes of CrossFormer's segmentors have it (norm_names), or "
        "none (disable)",
        ("norm_and_bias", "norm_names", "disable"),
    )
    freeze: Union[None, int, str] = option(
        None,
        "what stays as it is: stem, what stands before the first block; N, the first N blocks too; all, everything but "
        "the classifier (linear probe), of detectors and segmentors the whole backbone (none: nothing)",
        low=1,
    )
    layer_decay: float = option(
        1.0,
        "factor of the learning rate from each block to the one below it (fine-tuning: 0.65 to 0.9; 1: off)",
        low=0.01,
        high=1,
    )
    gradient_accumulation_steps: int = option(
        1, "batches whose mean gradient makes one step: a step takes that many times batch_size images a device", low=1
    )
    clip_grad: bool = option(False, "clip the gradient by its global norm")
    clip_value: float = option(5.0, "largest global norm of the gradient", low=0)
    ema: bool = option(
        False,
        "keep an exponential moving average of the weights and evaluate it beside them; "
        "validate.py --ema: short for --take ema",
    )
    ema_decay: float = option(0.9999, "decay of that average", low=0, high=1)
    loss: str = option(
        "CE", "loss: cross entropy with soft targets, or every class a yes-or-no question (BCE)", ("CE", "BCE")
    )
    class_weights: Optional[str] = option(
        None,
        "how much each class counts in the loss: balanced, inversely to how many training images it has, or a FILE, "
        "class,weight a line (none: all alike)",
        path=True,
    )
    label_smoothing: float = option(0.0, "share of the target spread over all classes", low=0, high=0.99)


@dataclass(frozen=True)
class ScheduleOptions:
    """The learning rate as a function of the step."""

    epoch_size: int = option(300, "epochs", low=1)
    epoch_steps: Optional[int] = option(
        None,
        "steps that count as an epoch, however often they see the training images (none: those that do it once)",
        low=1,
    )
    patience: Optional[int] = option(
        None,
        "epochs without a better validation after which a run ends early (none: it never does)",
        low=1,
        affects_result=False,
    )
    scheduler: str = option(
        "cosine_decay",
        "decay after the warm-up",
        (
            "cosine_decay",
            "warmup_cosine_decay",
            "linear_decay",
            "poly_decay",
            "step_decay",
            "multi_step_decay",
            "exponential_decay",
            "polynomial_decay",
            "constant",
        ),
    )
    lr: float = option(5e-4, "highest learning rate (at lr_reference_batch, if that is given)", low=0)
    lr_reference_batch: Optional[int] = option(
        None, "batch over all devices that lr belongs to; lr is scaled to the real one (none: lr as it is)", low=1
    )
    min_lr: float = option(1e-5, "learning rate at the end of the decay", low=0)
    warmup_epochs: int = option(5, "epochs of linear warm-up", low=0)
    warmup_steps: Optional[int] = option(None, "the same in steps; wins over warmup_epochs", low=0)
    warmup_lr: float = option(0.0, "learning rate at the start of the warm-up", low=0)
    warmup_factor: Optional[float] = option(
        None, "the same as a factor of lr; MindCV's key, wins over warmup_lr", low=0, high=1
    )
    decay_epochs: Optional[int] = option(
        None, "epochs over which the rate falls (none: up to the last); step_decay: between two falls (none: 30)", low=1
    )
    decay_at: Optional[Tuple[int, int]] = option(
        None, "step_decay: the epochs after which the rate falls, two; wins over decay_epochs", low=1
    )
    multi_step_decay_milestones: Optional[Tuple[int, ...]] = option(
        None, "multi_step_decay: the epochs after the warm-up at which the rate falls", low=1
    )
    decay_rate: float = option(
        0.1,
        "step_decay, multi_step_decay: factor of each fall; exponential_decay: factor of an epoch; polynomial_decay: "
        "the power, MindCV's key",
        low=0,
    )
    poly_power: float = option(
        0.9, "poly_decay: power of the share of the steps that is left, by which lr - min_lr falls", low=0
    )
    cosine_from_start: bool = option(
        False,
        "count the cosine from epoch 0, the warm-up replacing its beginning (timm's way), not from the warm-up's end",
    )
    num_cycles: int = option(1, "cosine cycles, each decay_epochs long", low=1)
    cycle_decay: float = option(1.0, "factor of the peak from one cycle to the next", low=0)
    lr_epoch_stair: bool = option(False, "one learning rate an epoch instead of one a step")
    lr_lag: int = option(
        0,
        "updates the schedule runs behind: epochs with lr_epoch_stair, else steps (CrossViT's, XCiT's, "
        "CrossFormer's: 1)",
        low=0,
    )
