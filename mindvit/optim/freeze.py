"""Parts of a network that are not trained: their weights stay, and they compute as in evaluation.

The training step differentiates by the weights that are left alone, so of what lies before the first of them no
gradient is computed: the compiled graph has no operator for it, and nothing is kept for one.
"""

from __future__ import annotations

from typing import Collection, Sequence, Union

from mindspore import nn

from mindvit.errors import UserError
from mindvit.models.pyramid import OnPyramid
from mindvit.optim.param_groups import layers_of

STEM, ALL = "stem", "all"
HEAD = "head."


def freeze(net: nn.Cell, what: Union[None, int, str]) -> frozenset[str]:
    """Leave a network's first parts untrained.

    Args:
        net: a classifier, or a detector or segmentor, of which the backbone is meant.
        what: `stem`, what stands before the first block; a number, the stem and so many blocks; `all`, everything but
            the classifier, or the whole backbone; None, nothing.

    Returns:
        The names of what is frozen: weights, which no longer require a gradient, and the running statistics beside
        them.

    Raises:
        UserError: the network has fewer blocks.
    """
    if what is None:
        return frozenset()
    body = net.backbone.net if isinstance(net, OnPyramid) else net
    weights = [item.name for item in body.trainable_params()]
    names = frozen_weights(weights, what)
    statistics: set[str] = set()
    for _, cell in body.cells_and_names():
        own = cell.parameters_dict(recurse=False)
        if names.intersection(own):
            statistics.update(name for name, item in own.items() if not item.requires_grad)
    for item in body.trainable_params():
        if item.name in names:
            item.requires_grad = False
    return names | statistics


def frozen_weights(names: Sequence[str], what: Union[int, str]) -> frozenset[str]:
    """Which of a network's weights, in its own order, `freeze` means. UserError for more blocks than there are."""
    if what == ALL:
        return frozenset(name for name in names if not name.startswith(HEAD))
    last = 0 if what == STEM else int(what)
    layers, blocks = layers_of(names)
    if last > blocks:
        raise UserError(
            f"freeze is {what}, but the network has {blocks} blocks (all: everything but the classifier, or the whole "
            "backbone of a detector or segmentor)"
        )
    return frozenset(name for name, layer in zip(names, layers) if layer <= last)


def set_train(net: nn.Cell, frozen: Collection[str]) -> None:
    """Put a network in training mode, and its cells of which all parameters are `frozen` in evaluation mode: batch
    normalization by the running statistics, which stay as they are, no dropout, no stochastic depth.
    """
    net.set_train(True)
    if frozen:
        _rest(net, frozen)


def _rest(cell: nn.Cell, frozen: Collection[str]) -> None:
    resting = False
    for child in cell.cells():
        names = [item.name for item in child.get_parameters()]
        if names:  # a cell without any, a dropout say, goes with the one before it
            resting = all(name in frozen for name in names)
        if resting:
            child.set_train(False)
        elif names:
            _rest(child, frozen)
