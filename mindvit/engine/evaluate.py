"""Accuracy over every validation image, each counted once."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Optional

import numpy as np
from mindspore import Tensor, nn

from mindvit.data.classes import Head, open_ordered
from mindvit.data.loader import eval_batches, eval_steps
from mindvit.data.sources import Source, passed_over
from mindvit.engine.setup import Setting, build, prepare, sized, take_of
from mindvit.errors import UserError
from mindvit.layers.precision import set_precision
from mindvit.recipe.commandline import COMMAND_LINE
from mindvit.recipe.schema import Recipe
from mindvit.runtime import console, distributed
from mindvit.tasks.classification.metrics import EvalStep
from mindvit.tasks.classification.predictions import Predictions
from mindvit.weights.checkpoint_info import CheckpointInfo
from mindvit.weights.readers import read
from mindvit.weights.sets import AVERAGES, EMA, MODEL


@dataclass(frozen=True)
class Score:
    """Evaluation over `count` images: how many have their class first and among the first five, and the mean loss."""

    correct1: int
    correct5: int
    count: int
    loss: float

    @property
    def top1(self) -> float:
        """Per cent."""
        return 100 * self.correct1 / self.count

    @property
    def top5(self) -> float:
        """Per cent."""
        return 100 * self.correct5 / self.count

    def is_guessing(self, classes: int, commonest: int) -> bool:
        """Whether top-1 is no more than naming the class of the `commonest` images every time, or drawing one of
        `classes` classes, would give.

        Where there is one class, guessing is right every time and nothing can be told.
        """
        chance = 1 / classes
        # images of one class only: naming it would be right every time
        always = commonest if commonest < self.count else 0
        drawn = self.count * chance + math.sqrt(self.count * chance * (1 - chance))
        return classes > 1 and self.correct1 <= max(always, drawn)

    def __str__(self) -> str:
        return f"top-1 {self.top1:.2f} % ({self.correct1}/{self.count})  top-5 {self.top5:.2f} %  loss {self.loss:.4f}"


@dataclass(frozen=True)
class Best:
    """The best score of a run so far: `correct` of `count` validation images, after `epoch` epochs; data: the images'
    fingerprint.
    """

    correct: int
    count: int
    epoch: int
    data: str

    @property
    def top1(self) -> float:
        """Per cent."""
        return 100 * self.correct / self.count

    def is_beaten_by(self, score: Score) -> bool:
        """Whether a larger share of the images is right in `score`."""
        return score.correct1 * self.count > self.correct * score.count


def best_of(meta: Mapping[str, Any], count: int) -> Optional[Best]:
    """The best score that a checkpoint's `meta` tells of.

    Earlier versions kept no more than how many answers were right, -1 for none: of as many images as its own score has
    or, without one, of `count`.
    """
    best = meta["best"]
    if isinstance(best, Mapping):
        return Best(**best)
    known = (meta.get("score") or {}).get("count", count)
    return Best(best, known, 0, "") if best is not None and 0 <= best <= known else None


def evaluate(
    net: nn.Cell,
    step: EvalStep,
    source: Source,
    setting: Setting,
    predictions: Optional[Predictions] = None,
    what: str = "validating",
    between: Optional[Callable[[], None]] = None,
) -> Score:
    """Every image of `source` once, whatever the batch and the number of ranks; each is added to `predictions`, where
    given.

    The main rank shows how far it is, as `what`; `between` is called after each batch, and may raise.
    """
    recipe, chosen = setting.recipe, setting.device
    net.set_train(False)
    correct1 = correct5 = count = 0
    loss = 0.0
    batches = eval_batches(
        source,
        batch_size=recipe.data.batch_size,
        size=setting.size,
        crop_pct=setting.preprocessing.crop_pct,
        interpolation=setting.interpolation,
        squeeze=setting.info.squeeze,
        ranks=chosen.ranks,
        rank=chosen.rank,
        workers=setting.workers,
    )
    total = eval_steps(len(source), recipe.data.batch_size, chosen.ranks)
    shown = console.validating(
        batches, total, recipe.data.batch_size * chosen.ranks, what, recipe.log.log_interval, chosen.is_main
    )
    for images, labels in shown:
        outputs = step(Tensor(images), Tensor(labels))
        ranks, losses = (output.asnumpy() for output in outputs[:2])
        if predictions:
            predictions.add(outputs[2].asnumpy(), losses)
        real = ranks >= 0
        count += int(real.sum())
        correct1 += int((real & (ranks < 1)).sum())
        correct5 += int((real & (ranks < 5)).sum())
        loss += float(losses.sum(dtype=np.float64))
        if between is not None:
            between()
    correct1, correct5, count, loss = distributed.total((correct1, correct5, count, loss), chosen.ranks)
    return Score(int(correct1), int(correct5), int(count), float(loss / max(count, 1)))


def asked_for(recipe: Recipe) -> Optional[str]:
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


def validate(recipe: Recipe, predictions: Optional[str] = None) -> Score:
    """Accuracy of recipe.model.ckpt_path on the validation images, printed and returned.

    predictions: a CSV file for what the network says of every image. Of a file with several sets of weights
    recipe.model.take says which are measured, by default those that scored better in the last validation.
    """
    path = recipe.model.ckpt_path
    if not path:
        raise UserError("validate.py needs the weights to measure: --ckpt_path FILE")
    content = read(path, asked_for(recipe))
    told = CheckpointInfo.of(content)
    recipe = told.fill(recipe).replace(path, new_head=False)  # a recipe means the weights that its training starts from
    recipe = sized(recipe, path)
    remarks: list[str] = []
    source = open_ordered(recipe.data, "val", Head(path, told.num_classes, told.class_names), remarks.append)
    setting = prepare(recipe, source)
    if setting.device.is_main:
        place = f" in {recipe.data.data_dir}" if recipe.data.data_dir else ""
        console.say(
            f"data: {recipe.data.dataset}{place}, {len(source)} validation "
            f"images{passed_over((recipe.data.val_split, source))}"
        )
        for line in remarks:
            console.say(line)
    by_hand = COMMAND_LINE in (
        recipe.origins["image_resize"],
        recipe.origins["img_size"],
    )  # another size than the file's may be meant
    net = build(setting, resize=by_hand, weights=content)
    set_precision(net, setting.device.val_amp_level, setting.device.half)
    lines = Predictions(predictions, source, setting.device.ranks, setting.device.rank) if predictions else None
    start = time.perf_counter()
    try:
        score = evaluate(net, EvalStep(net, *setting.statistics), source, setting, lines)
        if setting.device.is_main:  # before anything is written, which may fail
            name = setting.info.name + " (moving average)" * content.is_average
            console.say(f"{name}  {score}  {score.count / (time.perf_counter() - start):.1f} img/s, compiling included")
        if lines:
            lines.write()
    finally:
        if lines:
            lines.clean()
    return score
