"""Teachers."""

from __future__ import annotations

import dataclasses
from typing import Optional

import mindspore as ms
from mindspore import nn

from mindvit.data.classes import imagenet, is_ambiguous
from mindvit.errors import UserError
from mindvit.layers.precision import set_precision
from mindvit.models import create_model, mindcv, model_info
from mindvit.recipe.options import DistillOptions
from mindvit.runtime import console
from mindvit.tasks.base import RunContext
from mindvit.weights import Report, WeightsError, load_weights
from mindvit.weights.checkpoint_info import CheckpointInfo
from mindvit.weights.readers import STATE, WeightsFile, read

NO_OPERATORS = ("CPU", ms.bfloat16)  # MindSpore's own have none there


def freeze(net: nn.Cell) -> nn.Cell:
    """Make a network a teacher: evaluation mode, nothing to train, and parameter names that no student has (ranks and
    files know a parameter by its name).
    """
    for parameter in net.get_parameters():
        parameter.requires_grad = False
        parameter.name = f"{STATE}teacher.{parameter.name}"
    return net.set_train(False)


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


def build_teacher(ctx: RunContext) -> Optional[nn.Cell]:
    """The recipe's teacher with its weights, frozen, in the student's precision; None without distillation.

    Every rank reads the same file. mindcv's networks have MindSpore's own mixed precision: its O2 (all but norms) for
    any level but O0, since its O1 rewrites a network's source, which fails on some of them and changes nothing in
    others.
    """
    options, chosen = ctx.recipe.distill, ctx.device
    if options.distill_type == "none":
        return None
    check_teacher(options)
    name, path = str(options.teacher), str(options.teacher_ckpt_path)
    foreign = name.startswith(mindcv.THEIRS)
    content = read(path, options.teacher_take)
    _check_order(path, CheckpointInfo.of(content).class_names, ctx)
    built_for = None if foreign else CheckpointInfo.of(content).img_size  # a teacher knows its own size
    net = create_model(name, ctx.num_classes, ctx.recipe.model.in_channels, None if foreign else 0.0, built_for)
    try:
        report = _load_foreign(net, content) if foreign else load_weights(net, content)
    except WeightsError as error:
        raise UserError(
            f"teacher_ckpt_path {path} doesn't fit {name} with the student's {ctx.num_classes} classes: {error.report}"
        ) from None
    if chosen.is_main:
        console.log_info(
            f"teacher: {name}, {sum(item.size for item in net.trainable_params()) / 1e6:.2f} M parameters, weights "
            f"from {path}: {report}"
        )
    if not foreign:
        try:
            net.check_size(ctx.preprocessing.size, ctx.preprocessing.size)
        except UserError as error:
            raise UserError(f"the teacher {name} can't take the student's images: {error}") from None
        set_precision(net, chosen.amp_level, chosen.half)
    elif chosen.amp_level != "O0" and chosen.half is not None and (chosen.target, chosen.half) != NO_OPERATORS:
        net = ms.amp.auto_mixed_precision(net, "O2", chosen.half)
    return freeze(net)


def _check_order(path: str, theirs: tuple[str, ...], ctx: RunContext) -> None:
    """UserError unless the teacher's classes are known to have the order of the student's."""
    ours, ask = ctx.class_names, "say the teacher's order with --classes FILE, a class folder a line"
    if theirs and ours and theirs != ours:
        pairs = enumerate(zip(theirs, ours))
        which = next(
            (f"class {number} is {there} there and {here} here" for number, (there, here) in pairs if there != here), ""
        )
        differ = which or f"{len(theirs)} there and {len(ours)} here"
        raise UserError(
            f"teacher_ckpt_path {path} has other classes than the student, or another order of them ({differ}): {ask}"
        )
    if theirs or not ours or ctx.recipe.data.classes or ours == imagenet().columns[0]:
        return
    if len(ours) < ctx.num_classes or is_ambiguous(ours):
        raise UserError(
            f"teacher_ckpt_path {path} doesn't name its {ctx.num_classes} classes, and the {len(ours)} class "
            "folders "
            f"don't say their order: {ask}"
        )


def _load_foreign(net: nn.Cell, content: WeightsFile) -> Report:
    """Load all of a mindcv network's weights; what else its checkpoint holds is told as of no use."""
    names = {item.name for item in net.get_parameters()}
    own = {name: value for name, value in content.arrays.items() if name in names}
    report = load_weights(net, dataclasses.replace(content, arrays=own))
    report.unused = sorted(set(content.arrays) - names)
    return report
