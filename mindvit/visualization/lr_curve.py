"""The learning rate that a recipe means, step by step, before anything is trained."""

from __future__ import annotations

from pathlib import Path

from mindvit.errors import UserError
from mindvit.optim.schedule import learning_rate, schedule_lines
from mindvit.recipe.schema import Recipe
from mindvit.runtime.files import atomic_write
from mindvit.visualization.charts import Chart, draw
from mindvit.visualization.run_files import Run

MOST_POINTS = 4000  # of a curve: more than it has pixels


def lr_curve(recipe: Recipe, images: int, ranks: int = 1) -> Run:
    """The rate of every step (of long runs of every so many) that `images` training images and `ranks` devices make,
    as a run's log has it.

    UserError if the images don't fill a step.
    """
    data, schedule = recipe.data, recipe.schedule
    global_batch = data.batch_size * ranks * recipe.optim.gradient_accumulation_steps
    per_epoch = schedule.epoch_steps or images // global_batch
    if not per_epoch:
        raise UserError(f"{images} training images don't fill a step of {global_batch}: a smaller batch_size")
    total = per_epoch * schedule.epoch_size
    steps = [*range(0, total, -(-total // MOST_POINTS)), total - 1]
    rates = [
        learning_rate(step, schedule=schedule, steps_per_epoch=per_epoch, global_batch=global_batch) for step in steps
    ]
    return Run("recipe", {"step": steps, "lr": rates})


def write_lr_curve(file: Path, recipe: Recipe, images: int, ranks: int = 1) -> list[str]:
    """Draw the curve as PNG; lines that say what it shows. UserError without matplotlib, or where it can't be
    written.
    """
    run = lr_curve(recipe, images, ranks)
    picture = draw(Chart("lr", "Learning rate", "", {"lr": ""}), [run], "step")
    if picture is None:
        raise UserError("there is no curve to draw")
    try:
        with atomic_write(file) as unfinished:
            unfinished.write_bytes(picture)
    except OSError as error:
        raise UserError(f"--lr_plot {file} can't be written: {error.strerror}") from None
    steps, global_batch = int(run.columns["step"][-1]) + 1, recipe.data.batch_size * ranks
    global_batch *= recipe.optim.gradient_accumulation_steps
    per_epoch = steps // recipe.schedule.epoch_size
    return [
        f"{recipe.schedule.epoch_size} epochs of {per_epoch} steps, {steps} in all: {images} images, batch "
        f"{global_batch} over {ranks} device{'s' * (ranks > 1)}",
        *schedule_lines(recipe.schedule, global_batch),
        str(file),
    ]
