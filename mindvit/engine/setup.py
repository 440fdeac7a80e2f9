"""From a recipe to a run: the device, what the recipe leaves open, the network with its weights, the step."""

from __future__ import annotations

from typing import Optional

import mindspore as ms
from mindspore import nn

from mindvit.data.datasets.base import Dataset
from mindvit.data.loader import choose_workers
from mindvit.engine.step import TrainStep
from mindvit.engine.update import StepOptions
from mindvit.errors import UserError
from mindvit.layers.recompute import set_recompute
from mindvit.models import network_info
from mindvit.optim.freeze import freeze, set_train
from mindvit.optim.param_groups import is_decayed, layer_lr_scales
from mindvit.recipe.commandline import COMMAND_LINE, without_effect
from mindvit.recipe.schema import Recipe
from mindvit.runtime import console, device
from mindvit.tasks.base import RunContext, Task
from mindvit.weights import load_weights
from mindvit.weights.named import has_new_head, read_named
from mindvit.weights.readers import WeightsFile

CHANNELS = 3  # of every image that a data set gives


def setup(recipe: Recipe, dataset: Dataset) -> RunContext:
    """Choose the device and fill in what the recipe leaves open; prints what it found.

    Args:
        recipe: as a task has resolved it.
        dataset: the one whose classes the network tells apart.

    Raises:
        UserError: the recipe asks for fewer classes than there are, for other channels, or for a device that isn't
            there.
    """
    info = network_info(recipe.model.model)
    classes, wanted = len(dataset.class_names), recipe.model.num_classes
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
        console.log_info(line)
        if without_effect(recipe):
            console.log_info(f"keys without effect: {without_effect(recipe)}")
    workers = choose_workers(recipe.data, chosen.local_ranks, chosen.target)
    names = () if dataset.is_by_label else dataset.class_names
    return RunContext(recipe, info, chosen, wanted or classes, workers, names, dataset.class_counts())


def build(ctx: RunContext, task: Task, resize: bool = False, weights: Optional[WeightsFile] = None) -> nn.Cell:
    """The recipe's network, with the weights it starts from, or those that were read already; `resize` fits position
    embeddings of another size.
    """
    weights = weights or starting_weights(ctx.recipe)
    net = task.network(ctx)
    if weights:
        new_head = ctx.recipe.model.new_head or has_new_head(weights, ctx.num_classes)
        report = load_weights(net, weights, resize=resize, new_head=new_head)
        if ctx.device.is_main:
            console.log_info(f"weights from {weights.where}: {report}")
    return net


def starting_weights(recipe: Recipe) -> Optional[WeightsFile]:
    """What a recipe starts from, fetched if it is named; None for initial values. UserError if it can't be had."""
    options = recipe.model
    start = options.ckpt_path or options.pretrained
    return read_named(start, network_info(options.model).name, take_of(recipe)) if start else None


def take_of(recipe: Recipe) -> Optional[str]:
    """Which set of the weights in ckpt_path or pretrained is wanted.

    A recipe's `take` belongs to its own file, not to one that the command line names.
    """
    of_another = recipe.model.ckpt_path and recipe.origins["ckpt_path"] == COMMAND_LINE != recipe.origins["take"]
    return None if of_another else recipe.model.take


def step_options(ctx: RunContext) -> StepOptions:
    """What a recipe means for the compiled step."""
    recipe, half = ctx.recipe, ctx.device.half
    optim, precision = recipe.optim, recipe.precision
    scaled = precision.loss_scale_type != "auto" or (half == ms.float16 and ctx.device.amp_level != "O0")
    return StepOptions(
        opt=optim.opt,
        betas=optim.betas,
        eps=optim.eps,
        momentum=optim.momentum,
        alpha=optim.alpha,
        nesterov=optim.use_nesterov,
        weight_decay=optim.weight_decay,
        clip_norm=optim.clip_value if optim.clip_grad else 0.0,
        ema_decay=optim.ema_decay if optim.ema else 0.0,
        loss_scale=precision.loss_scale if scaled else 0.0,
        dynamic_scale=scaled and precision.loss_scale_type != "fixed",
        accum_steps=optim.gradient_accumulation_steps,
        skip_nonfinite=precision.skip_nonfinite > 0,
        ranks=ctx.device.ranks,
        fp16_saturates=ctx.device.saturates,
    )


def train_step(net: nn.Cell, ctx: RunContext, task: Task) -> TrainStep:
    """The recipe's step, with the task's objective, and the network in training mode, what is frozen apart.

    UserError if more is to be frozen than there is, or if the network can't be recomputed.
    """
    recipe, optim = ctx.recipe, ctx.recipe.optim
    if recipe.runtime.recompute:
        set_recompute(net)
    scales = layer_lr_scales([item.name for item in net.trainable_params()], optim.layer_decay)
    lr_scales = {item.name: scale for item, scale in zip(net.trainable_params(), scales)}
    try:
        frozen = freeze(net, optim.freeze)
    except UserError as error:
        raise UserError(f"{recipe.origins['freeze']}: {error}") from None
    set_train(net, frozen)
    weights = net.trainable_params()
    mask = [is_decayed(item.name, item.ndim, optim.weight_decay_filter, net.no_weight_decay()) for item in weights]
    scales = [lr_scales[item.name] for item in weights]
    return TrainStep(task.objective(net, ctx), net, mask, step_options(ctx), scales, frozen)


def frozen_lines(recipe: Recipe, net: nn.Cell, params: int) -> list[str]:
    """What a run says of what it leaves untrained, once its step is made. params: of the whole network."""
    what, options = recipe.optim.freeze, recipe.model
    if what is None:
        return []
    trained = sum(item.size for item in net.trainable_params())
    lines = [f"freeze: {what}: {trained / 1e6:.4g} of {params / 1e6:.4g} M parameters are trained"]
    if not (options.ckpt_path or options.pretrained or options.backbone_weights):
        lines.append("WARNING: what is frozen has initial values: no weights to start from are given (pretrained)")
    return lines
