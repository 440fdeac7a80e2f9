"""Scenes of handwritten digits with boxes and masks: for detectors."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from mindvit.data.datasets.base import Sample
from mindvit.data.datasets.scenes import Scene, ScenesDataset
from mindvit.data.objects import Objects


class SceneObjects(ScenesDataset):
    """Scenes with their objects, of ten classes."""

    def __init__(self, split: str) -> None:
        super().__init__(split)
        self.class_names = self.class_names[1:]  # the ground is no object

    def target(self, index: int) -> Any:
        """What is to be found."""
        return objects_of(self.draw(index)[1])

    def __getitem__(self, index: int) -> Sample:
        pixels, scene = self.draw(index)
        return Sample(Image.fromarray(pixels), objects_of(scene))


def objects_of(scene: Scene) -> Objects:
    """A scene's digits."""
    count = len(scene.classes)
    return Objects(scene.boxes, (scene.classes - 1).astype(np.int32), scene.masks, np.zeros(count, bool))
