"""Accuracy over every validation picture, each counted once."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Optional

import numpy as np
from mindspore import Tensor, nn

from mindvit import log, parallel
from mindvit.checkpoint import average_of
from mindvit.commandline import COMMAND_LINE
from mindvit.data.pipeline import eval_batches, eval_steps
from mindvit.data.sources import Source, open_source
from mindvit.errors import UserError
from mindvit.layers.basic import set_precision
from mindvit.models import model_info
from mindvit.predictions import Predictions
from mindvit.recipe import FIELDS, Recipe
from mindvit.setting import Setting, build, prepare
from mindvit.step import EvalStep
from mindvit.weights.readers import read


@dataclass(frozen=True)
class Score:
    """Evaluation over `count` pictures: how many have their class first and among the first five, and the mean loss."""

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


def evaluate(net: nn.Cell, step: EvalStep, source: Source, setting: Setting, predictions: Optional[Predictions] = None,
             what: str = "validating",
             between: Optional[Callable[[], None]] = None) -> Score:
    """Every picture of `source` once, whatever the batch and the number of ranks; each is added to `predictions`, where
    given.

    The main rank shows how far it is, as `what`; `between` is called after each batch, and may raise.
    """
    recipe, chosen = setting.recipe, setting.device
    net.set_train(False)
    correct1 = correct5 = count = 0
    loss = 0.0
    batches = eval_batches(source, batch_size=recipe.data.batch_size, size=setting.size, crop_pct=setting.preprocessing.crop_pct,
                           interpolation=setting.interpolation, squeeze=setting.info.squeeze, ranks=chosen.ranks, rank=chosen.rank, workers=setting.workers)
    total = eval_steps(len(source), recipe.data.batch_size, chosen.ranks)
    shown = log.validating(batches, total, recipe.data.batch_size * chosen.ranks, what, recipe.log.log_interval,
                           chosen.is_main)
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
    correct1, correct5, count, loss = parallel.total((correct1, correct5, count, loss), chosen.ranks)
    return Score(int(correct1), int(correct5), int(count), float(loss / max(count, 1)))


def as_trained(recipe: Recipe, path: str, meta: Mapping[str, Any]) -> Recipe:
    """`recipe`, which names no network, with the network and the preprocessing that a checkpoint of ours was trained with."""
    if not meta:
        raise UserError(f"{path} doesn't say which network it belongs to: --model NAME, or -c RECIPE (all names: mindvit.list_models())")
    stored = meta.get("recipe", {"model": meta["model"]})  # a converted file knows its network alone
    told = {key: value for key, value in stored.items() if key in FIELDS and recipe.origins[key] == "default"}
    kept = {key: value for key, value in told.items() if FIELDS[key][0] in ("augment", "model") or key == "dataset"}
    return recipe.replace(path, **{key: value for key, value in kept.items() if key not in ("pretrained", "ckpt_path", "new_head", "take")})


def validate(recipe: Recipe, predictions: Optional[str] = None) -> Score:
    """Accuracy of recipe.model.ckpt_path on the validation pictures, printed and returned.

    predictions: a CSV file for what the network says of every picture. `ema`, said on the command line and not in a recipe's file,
    means the moving average of the weights.
    """
    average = recipe.optim.ema and recipe.origins["ema"] == COMMAND_LINE
    path = recipe.model.ckpt_path
    if not path:
        raise UserError("validate.py needs the weights to measure: --ckpt_path FILE")
    content = read(path, recipe.model.take)
    meta = content.meta
    if recipe.origins.get("model", "default") == "default":
        recipe = as_trained(recipe, path, meta)
    if meta and model_info(recipe.model.model).name != meta["model"]:
        raise UserError(f"{path} is a checkpoint of {meta['model']}, but the recipe's model is {recipe.model.model}")
    source = open_source(recipe.data, "val", tuple(meta["class_names"]) if "class_names" in meta else None)
    setting = prepare(recipe, source)
    net = build(setting, weights=average_of(content) if average else content)
    set_precision(net, setting.device.val_amp_level, setting.device.half)
    lines = Predictions(predictions, source, setting.device.ranks, setting.device.rank) if predictions else None
    start = time.perf_counter()
    score = evaluate(net, EvalStep(net, *setting.statistics), source, setting, lines)
    if lines:
        lines.write()
    if setting.device.is_main:
        name = setting.info.name + " (moving average)" * average
        log.say(f"{name}  {score}  {score.count / (time.perf_counter() - start):.1f} img/s, compiling included")
    return score
