"""A recipe made concrete: the machine, the network and the numbers that the recipe leaves to the model and the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Optional

import mindspore as ms
import numpy as np
from mindspore import nn

from mindvit import device, log, mindcv
from mindvit.commandline import without_effect
from mindvit.data.pipeline import default_workers
from mindvit.data.sources import Source
from mindvit.data.transforms import EvalTransform
from mindvit.device import Device
from mindvit.errors import UserError
from mindvit.layers.basic import set_precision
from mindvit.models import ModelInfo, create_model, model_info
from mindvit.optim import is_decayed, layer_rates
from mindvit.recipe import AugmentOptions, DistillOptions, Recipe, Triple
from mindvit.step import StepOptions, TrainStep, freeze
from mindvit.weights import Report, WeightsError, load_weights
from mindvit.weights.readers import Source as Weights
from mindvit.weights.readers import read

CHANNELS = 3  # of every picture that a source gives


@dataclass(frozen=True)
class Preprocessing:
    """How pictures are prepared for evaluation: as a recipe says and, where it says nothing, as the network's authors did."""

    info: ModelInfo
    augment: AugmentOptions

    @property
    def size(self) -> int:
        """Side of the picture, px."""
        return self.augment.image_resize or self.info.input_size

    @property
    def crop_pct(self) -> float:
        """Share of the resized short side that is kept."""
        return self.augment.crop_pct or self.info.crop_pct

    @property
    def interpolation(self) -> str:
        """Resampling of crops and resizes."""
        return self.augment.interpolation or self.info.interpolation

    @property
    def statistics(self) -> tuple[Triple, Triple]:
        """Mean and standard deviation of pixels in 0..1."""
        mean, std = self.augment.mean or self.info.mean, self.augment.std or self.info.std
        unit = 255 if max(mean) > 1 or max(std) > 1 else 1  # MindCV's recipes count pixels from 0 to 255
        return (mean[0] / unit, mean[1] / unit, mean[2] / unit), (std[0] / unit, std[1] / unit, std[2] / unit)

    @property
    def transform(self) -> EvalTransform:
        """From an RGB picture to uint8 (size, size, 3)."""
        return EvalTransform(self.size, self.crop_pct, self.interpolation, self.info.squeeze)


@dataclass(frozen=True)
class Setting:
    """A recipe together with what it leaves to the model, the data and the machine."""

    recipe: Recipe
    info: ModelInfo
    device: Device
    num_classes: int
    workers: int

    @property
    def preprocessing(self) -> Preprocessing:
        """How pictures are prepared for evaluation."""
        return Preprocessing(self.info, self.recipe.augment)

    @property
    def size(self) -> int:
        """Side of the picture, px."""
        return self.preprocessing.size

    @property
    def interpolation(self) -> str:
        """Resampling of crops and resizes."""
        return self.preprocessing.interpolation

    @property
    def statistics(self) -> tuple[Triple, Triple]:
        """Mean and standard deviation of pixels in 0..1."""
        return self.preprocessing.statistics


def prepare(recipe: Recipe, source: Source) -> Setting:
    """Choose the device and fill in what the recipe leaves open; prints what it found."""
    info = model_info(recipe.model.model)
    classes = len(source.class_names)
    wanted = recipe.model.num_classes
    if wanted is not None and wanted < classes:
        raise UserError(f"num_classes is {wanted}, but the data set has {classes} classes (leave num_classes out to take them all)")
    if recipe.model.in_channels != CHANNELS:
        raise UserError(f"in_channels is {recipe.model.in_channels}, but pictures are read as RGB, {CHANNELS} channels (other inputs: mindvit.create_model)")
    chosen, line = device.set_up(recipe.runtime, recipe.precision)
    # ranks drop different elements; rank 0's weights are sent to all
    ms.set_seed((recipe.runtime.seed + chosen.rank) % 2 ** 32)
    if chosen.is_main:
        log.say(line)
        if without_effect(recipe):
            log.say(f"keys without effect: {without_effect(recipe)}")
    workers = recipe.data.num_parallel_workers or default_workers(chosen.local_ranks)
    return Setting(recipe, info, chosen, wanted or classes, workers)


def build(setting: Setting, resize: bool = False, weights: Optional[Weights] = None) -> nn.Cell:
    """The recipe's network, with the weights it starts from, or those that were read already; `resize` fits position embeddings of another size."""
    options = setting.recipe.model
    net = create_model(options.model, setting.num_classes, options.in_channels, options.drop_path_rate, options.img_size,
                       drop_rate=options.drop_rate, attn_drop_rate=options.attn_drop_rate)
    if isinstance(options.pretrained, bool) and options.pretrained:
        raise UserError("pretrained is True, but no weights are downloaded: give the file, pretrained: FILE or --ckpt_path FILE")
    start = options.ckpt_path or options.pretrained
    if weights or start:
        weights = weights or read(str(start), options.take)
        report = load_weights(net, weights, resize=resize, new_head=options.new_head)
        if setting.device.is_main:
            log.say(f"weights from {weights.where}: {report}")
    return net


