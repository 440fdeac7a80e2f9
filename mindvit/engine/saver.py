"""When a run is saved, and what becomes of one that can't be."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Optional

from mindspore import Parameter

from mindvit.engine.checkpoint import CheckpointManager, NotSaved
from mindvit.engine.state import CheckpointMeta, DataState, TrainState
from mindvit.engine.stop import Interrupted
from mindvit.tasks.base import RunContext, Say, Score


class Saver:
    """Saves on the main rank, and notes in the run's state what is saved. parameters: everything that a run changes."""

    def __init__(
        self, ctx: RunContext, state: TrainState, data: DataState, parameters: Callable[[], list[Parameter]], say: Say
    ):
        self.ctx, self.state, self.data, self.parameters, self.say = ctx, state, data, parameters, say
        options = ctx.recipe.checkpoint
        self.checkpoints = CheckpointManager(
            Path(options.ckpt_save_dir), ctx.recipe.model.model, options.keep_checkpoint_max
        )

    def meta(self, scores: tuple[Optional[Score], Optional[Score]] = (None, None)) -> dict[str, Any]:
        """What a checkpoint says beside its tensors; `scores` once its weights are validated."""
        return CheckpointMeta.of(self.ctx, self.state, self.data, scores).as_dict()

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint follows on that step, wherever in an epoch it is."""
        every = self.ctx.recipe.checkpoint.ckpt_save_steps
        return every is not None and every > 0 and step % every == 0

    def after_step(self, stopping: bool) -> None:
        """A checkpoint within an epoch, if one is due or the run is stopping."""
        if stopping or self.is_due(self.state.global_step):
            self._try(lambda: self.checkpoints.save_mid_epoch(self.parameters(), self.meta()), stopping)

    def after_epoch(self, epoch: int, validates: bool, stopping: bool) -> None:
        """A checkpoint before the validation, which may meet anything."""
        last = epoch == self.state.epochs
        if last or epoch % self.ctx.recipe.checkpoint.ckpt_save_interval == 0:
            self._try(lambda: self.checkpoints.save(epoch, self.parameters(), self.meta()), last or stopping)
        elif stopping or validates:
            self._try(lambda: self.checkpoints.save_mid_epoch(self.parameters(), self.meta()), stopping)

    def after_validation(self, epoch: int, scores: tuple[Optional[Score], Optional[Score]], better: bool) -> None:
        """The checkpoint with its scores, if they are the best or the last."""
        last = epoch >= self.state.epochs or self.state.is_stale(self.ctx.recipe.schedule.patience)
        if better or last:
            save = self.checkpoints.save_best if better else self.checkpoints.save
            self._try(lambda: save(epoch, self.parameters(), self.meta(scores)), False)

    def interrupted(self, number: int, moment: str) -> Interrupted:
        """The end of a run that the signal `number` has asked to stop and that is saved."""
        path = self.state.checkpoint or self.checkpoints.mid_epoch
        return Interrupted(number, moment, path, self.ctx.recipe.checkpoint.resume)

    def _try(self, write: Callable[[], Path], needed: bool) -> None:
        """A checkpoint, if it can be written; a run that isn't at its end continues without it, loudly."""
        if not self.ctx.device.is_main:
            return
        try:
            self.state.checkpoint = write()
            self.state.saved_step = self.state.global_step
        except NotSaved as error:
            if needed:
                raise
            where = self.state.checkpoint or "the beginning"
            self.say(f"WARNING: {error}; the run continues, and would resume from {where}")
