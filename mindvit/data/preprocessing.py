"""How images are prepared for a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from mindvit.data.transforms.image import EvalTransform, EvalViews, TrainTransform
from mindvit.errors import UserError
from mindvit.models import ModelInfo, NetworkInfo
from mindvit.recipe.options import AugmentOptions, Triple


@dataclass(frozen=True)
class Inputs:
    """What every task's networks have: a size and statistics, as a recipe says and, where it says nothing, as the
    network's authors had them.
    """

    info: NetworkInfo
    augment: AugmentOptions

    @property
    def size(self) -> int:
        """Side of the image, px."""
        return self.augment.image_resize or self.info.input_size

    @property
    def statistics(self) -> tuple[Triple, Triple]:
        """Mean and standard deviation of pixels in 0..1."""
        mean, std = self.augment.mean or self.info.mean, self.augment.std or self.info.std
        unit = 255 if max(mean) > 1 or max(std) > 1 else 1  # MindCV's recipes count pixels from 0 to 255
        return (mean[0] / unit, mean[1] / unit, mean[2] / unit), (std[0] / unit, std[1] / unit, std[2] / unit)


@dataclass(frozen=True)
class Preprocessing(Inputs):
    """A classifier's: as a recipe says and, where it says nothing, as the network's authors did."""

    info: ModelInfo

    @property
    def crop_pct(self) -> float:
        """Share of the resized short side that is kept."""
        return self.augment.crop_pct or self.info.crop_pct

    @property
    def interpolation(self) -> str:
        """Resampling of crops and resizes."""
        return self.augment.interpolation or self.info.interpolation

    @property
    def transform(self) -> EvalTransform:
        """From an RGB image to uint8 (size, size, 3), for evaluation."""
        return EvalTransform(self.size, self.crop_pct, self.interpolation, self.info.crop_mode)

    @property
    def views(self) -> Optional[EvalViews]:
        """From an image to the views that evaluation averages; None for one. UserError if there is only one crop."""
        kind, transform = self.augment.tta, self.transform
        if kind == "none":
            return None
        if kind == "five_crops" and (transform.crop_mode == "squash" or int(self.size / self.crop_pct) <= self.size):
            raise UserError(
                f"tta is five_crops, but {self.info.name}'s images are not cropped: --tta flip, or a smaller "
                "crop_pct where images are cropped at all"
            )
        return EvalViews(transform, kind)

    @property
    def train_transform(self) -> TrainTransform:
        """The same with random crops, flips and colours. UserError for a policy that nobody knows."""
        transform = TrainTransform(self.size, self.interpolation, self.statistics[0], self.augment)
        _ = transform.policy  # refused here, not in a thread
        return transform
