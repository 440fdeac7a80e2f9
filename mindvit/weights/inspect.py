"""What a file's weights say of the network they were trained in."""

from __future__ import annotations

from typing import Optional

from mindvit.weights import names
from mindvit.weights.readers import STATE, Source

HEADS = ("head.weight", "head.0.weight")  # ours: (classes, channels); CrossViT has a head a branch


def num_classes_of(content: Source) -> Optional[int]:
    """The number of classes of the head that a file holds, whatever project's names and layouts it has; None without a head.

    PaddleViT's Linear weights are (channels, classes), and transformers calls the head a classifier: the head's tensors are
    translated as load_weights translates them, and counted then.
    """
    arrays = {name: value for name, value in content.arrays.items() if not name.startswith(STATE)}
    origin = names.recognise(arrays)
    if origin is not None:
        arrays = {name: value for name, value in arrays.items() if any(part in name for part in ("head", "classifier"))}
        arrays = names.inwards(arrays, origin).arrays
    return next((len(arrays[name]) for name in HEADS if name in arrays and arrays[name].ndim == 2), None)
