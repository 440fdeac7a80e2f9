"""Weights from files into networks."""

from mindvit.weights.load import Report, WeightsError, load_weights
from mindvit.weights.readers import read_weights

__all__ = ["Report", "WeightsError", "load_weights", "read_weights"]
