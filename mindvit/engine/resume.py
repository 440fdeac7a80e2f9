"""Runs that continue: which checkpoint, whether it is this run's, and what is different since."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Optional

from mindvit.engine import checkpoint
from mindvit.engine.state import Best, DataState, EpochStats, TrainState, global_batch_of
from mindvit.errors import UserError
from mindvit.recipe.schema import FIELDS
from mindvit.tasks.base import RunContext, Say, Task
from mindvit.weights.sets import MODEL


@dataclass(frozen=True)
class Resume:
    """What a run compares with a checkpoint. val_count: today's validation images."""

    task: Task
    ctx: RunContext
    data: DataState
    val_count: int
    say: Say

    def find(self, folder: Path) -> Optional[checkpoint.Found]:
        """The checkpoint that the recipe says to resume: the newest in the run's `folder`, a file, or none.

        UserError if it is another run's.
        """
        wanted = self.ctx.recipe.checkpoint.resume
        if wanted == "none":
            return None
        found = (
            checkpoint.newest(folder, self.ctx.recipe.model.model, self.say)
            if wanted == "auto"
            else checkpoint.of_file(wanted)
        )
        if found is None:
            return None
        path, _, meta = found
        if meta["model"] != self.ctx.info.name:
            raise UserError(
                f"{path} is a checkpoint of {meta['model']}, but the recipe's model is {self.ctx.info.name} "
                "(--resume none starts anew)"
            )
        if meta["data"] != self.data.train:
            raise UserError(
                f"the training images are not those that {path} was trained with: another number, other names or "
                "other classes "
                f"(--resume none starts anew; --ckpt_path {path} takes its weights alone)"
            )
        return found

    def is_finished(self, meta: Mapping[str, Any]) -> bool:
        """Whether a checkpoint is the end of a run as long, or as patient, as this one, and is validated."""
        epochs, inside = divmod(meta["step"], meta["steps"])
        over = epochs >= self.ctx.recipe.schedule.epoch_size or self.is_stale(meta)
        return not inside and over and meta.get("score") is not None

    def is_stale(self, meta: Mapping[str, Any]) -> bool:
        """Whether a checkpoint's best score, of today's images, is as many epochs old as the recipe's patience."""
        patience, best = self.ctx.recipe.schedule.patience, Best.of_meta(meta, self.val_count)
        same = best is not None and best.data in ("", self.data.val)
        return bool(patience and best and same and meta["step"] // meta["steps"] - best.epoch >= patience)

    def continue_from(self, found: checkpoint.Found, state: TrainState) -> None:
        """Give `state` what a checkpoint knows, and say so. UserError if it doesn't fit."""
        path, _, meta = found
        state.global_step, state.stats, state.checkpoint = meta["step"], EpochStats(**meta["tally"]), path
        state.best_weights = meta.get("best_weights", MODEL)
        before = global_batch_of(meta)
        if before != state.global_batch:  # another batch over all ranks: its steps can't be counted in the old ones
            if meta["step"] % meta["steps"]:
                raise UserError(
                    f"{path} was saved within an epoch with {before} images a step, and there are "
                    f"{state.global_batch} now: continue "
                    f"with as many, or from an epoch's checkpoint, --resume FILE"
                )
            state.global_step = meta["step"] // meta["steps"] * state.steps
        state.saved_step, state.best = state.global_step, self._best(meta)
        state.epoch_end = meta.get("epoch_end") or {}
        if state.step_in_epoch and state.epoch >= state.epochs:
            raise UserError(
                f"{path} was saved within epoch {state.epoch + 1}, but epoch_size is {state.epochs}: "
                f"give a larger one, or resume from an epoch's checkpoint, --resume FILE"
            )
        changed = ", ".join(self.changed(meta))
        self.say(
            f"resuming from {path}: epoch {state.epoch}, step {state.step_in_epoch} of {state.steps}"
            + (f"; other values than there: {changed}" if changed else "")
        )

    def changed(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """The keys that matter and have another value than a checkpoint's recipe, with the value there."""
        there = meta["recipe"]
        # an earlier mindvit left sizes open; that the tensors fit says that they are the same
        open_then = there.get("image_resize") in (None, self.ctx.inputs.size)
        sizes = ("image_resize", "img_size") if open_then else ()
        return {
            key: there.get(key)
            for key, value in self.ctx.recipe.affecting_result().items()
            if key not in sizes
            # as JSON gives it back; what an earlier version had no key for it did by the default
            and _as_json(value) != there.get(key, _as_json(FIELDS[key][1].default))
        }

    def _best(self, meta: Mapping[str, Any]) -> Optional[Best]:
        """The best score of a checkpoint; none, with a line, if it was measured on other images than today's."""
        best = Best.of_meta(meta, self.val_count)
        if best is None or (best.count == self.val_count and best.data in ("", self.data.val)):
            return best
        told = self.task.metrics[0].text(best.value)
        self.say(
            f"the best score so far, {told} of {best.count} validation images, was measured on others "
            f"than the {self.val_count} of now: the best starts anew"
        )
        return None


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
