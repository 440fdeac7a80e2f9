"""Evaluation: every image of a data set once, whatever the batch and the number of ranks."""

from __future__ import annotations

import os
import time
from typing import Any, Callable, Optional, Sequence

from mindspore import Tensor, nn

from mindvit.data.datasets.build import passed_over
from mindvit.engine.setup import build, setup, take_of
from mindvit.errors import UserError
from mindvit.hub.resolve import given_file, weights_file
from mindvit.layers.precision import set_precision
from mindvit.models.registry import network_info
from mindvit.recipe.commandline import COMMAND_LINE
from mindvit.recipe.schema import Recipe
from mindvit.runtime import console
from mindvit.tasks import task_of
from mindvit.tasks.base import Evaluator, RunContext, Task
from mindvit.weights.checkpoint_info import CheckpointInfo
from mindvit.weights.readers import read
from mindvit.weights.sets import AVERAGES, EMA, MODEL


def evaluate(
    net: nn.Cell,
    step: Callable[..., Any],
    evaluator: Evaluator,
    ctx: RunContext,
    what: str = "validating",
    after_batch: Optional[Callable[[], None]] = None,
) -> Any:
    """One pass of an evaluator.

    Args:
        net: the network, which is left in evaluation mode.
        step: a task's `predict` over it.
        evaluator: of the same task, new.
        ctx: the run's.
        what: how the main rank calls it where it shows how far it is.
        after_batch: called after each batch; may raise.

    Returns:
        The task's Score over all ranks.
    """
    recipe, chosen = ctx.recipe, ctx.device
    net.set_train(False)
    shown = console.validating(
        evaluator.batches(),
        evaluator.steps,
        evaluator.images_per_batch * chosen.ranks,
        what,
        recipe.log.log_interval,
        chosen.is_main,
    )
    for batch in shown:
        evaluator.update(batch, step(*map(Tensor.from_numpy, batch)))
        if after_batch is not None:
            after_batch()
    return evaluator.compute()


def wanted_set(recipe: Recipe) -> Optional[str]:
    """Which set of a file's weights a command line asks for: --take, or its short forms --ema and --ema False.

    `ema` in a recipe's file says that training keeps an average, and not which weights to measure. UserError if the
    options contradict each other.
    """
    take, short = take_of(recipe), None
    if recipe.origins["ema"] == COMMAND_LINE:
        short = EMA if recipe.optim.ema else MODEL
    if take and short and (short == EMA) != (take in AVERAGES):
        raise UserError(
            f"{COMMAND_LINE}: --ema {recipe.optim.ema} means --take {short}, but --take is {take}: give one of them"
        )
    return take or short


def weights_to_measure(recipe: Recipe) -> str:
    """The file to measure: the one that is given, or the published weights that the command line asks for by name.

    `pretrained` in a recipe's file says what training starts from, and not what to measure. UserError if there is none.
    """
    options = recipe.model
    if options.ckpt_path:
        return given_file(options.ckpt_path)
    if options.pretrained and recipe.origins["pretrained"] == COMMAND_LINE:
        return weights_file(options.pretrained, network_info(options.model).name)
    raise UserError(
        "validate.py needs the weights to measure: --ckpt_path FILE, or --model NAME --pretrained for published ones"
    )


def validate(
    recipe: Recipe,
    predictions: Optional[str] = None,
    out: Optional[str] = None,
    done: Optional[Callable[[Task, Any], None]] = None,
) -> Any:
    """Measure recipe.model.ckpt_path, or published weights, on the validation images.

    Args:
        recipe: what it doesn't say is taken from the file. Of a file with several sets of weights recipe.model.take
            says which are measured, by default those that scored better in the last validation.
        predictions: a file for what the network says of every image.
        out: the same, a folder in which the task names the file.
        done: called on the main rank with the task and the data set, when the predictions are written.

    Returns:
        The score, which is also printed: of a classifier an `Accuracy`.

    Raises:
        UserError: there are no weights, or they don't fit the network or the data.
    """
    path = weights_to_measure(recipe)
    recipe = recipe.replace(recipe.origins["ckpt_path"], ckpt_path=path)
    content = read(path, wanted_set(recipe))
    told = CheckpointInfo.of(content)
    recipe = told.fill(recipe).replace(path, new_head=False)  # a recipe means the weights that its training starts from
    task = task_of(recipe)
    recipe = task.resolve(recipe, path)
    remarks: list[str] = []
    dataset = task.val_dataset(recipe, told, remarks.append)
    ctx = setup(recipe, dataset)
    if ctx.device.is_main:
        _announce(recipe, dataset, remarks)
    # another size than the file's may be meant
    resize = COMMAND_LINE in (recipe.origins["image_resize"], recipe.origins["img_size"])
    net = build(ctx, task, resize=resize, weights=content)
    set_precision(net, ctx.device.val_amp_level, ctx.device.half)
    evaluator = task.evaluator(ctx, dataset, os.path.join(out, task.predictions_file) if out else predictions)
    start = time.perf_counter()
    try:
        score = evaluate(net, task.predict(net, ctx), evaluator, ctx)
        if ctx.device.is_main:  # before anything is written, which may fail
            name = ctx.info.name + " (moving average)" * content.is_average
            _show(name, score, dataset, time.perf_counter() - start)
        evaluator.save_predictions()
        if done is not None and ctx.device.is_main:
            done(task, dataset)
    finally:
        evaluator.close()
    return score


def _announce(recipe: Recipe, dataset: Any, remarks: Sequence[str]) -> None:
    skipped = passed_over((recipe.data.val_split, dataset))
    console.log_info(f"data: {recipe.data.place}, {len(dataset)} validation images{skipped}")
    for line in remarks:
        console.log_info(line)


def _show(name: str, score: Any, dataset: Any, seconds: float) -> None:
    per_class = score.per_class(dataset.class_names)
    if per_class:
        console.log_info(f"\n{console.table(*per_class)}\n")
    console.log_info(f"{name}  {score}  {score.count / seconds:.1f} img/s, compiling included")
