"""Vision transformers with MindSpore: networks by name, weights, recipes.

Names are imported on first use, so that `python train.py --help` need not wait for MindSpore.
"""

from __future__ import annotations

import importlib
from typing import Any

from mindvit.environment import check
from mindvit.models.mindcv import watch
from mindvit.version import __version__

_HOMES = {"ModelInfo": "models", "create_model": "models", "list_models": "models", "model_info": "models", "Report": "weights",
          "load_weights": "weights", "fit": "loop", "validate": "evaluation", "Predictor": "predictor"}

__all__ = ["ModelInfo", "Predictor", "Report", "__version__", "create_model", "fit", "list_models", "load_weights", "model_info", "validate"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mindvit' has no attribute {name!r}")
    check()
    return getattr(importlib.import_module(f"mindvit.{_HOMES[name]}"), name)


watch()  # mindcv.create_model knows our networks from here on, whichever of the two is imported first
