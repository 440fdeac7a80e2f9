"""Teachers."""

from __future__ import annotations

from mindspore import nn

from mindvit.weights.readers import STATE


def freeze(net: nn.Cell) -> nn.Cell:
    """Make a network a teacher: evaluation mode, nothing to train, and parameter names that no student has (ranks and
    files know a parameter by its name).
    """
    for parameter in net.get_parameters():
        parameter.requires_grad = False
        parameter.name = f"{STATE}teacher.{parameter.name}"
    return net.set_train(False)
