"""A recipe made concrete: the machine, the network and the numbers that the recipe leaves to the model and the data."""

from __future__ import annotations

from dataclasses import dataclass

import mindspore as ms
from mindspore import nn

from mindvit import device, log
from mindvit.commandline import without_effect
from mindvit.data.pipeline import default_workers
from mindvit.data.sources import Source
from mindvit.device import Device
from mindvit.errors import UserError
from mindvit.models import ModelInfo, create_model, model_info
from mindvit.recipe import Recipe, Triple
from mindvit.step import StepOptions
from mindvit.weights import load_weights

CHANNELS = 3  # of every picture that a source gives


@dataclass(frozen=True)
class Setting:
    """A recipe together with what it leaves to the model, the data and the machine."""

    recipe: Recipe
    info: ModelInfo
    device: Device
    num_classes: int
    workers: int

    @property
    def size(self) -> int:
        """Side of the picture, px."""
        return self.recipe.augment.image_resize or self.info.input_size

    @property
    def interpolation(self) -> str:
        """Resampling of crops and resizes."""
        return self.recipe.augment.interpolation or self.info.interpolation

    @property
    def statistics(self) -> tuple[Triple, Triple]:
        """Mean and standard deviation of pixels in 0..1."""
        mean, std = self.recipe.augment.mean or self.info.mean, self.recipe.augment.std or self.info.std
        unit = 255 if max(mean) > 1 or max(std) > 1 else 1  # MindCV's recipes count pixels from 0 to 255
        return (mean[0] / unit, mean[1] / unit, mean[2] / unit), (std[0] / unit, std[1] / unit, std[2] / unit)


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
    ms.set_seed(recipe.runtime.seed + chosen.rank)  # ranks drop different elements; rank 0's weights are sent to all
    if chosen.is_main:
        log.say(line)
        if without_effect(recipe):
            log.say(f"keys without effect: {without_effect(recipe)}")
    workers = recipe.data.num_parallel_workers or default_workers(chosen.local_ranks)
    return Setting(recipe, info, chosen, wanted or classes, workers)


def build(setting: Setting, resize: bool = False) -> nn.Cell:
    """The recipe's network, with the weights it starts from; `resize` fits position embeddings of another picture size."""
    options = setting.recipe.model
    net = create_model(options.model, setting.num_classes, options.in_channels, options.drop_path_rate, options.img_size,
                       drop_rate=options.drop_rate, attn_drop_rate=options.attn_drop_rate)
    if isinstance(options.pretrained, bool) and options.pretrained:
        raise UserError("pretrained is True, but no weights are downloaded: give the file, pretrained: FILE or --ckpt_path FILE")
    start = options.ckpt_path or options.pretrained
    if start:
        report = load_weights(net, str(start), resize=resize)
        if setting.device.is_main:
            log.say(f"weights from {start}: {report}")
    return net


def step_options(setting: Setting) -> StepOptions:
    """What a recipe means for the compiled step."""
    recipe, half = setting.recipe, setting.device.half
    optim, augment, precision = recipe.optim, recipe.augment, recipe.precision
    mean, std = setting.statistics
    scaled = precision.loss_scale_type != "auto" or (half == ms.float16 and setting.device.amp_level != "O0")
    return StepOptions(
        mean=mean, std=std, erase=augment.re_prob > 0, mix=augment.mixup > 0 or augment.cutmix > 0, smoothing=optim.label_smoothing, betas=optim.betas,
        eps=optim.eps, weight_decay=optim.weight_decay, clip_norm=optim.clip_value if optim.clip_grad else 0.0,
        ema_decay=optim.ema_decay if optim.ema else 0.0, loss_scale=precision.loss_scale if scaled else 0.0,
        dynamic_scale=scaled and precision.loss_scale_type != "fixed", ranks=setting.device.ranks)
