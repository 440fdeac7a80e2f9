"""The cells that most modules take, in one place."""

from mindvit.layers.activation import GELU, Softmax
from mindvit.layers.compiled import Compiled
from mindvit.layers.drop_path import Dropout, DropPathScale, Residual, number_drop_paths
from mindvit.layers.linear import INIT_STD, AddRow, Linear, Product, weight_of
from mindvit.layers.mlp import Mlp
from mindvit.layers.norm import LayerNorm
from mindvit.layers.precision import set_precision

Kept = DropPathScale

__all__ = [
    "GELU",
    "INIT_STD",
    "AddRow",
    "Compiled",
    "DropPathScale",
    "Dropout",
    "Kept",
    "LayerNorm",
    "Linear",
    "Mlp",
    "Product",
    "Residual",
    "Softmax",
    "number_drop_paths",
    "set_precision",
    "weight_of",
]
