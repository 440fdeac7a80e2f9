"""Weights by name into a network that has just been built."""

from __future__ import annotations

from typing import Any, Optional

from mindspore import nn

from mindvit.hub.resolve import Pretrained, is_name, is_published, weights_file
from mindvit.runtime import console
from mindvit.weights.inspect import num_classes_of
from mindvit.weights.load import Report, load_weights
from mindvit.weights.readers import WeightsFile, read


def read_named(pretrained: Pretrained, name: str, take: Optional[str] = None) -> WeightsFile:
    """What the file holds that `pretrained` means for a network: see hub.resolve. UserError if it can't be had.

    `is_by_name` says of what was published, and not given as a file, that its head may give way to a new one.
    """
    content = read(weights_file(pretrained, name), take)
    content.is_by_name = is_name(pretrained) or is_published(pretrained)
    return content


def load_named(net: nn.Cell, content: WeightsFile) -> Report:
    """Load into a network what was read for it.

    Args:
        net: the network, or its feature maps.
        content: all weights of a file must fit. Published ones give way where the network was asked to be another: a
            head for other classes is new, the first convolutions are fitted to other channels, CrossViT's positions to
            another size; a line says so.

    Returns:
        What was loaded and what is new.

    Raises:
        UserError: the weights don't fit.
    """
    if not content.is_by_name:
        return load_weights(net, content)
    head = has_new_head(content, getattr(getattr(net, "net", net), "num_classes", 0))
    report = load_weights(net, content, new_head=head, resize=True, adapt_channels=True)
    if report.kept or report.resized or report.adapted:
        console.log_info(f"weights from {content.where}: {report}")
    return report


def has_new_head(content: WeightsFile, num_classes: Any) -> bool:
    """Whether published weights have a head for another number of classes than a network with one."""
    return content.is_by_name and num_classes not in (0, None, num_classes_of(content))
