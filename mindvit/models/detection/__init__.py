"""Detectors: RetinaNet, Faster, Mask and Cascade Mask R-CNN on any backbone."""

from mindvit.models.detection.rcnn import RCNN
from mindvit.models.detection.retinanet import RetinaNet
from mindvit.models.detection.variants import create_detector

__all__ = ["RCNN", "RetinaNet", "create_detector"]
