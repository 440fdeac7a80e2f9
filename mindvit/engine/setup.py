"""A recipe made concrete: the machine, the network and the numbers that the recipe leaves to the model and the data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Optional

import mindspore as ms
from mindspore import nn

from mindvit.data.classes import Head, imagenet, is_ambiguous
from mindvit.data.loader import default_workers
from mindvit.data.sources import Source
from mindvit.data.transforms.image import EvalTransform
from mindvit.engine.step import StepOptions, TrainStep
from mindvit.errors import UserError
from mindvit.layers.precision import set_precision
from mindvit.models import ModelInfo, create_model, input_sizes, mindcv, model_info
from mindvit.optim.schedule import is_decayed, layer_rates
from mindvit.recipe.commandline import COMMAND_LINE, without_effect
from mindvit.recipe.options import AugmentOptions, DistillOptions, Triple
from mindvit.recipe.schema import Recipe
from mindvit.runtime import console, device
from mindvit.runtime.device import Device
from mindvit.tasks.classification.distill import freeze
from mindvit.tasks.classification.task import ClassificationTask
from mindvit.weights import Report, WeightsError, load_weights
from mindvit.weights.checkpoint_info import CheckpointInfo
from mindvit.weights.readers import Source as Weights
from mindvit.weights.readers import read

CHANNELS = 3  # of every image that a source gives


@dataclass(frozen=True)
class Preprocessing:
    """How images are prepared for evaluation: as a recipe says and, where it says nothing, as the network's authors
    did.
    """

    info: ModelInfo
    augment: AugmentOptions

    @property
    def size(self) -> int:
        """Side of the image, px."""
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
        """From an RGB image to uint8 (size, size, 3)."""
        return EvalTransform(self.size, self.crop_pct, self.interpolation, self.info.squeeze)


@dataclass(frozen=True)
class Setting:
    """A recipe together with what it leaves to the model, the data and the machine."""

    recipe: Recipe
    info: ModelInfo
    device: Device
    num_classes: int
    workers: int
    class_names: tuple[str, ...] = ()

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are prepared for evaluation."""
        return Preprocessing(self.info, self.recipe.augment)

    @property
    def size(self) -> int:
        """Side of the image, px."""
        return self.preprocessing.size

    @property
    def interpolation(self) -> str:
        """Resampling of crops and resizes."""
        return self.preprocessing.interpolation

    @property
    def statistics(self) -> tuple[Triple, Triple]:
        """Mean and standard deviation of pixels in 0..1."""
        return self.preprocessing.statistics


def sized(recipe: Recipe, checkpoint: str = "") -> Recipe:
    """The recipe with the size at which its network computes: image_resize and, for CrossViT, img_size, one derived
    from the other.

    A size on the command line counts more than one in a file, and that more than one out of `checkpoint`, whose recipe
    was taken over; of two that differ the lesser is derived anew, and the main rank says so. UserError, before anything
    is listed or built, for sizes that the network can't take or that contradict each other.
    """
    given = {"image_resize": recipe.augment.image_resize, "img_size": recipe.model.img_size}
    ranks = {key: 0 if value is None else _rank(recipe.origins[key], checkpoint) for key, value in given.items()}
    most = max(given, key=lambda key: ranks[key])
    where = recipe.origins[most] if ranks[most] else "recipe"
    name, side, built_for = recipe.model.model, recipe.augment.image_resize, recipe.model.img_size
    model_info(name)  # UserError for a name that nobody knows, whatever the sizes
    try:
        own, own_sizes = input_sizes(name)
        if checkpoint and own_sizes and built_for is None and ranks["image_resize"] <= 1:
            return recipe  # trained by a mindvit that shrank or enlarged images within the network: as it was trained
        first = built_for[0] if isinstance(built_for, tuple) else built_for
        if ranks["image_resize"] != ranks["img_size"] and first != side:
            side, built_for = (side, None) if most == "image_resize" else (None, built_for)
        side, sizes = input_sizes(name, side, built_for)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if sizes is None or given == {"image_resize": side, "img_size": sizes}:
        return recipe
    if (side, sizes) != (own, own_sizes) and device.launched_ranks()[0] == 0:
        other = f"img_size is {sizes}" if most == "image_resize" else f"image_resize is {side}, img_size {sizes}"
        console.say(f"{name}: {other} px, as {most} is {given[most]} ({where})")
    return recipe.replace(where if ranks[most] else "default", image_resize=side, img_size=sizes)


