"""What stands between a backbone and the heads of a detector or segmentor."""

from mindvit.models.necks.fpn import FPN

__all__ = ["FPN"]
