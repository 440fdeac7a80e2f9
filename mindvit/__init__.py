"""Vision transformers with MindSpore: networks by name, weights, recipes.

Names are imported on first use, so that `python train.py --help` need not wait for MindSpore.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from mindvit.environment import check
from mindvit.version import __version__

_HOMES = {
    "ModelInfo": "models",
    "create_model": "models",
    "list_models": "models",
    "model_info": "models",
    "register_with_mindcv": "models.mindcv",
    "Report": "weights",
    "load_weights": "weights",
    "fit": "engine.trainer",
    "validate": "engine.evaluate",
    "Predictor": "inference.predictor",
}

__all__ = [
    "ModelInfo",
    "Predictor",
    "Report",
    "__version__",
    "create_model",
    "fit",
    "list_models",
    "load_weights",
    "model_info",
    "register_with_mindcv",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mindvit' has no attribute {name!r}")
    check()
    return getattr(importlib.import_module(f"mindvit.{_HOMES[name]}"), name)


if hasattr(sys.modules.get("mindcv"), "create_model"):  # imported before: it knows our networks from here on
    __getattr__("register_with_mindcv")()
