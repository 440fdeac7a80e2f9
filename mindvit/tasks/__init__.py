"""The tasks that networks are trained for, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mindvit.recipe.schema import Recipe
    from mindvit.tasks.base import Task


def task_of(recipe: Recipe) -> Task:
    """The task of a recipe's network; UserError for a network that nobody knows."""
    from mindvit.models import network_info
    from mindvit.tasks.classification.task import ClassificationTask
    from mindvit.tasks.detection.task import DetectionTask
    from mindvit.tasks.segmentation.task import SegmentationTask

    tasks: dict[str, type[Task]] = {
        "classification": ClassificationTask,
        "segmentation": SegmentationTask,
        "detection": DetectionTask,
    }
    return tasks[network_info(recipe.model.model).task]()
