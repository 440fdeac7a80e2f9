"""Where a run is: what a checkpoint says beside its tensors."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Mapping, Optional

import mindspore as ms
import numpy as np

from mindvit.tasks.base import RunContext, Score
from mindvit.version import __version__
from mindvit.weights.sets import MODEL

RECENT = 20  # steps


@dataclass(frozen=True)
class Best:
    """The best score of a run so far: `value`, the task's primary metric on `count` validation images, after `epoch`
    epochs; data: the images' fingerprint; loss: on them, None where none is measured.
    """

    value: float
    count: int
    epoch: int
    data: str
    loss: Optional[float] = None

    @classmethod
    def of(cls, score: Score, epoch: int, data: str) -> Best:
        """A score that was measured after `epoch` epochs."""
        return cls(score.primary, score.count, epoch, data, score.metrics().get("loss"))

    @classmethod
    def of_meta(cls, meta: Mapping[str, Any], count: int) -> Optional[Best]:
        """The best score that a checkpoint tells of; `count`: today's validation images.

        Earlier versions kept how many answers were right: of how many images too or, before that, no more, -1 for
        none: of as many as its own score has or, without one, of `count`.
        """
        best = meta["best"]
        if isinstance(best, Mapping) and "correct" in best:
            return cls(100 * best["correct"] / best["count"], best["count"], best["epoch"], best["data"])
        if isinstance(best, Mapping):
            return cls(**best)
        known = (meta.get("score") or {}).get("count", count)
        return cls(100 * best / known, known, 0, "") if best is not None and 0 <= best <= known else None

    def is_beaten_by(self, score: Score) -> bool:
        """Whether `score` is better: a few validation images are soon all right, and the loss still falls."""
        loss = score.metrics().get("loss")
        if score.primary != self.value or loss is None or self.loss is None:
            return score.primary > self.value
        return loss < self.loss


def leading(score: Any, average: Optional[Any]) -> Any:
    """The better one of a validation's scores, of the weights and of their moving average."""
    return average if average is not None and Best.of(score, 0, "").is_beaten_by(average) else score


@dataclass
class EpochStats:
    """The losses of an epoch so far, and the steps that were skipped because something was not finite."""

    loss: float = 0.0
    counted: int = 0
    skipped: int = 0
    bad_in_a_row: int = 0
    newest: list[float] = field(default_factory=list)

    def add(self, loss: float, finite: bool) -> None:
        """One more step."""
        if not finite:
            self.skipped += 1
            return
        self.loss, self.counted, self.bad_in_a_row = self.loss + loss, self.counted + 1, 0
        self.newest = [*self.newest[1 - RECENT :], loss]

    @property
    def recent(self) -> float:
        """Mean of the last RECENT losses of the epoch."""
        return float(np.mean(self.newest)) if self.newest else math.nan

    def close(self) -> float:
        """The epoch's mean loss; the next one begins."""
        mean = self.loss / self.counted if self.counted else math.nan
        self.loss, self.counted, self.newest = 0.0, 0, []
        return mean


@dataclass
class TrainState:
    """Where a run is. steps: of an epoch; global_batch: images of a step over all ranks.

    epoch_end: mean loss of the last epoch, and the figures of its last step; best_weights: which set scored better in
    the last validation; saved_step: the last checkpoint's; checkpoint: its file; validation_due: a validation that was
    due before the run was cut off.
    """

    steps: int
    epochs: int
    global_batch: int
    global_step: int = 0
    stats: EpochStats = field(default_factory=EpochStats)
    epoch_end: dict[str, float] = field(default_factory=dict)
    best: Optional[Best] = None
    best_weights: str = MODEL
    saved_step: int = -1
    checkpoint: Optional[Path] = None
    validation_due: bool = False

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return self.global_step // self.steps

    @property
    def step_in_epoch(self) -> int:
        """Steps of the present epoch that are done."""
        return self.global_step % self.steps

    def is_stale(self, patience: Optional[int]) -> bool:
        """Whether the best score, at a validation, is `patience` epochs old."""
        return bool(patience and self.best and self.epoch - self.best.epoch >= patience)

    @property
    def total_steps(self) -> int:
        """Of the whole run."""
        return self.steps * self.epochs


@dataclass(frozen=True)
class DataState:
    """What a checkpoint says of the data: class names and the fingerprints of both splits."""

    class_names: tuple[str, ...]
    train: str
    val: str


@dataclass(frozen=True)
class CheckpointMeta:
    """What a checkpoint says beside its tensors, in its file's words: step, steps (of an epoch), global_batch, the
    scores of its weights (None: not yet validated), epoch_end (None within an epoch), and the whole recipe.
    """

    model: str
    num_classes: int
    class_names: list[str]
    epoch: int
    step: int
    steps: int
    global_batch: int
    best: Optional[dict[str, Any]]
    tally: dict[str, Any]
    data: str
    val_data: str
    score: Optional[dict[str, Any]]
    ema_score: Optional[dict[str, Any]]
    best_weights: str
    epoch_end: Optional[dict[str, float]]
    recipe: dict[str, Any]
    mindvit: str = __version__
    mindspore: str = ms.__version__

    @classmethod
    def of(
        cls, ctx: RunContext, state: TrainState, data: DataState, scores: tuple[Optional[Score], Optional[Score]]
    ) -> CheckpointMeta:
        """Of a run as it is now; `scores`: of the weights and of their moving average, once they are measured."""
        score, average = ((asdict(item) if item else None) for item in scores)  # type: ignore[call-overload]
        return cls(
            model=ctx.info.name,
            num_classes=ctx.num_classes,
            class_names=list(data.class_names),
            epoch=state.epoch,
            step=state.global_step,
            steps=state.steps,
            global_batch=state.global_batch,
            best=asdict(state.best) if state.best else None,
            tally=asdict(state.stats),
            data=data.train,
            val_data=data.val,
            score=score,
            ema_score=average,
            best_weights=state.best_weights,
            epoch_end=None if state.step_in_epoch else state.epoch_end,
            recipe=ctx.recipe.flat(),
        )

    def as_dict(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self)


def global_batch_of(meta: Mapping[str, Any]) -> int:
    """Images of a step over all ranks in a checkpoint; earlier versions called them `pictures`."""
    return int(meta["global_batch"] if "global_batch" in meta else meta["pictures"])
