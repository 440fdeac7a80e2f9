"""The numbers that each task is measured by, as files, tables and charts call them. Nothing here imports MindSpore."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Metric:
    """key: in files; title: in tables; chart: above a chart; unit: '%' or none; digits: behind the point."""

    key: str
    title: str
    chart: str
    unit: str = ""
    digits: int = 4

    def text(self, value: Optional[float]) -> Optional[str]:
        """As tables show it."""
        return None if value is None else f"{value:.{self.digits}f}{' ' * bool(self.unit)}{self.unit}"


LOSS = Metric("loss", "loss", "Loss")
METRICS = {
    "classification": (
        Metric("top1", "top-1", "Top-1 accuracy", "%", 2),
        Metric("top5", "top-5", "Top-5 accuracy", "%", 2),
        LOSS,
    ),
    "segmentation": (
        Metric("mIoU", "mIoU", "Mean intersection over union", "%", 2),
        Metric("mAcc", "mAcc", "Mean accuracy of the classes", "%", 2),
        Metric("aAcc", "aAcc", "Accuracy of all pixels", "%", 2),
    ),
    "detection": (
        Metric("box AP", "box AP", "Box AP", "%", 2),
        Metric("box AP50", "box AP50", "Box AP at IoU 0.5", "%", 2),
        Metric("box AP75", "box AP75", "Box AP at IoU 0.75", "%", 2),
        Metric("mask AP", "mask AP", "Mask AP", "%", 2),
        Metric("mask AP50", "mask AP50", "Mask AP at IoU 0.5", "%", 2),
        Metric("mask AP75", "mask AP75", "Mask AP at IoU 0.75", "%", 2),
    ),
}  # by task, the primary one first
