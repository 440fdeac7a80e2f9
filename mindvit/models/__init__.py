"""The networks: one file a family, and the registry that finds them by name."""

from mindvit.models import crossformer, crossvit, cvt, detection, segmentation, xcit  # noqa: F401  (they register)
from mindvit.models.info import DenseInfo, ModelInfo, NetworkInfo
from mindvit.models.registry import create_model, dense_info, input_sizes, list_models, model_info, network_info

__all__ = [
    "DenseInfo",
    "ModelInfo",
    "NetworkInfo",
    "create_model",
    "dense_info",
    "input_sizes",
    "list_models",
    "model_info",
    "network_info",
]