def _rank(origin: str, checkpoint: str) -> int:
    """How much a value from there counts: more than another's."""
    return {"default": 0, checkpoint: 1, COMMAND_LINE: 3}.get(origin, 2)


def prepare(recipe: Recipe, source: Source) -> Setting:
    """Choose the device and fill in what the recipe leaves open; prints what it found."""
    info = model_info(recipe.model.model)
    classes = len(source.class_names)
    wanted = recipe.model.num_classes
    if wanted is not None and wanted < classes:
        raise UserError(
            f"num_classes is {wanted}, but the data set has {classes} classes (leave num_classes out to take them all)"
        )
    if recipe.model.in_channels != CHANNELS:
        raise UserError(
            f"in_channels is {recipe.model.in_channels}, but images are read as RGB, {CHANNELS} channels (other "
            "inputs: mindvit.create_model)"
        )
    chosen, line = device.set_up(recipe.runtime, recipe.precision)
    # ranks drop different elements; rank 0's weights are sent to all
    ms.set_seed((recipe.runtime.seed + chosen.rank) % 2**32)
    if chosen.is_main:
        console.say(line)
        if without_effect(recipe):
            console.say(f"keys without effect: {without_effect(recipe)}")
    workers = recipe.data.num_parallel_workers or default_workers(chosen.local_ranks)
    return Setting(recipe, info, chosen, wanted or classes, workers, () if source.is_by_label else source.class_names)


def build(setting: Setting, resize: bool = False, weights: Optional[Weights] = None) -> nn.Cell:
    """The recipe's network, with the weights it starts from, or those that were read already; `resize` fits position
    embeddings of another size.
    """
    options = setting.recipe.model
    weights = weights or starting_weights(setting.recipe)
    net = create_model(
        options.model,
        setting.num_classes,
        options.in_channels,
        options.drop_path_rate,
        options.img_size,
        drop_rate=options.drop_rate,
        attn_drop_rate=options.attn_drop_rate,
    )
    net.check_size(setting.size, setting.size)
    if weights:
        report = load_weights(net, weights, resize=resize, new_head=options.new_head)
        if setting.device.is_main:
            console.say(f"weights from {weights.where}: {report}")
    return net


def starting_weights(recipe: Recipe) -> Optional[Weights]:
    """What the file holds that a recipe starts from; None for initial values. UserError if it wants weights and names
    no file.
    """
    options = recipe.model
    if isinstance(options.pretrained, bool) and options.pretrained:
        raise UserError(
            "pretrained is True, but no weights are downloaded: give the file, pretrained: FILE or --ckpt_path FILE"
        )
    start = options.ckpt_path or options.pretrained
    return read(str(start), take_of(recipe)) if start else None


def kept_head(recipe: Recipe, weights: Optional[Weights]) -> Optional[Head]:
    """The head of the weights that training starts from; None if it starts with a new one."""
    if weights is None or recipe.model.new_head:
        return None
    told = CheckpointInfo.of(weights)
    return Head(weights.where, told.num_classes, told.class_names)


def take_of(recipe: Recipe) -> Optional[str]:
    """Which set of the weights in ckpt_path or pretrained is wanted.

    A recipe's `take` belongs to its own file, not to one that the command line names.
    """
    of_another = recipe.model.ckpt_path and recipe.origins["ckpt_path"] == COMMAND_LINE != recipe.origins["take"]
    return None if of_another else recipe.model.take


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
        raise UserError(
            f"distill_type is {options.distill_type}, but the teacher {name} has no weights (none are downloaded): "
            "--teacher_ckpt_path FILE"
        )


