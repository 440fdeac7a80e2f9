"""Validation within a run: of the weights, and of their moving average."""

from __future__ import annotations

from typing import Any, Callable, Optional, Sequence

from mindspore import nn

from mindvit.data.datasets.base import Dataset
from mindvit.engine.evaluate import evaluate
from mindvit.engine.state import TrainState, leading
from mindvit.engine.update import WeightUpdate
from mindvit.tasks.base import Example, RunContext, Task
from mindvit.weights.sets import EMA, MODEL

Scores = tuple[Any, Optional[Any]]  # of the weights and, with ema, of their moving average


class Validator:
    """Measures a run's network on `dataset`. update: the part of the run's step that has the moving average."""

    def __init__(
        self, task: Task, ctx: RunContext, net: nn.Cell, dataset: Dataset, update: WeightUpdate, state: TrainState
    ):
        self.task, self.ctx, self.net, self.dataset, self.update, self.state = task, ctx, net, dataset, update, state
        self.step = task.predict(net, ctx)
        self.examples: Sequence[Example] = ()  # of the last pass

    def is_due(self, epoch: int) -> bool:
        """Whether the run validates after that many epochs."""
        log = self.ctx.recipe.log
        usual = log.val_while_train and epoch > 0 and epoch % log.val_interval == 0
        return usual or epoch >= self.state.epochs

    def measure(self, after_batch: Optional[Callable[[], None]] = None) -> Scores:
        """Both scores; which is better is noted in the run's state. `after_batch` may raise."""
        score = self._pass("validating", after_batch)
        if not self.ctx.recipe.optim.ema:
            return score, None
        self.update.swap_ema()
        average = self._pass("validating the moving average", after_batch)
        self.update.swap_ema()
        self.state.best_weights = EMA if leading(score, average) is average else MODEL
        return score, average

    def _pass(self, what: str, after_batch: Optional[Callable[[], None]]) -> Any:
        evaluator = self.task.evaluator(self.ctx, self.dataset)
        score = evaluate(self.net, self.step, evaluator, self.ctx, what, after_batch)
        self.examples = evaluator.examples
        return score
