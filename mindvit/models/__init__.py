"""The networks: one file a family, and the registry that finds them by name."""

from mindvit.models import crossformer, crossvit, cvt, xcit  # noqa: F401  (registers its networks)
from mindvit.models.registry import ModelInfo, create_model, input_sizes, list_models, model_info

__all__ = ["ModelInfo", "create_model", "input_sizes", "list_models", "model_info"]
