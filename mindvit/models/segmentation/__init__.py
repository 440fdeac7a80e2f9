"""Segmentors: Semantic FPN and UPerNet on any backbone."""

from mindvit.models.segmentation.segmentor import Segmentor
from mindvit.models.segmentation.variants import create_segmentor

__all__ = ["Segmentor", "create_segmentor"]