def check_teacher(options: DistillOptions) -> None:
    """UserError if a teacher is wanted that nobody knows, or without its weights."""
    if options.distill_type == "none":
        return
    name = str(options.teacher)
    if name.startswith(mindcv.THEIRS):
        mindcv.check_name(name)
    else:
        model_info(name)
    if not options.teacher_ckpt_path:
        raise UserError(f"distill_type is {options.distill_type}, but the teacher {name} has no weights (none are downloaded): --teacher_ckpt_path FILE")


def build_teacher(setting: Setting) -> Optional[nn.Cell]:
    """The recipe's teacher with its weights, frozen, in the student's precision; None without distillation.

    Every rank reads the same file. mindcv's networks have MindSpore's own mixed precision: its O2 (all but norms) for any level
    but O0, since its O1 rewrites a network's source, which fails on some of them and changes nothing in others.
    """
    options, chosen = setting.recipe.distill, setting.device
    if options.distill_type == "none":
        return None
    check_teacher(options)
    name, path = str(options.teacher), str(options.teacher_ckpt_path)
    foreign = name.startswith(mindcv.THEIRS)
    content = read(path)
    built_for = content.meta.get("recipe", {}).get("img_size")  # a teacher trained here knows its own size
    net = create_model(name, setting.num_classes, setting.recipe.model.in_channels, None if foreign else 0.0, built_for)
    try:
        report = _load_foreign(net, content.arrays) if foreign else load_weights(net, content)
    except WeightsError as error:
        raise UserError(f"teacher_ckpt_path {path} doesn't fit {name} with the student's {setting.num_classes} classes: {error.report}") from None
    if chosen.is_main:
        log.say(f"teacher: {name}, {sum(item.size for item in net.trainable_params()) / 1e6:.2f} M parameters, weights from {path}: {report}")
    if not foreign:
        net.check_size(setting.size, setting.size)
        set_precision(net, chosen.amp_level, chosen.half)
    elif chosen.half is not None and chosen.amp_level != "O0":
        net = ms.amp.auto_mixed_precision(net, "O2", chosen.half)
    return freeze(net)


def _load_foreign(net: nn.Cell, arrays: Mapping[str, np.ndarray]) -> Report:
    """Load all of a mindcv network's weights; what else its checkpoint holds (averages, an optimiser) is told as of no use."""
    names = {item.name for item in net.get_parameters()}
    report = load_weights(net, {name: value for name, value in arrays.items() if name in names})
    report.unused = sorted(set(arrays) - names)
    return report


def step_options(setting: Setting) -> StepOptions:
    """What a recipe means for the compiled step."""
    recipe, half = setting.recipe, setting.device.half
    optim, augment, precision = recipe.optim, recipe.augment, recipe.precision
    mean, std = setting.statistics
    scaled = precision.loss_scale_type != "auto" or (half == ms.float16 and setting.device.amp_level != "O0")
    return StepOptions(
        mean=mean, std=std, erase=augment.re_prob > 0, mix=augment.mixup > 0 or augment.cutmix > 0, loss=optim.loss, smoothing=optim.label_smoothing,
        opt=optim.opt, betas=optim.betas, eps=optim.eps, momentum=optim.momentum, nesterov=optim.use_nesterov, weight_decay=optim.weight_decay,
        clip_norm=optim.clip_value if optim.clip_grad else 0.0, ema_decay=optim.ema_decay if optim.ema else 0.0,
        loss_scale=precision.loss_scale if scaled else 0.0, dynamic_scale=scaled and precision.loss_scale_type != "fixed",
        parts=optim.gradient_accumulation_steps, leave_out=precision.skip_nonfinite > 0, ranks=setting.device.ranks, saturates=setting.device.saturates,
        distill_type=recipe.distill.distill_type, distill_alpha=recipe.distill.distill_alpha, distill_tau=recipe.distill.distill_tau)


def train_step(net: nn.Cell, setting: Setting) -> TrainStep:
    """The recipe's step, with its teacher if it has one."""
    optim, weights = setting.recipe.optim, net.trainable_params()
    decayed = [is_decayed(item.name, item.ndim, optim.weight_decay_filter, net.no_weight_decay()) for item in weights]
    rates = layer_rates([item.name for item in weights], optim.layer_decay)
    return TrainStep(net, decayed, step_options(setting), build_teacher(setting), rates)