def build_teacher(setting: Setting) -> Optional[nn.Cell]:
    """The recipe's teacher with its weights, frozen, in the student's precision; None without distillation.

    Every rank reads the same file. mindcv's networks have MindSpore's own mixed precision: its O2 (all but norms) for
    any level but O0, since its O1 rewrites a network's source, which fails on some of them and changes nothing in
    others.
    """
    options, chosen = setting.recipe.distill, setting.device
    if options.distill_type == "none":
        return None
    check_teacher(options)
    name, path = str(options.teacher), str(options.teacher_ckpt_path)
    foreign = name.startswith(mindcv.THEIRS)
    content = read(path, options.teacher_take)
    _check_order(path, CheckpointInfo.of(content).class_names, setting)
    built_for = None if foreign else CheckpointInfo.of(content).img_size  # a teacher knows its own size
    net = create_model(name, setting.num_classes, setting.recipe.model.in_channels, None if foreign else 0.0, built_for)
    try:
        report = _load_foreign(net, content) if foreign else load_weights(net, content)
    except WeightsError as error:
        raise UserError(
            f"teacher_ckpt_path {path} doesn't fit {name} with the student's {setting.num_classes} classes: "
            f"{error.report}"
        ) from None
    if chosen.is_main:
        console.say(
            f"teacher: {name}, {sum(item.size for item in net.trainable_params()) / 1e6:.2f} M parameters, weights "
            f"from {path}: {report}"
        )
    if not foreign:
        try:
            net.check_size(setting.size, setting.size)
        except UserError as error:
            raise UserError(f"the teacher {name} can't take the student's images: {error}") from None
        set_precision(net, chosen.amp_level, chosen.half)
    elif chosen.half is not None and chosen.amp_level != "O0":
        net = ms.amp.auto_mixed_precision(net, "O2", chosen.half)
    return freeze(net)


def _check_order(path: str, theirs: tuple[str, ...], setting: Setting) -> None:
    """UserError unless the teacher's classes are known to have the order of the student's."""
    ours, ask = setting.class_names, "say the teacher's order with --classes FILE, a class folder a line"
    if theirs and ours and theirs != ours:
        pairs = enumerate(zip(theirs, ours))
        which = next(
            (f"class {number} is {there} there and {here} here" for number, (there, here) in pairs if there != here), ""
        )
        differ = which or f"{len(theirs)} there and {len(ours)} here"
        raise UserError(
            f"teacher_ckpt_path {path} has other classes than the student, or another order of them ({differ}): {ask}"
        )
    if theirs or not ours or setting.recipe.data.classes or ours == imagenet().columns[0]:
        return
    if len(ours) < setting.num_classes or is_ambiguous(ours):
        raise UserError(
            f"teacher_ckpt_path {path} doesn't name its {setting.num_classes} classes, and the {len(ours)} class "
            "folders "
            f"don't say their order: {ask}"
        )


def _load_foreign(net: nn.Cell, content: Weights) -> Report:
    """Load all of a mindcv network's weights; what else its checkpoint holds is told as of no use."""
    names = {item.name for item in net.get_parameters()}
    own = {name: value for name, value in content.arrays.items() if name in names}
    report = load_weights(net, dataclasses.replace(content, arrays=own))
    report.unused = sorted(set(content.arrays) - names)
    return report


def step_options(setting: Setting) -> StepOptions:
    """What a recipe means for the compiled step."""
    recipe, half = setting.recipe, setting.device.half
    optim, precision = recipe.optim, recipe.precision
    scaled = precision.loss_scale_type != "auto" or (half == ms.float16 and setting.device.amp_level != "O0")
    return StepOptions(
        opt=optim.opt,
        betas=optim.betas,
        eps=optim.eps,
        momentum=optim.momentum,
        nesterov=optim.use_nesterov,
        weight_decay=optim.weight_decay,
        clip_norm=optim.clip_value if optim.clip_grad else 0.0,
        ema_decay=optim.ema_decay if optim.ema else 0.0,
        loss_scale=precision.loss_scale if scaled else 0.0,
        dynamic_scale=scaled and precision.loss_scale_type != "fixed",
        accum_steps=optim.gradient_accumulation_steps,
        skip_nonfinite=precision.skip_nonfinite > 0,
        ranks=setting.device.ranks,
        fp16_saturates=setting.device.saturates,
    )


def train_step(net: nn.Cell, setting: Setting) -> TrainStep:
    """The recipe's step, with its teacher if it has one."""
    optim, weights = setting.recipe.optim, net.trainable_params()
    decayed = [is_decayed(item.name, item.ndim, optim.weight_decay_filter, net.no_weight_decay()) for item in weights]
    rates = layer_rates([item.name for item in weights], optim.layer_decay)
    objective = ClassificationTask().objective(net, setting, build_teacher(setting))
    return TrainStep(objective, net, decayed, step_options(setting), rates)
