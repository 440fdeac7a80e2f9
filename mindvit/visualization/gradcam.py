"""Grad-CAM: which places speak for a class (Selvaraju et al. 2017, arXiv:1610.02391), on the tokens that the classifier
looks at.

Shapes: N tokens, C channels, rows x columns the tokens' grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindvit.layers.show_weights import softmax_shown
from mindvit.models.crossformer import CrossFormer
from mindvit.models.crossvit import CrossViT
from mindvit.models.cvt import CvT
from mindvit.models.xcit import XCiT
from mindvit.visualization import grids
from mindvit.visualization.attention import AttentionMap, of_family, uncompiled
from mindvit.visualization.grids import Grid, Size


@dataclass(frozen=True)
class Tokens:
    """What Grad-CAM is taken of.

    cell: the name of the cell that gives the tokens, (N, C). grid: where they lie. class_token: whether the first is
    one, which is no place. title: in pictures.
    """

    cell: str
    grid: Grid
    class_token: bool
    title: str


def of_crossvit(net: CrossViT, size: Size) -> list[Tokens]:
    """Each branch's tokens before the last fusions, where the other branch's class token looks at them."""
    found = []
    for branch, patch in enumerate(("small patches", "large patches")):
        block = len(net.blocks[-1].blocks[branch]) - 1
        name = f"blocks.{len(net.blocks) - 1}.blocks.{branch}.{block}"
        found.append(Tokens(name, grids.of_crossvit(net, branch, size), True, patch))
    return found


def of_cvt(net: CvT, size: Size) -> list[Tokens]:
    """The last stage's tokens before its last block, where the class token looks at them for the last time."""
    before = len(net.stage2.blocks) - 2
    name = f"stage2.blocks.{before}" if before >= 0 else "stage2.pos_drop"
    return [Tokens(name, grids.of_cvt(net, size), True, "stage 3")]


def of_crossformer(net: CrossFormer, size: Size) -> list[Tokens]:
    """The last stage's tokens, whose mean is classified."""
    stage = len(net.layers) - 1
    name = f"layers.{stage}.blocks.{len(net.layers[stage].blocks) - 1}"
    return [Tokens(name, grids.of_crossformer(stage, size), False, f"stage {stage + 1}")]


def of_xcit(net: XCiT, size: Size) -> list[Tokens]:
    """The patches before the class-attention blocks."""
    return [Tokens(f"blocks.{len(net.blocks) - 1}", grids.of_xcit(net, size), False, "patches")]


FAMILIES: dict[type, Callable[[Any, Size], list[Tokens]]] = {
    CrossViT: of_crossvit,
    CvT: of_cvt,
    CrossFormer: of_crossformer,
    XCiT: of_xcit,
}


class Probe:
    """Hooks that note what cells give, and add a tensor to it where there is one: the gradient with respect to that
    tensor is the one with respect to what the cell gives.
    """

    def __init__(self, net: nn.Cell, names: Sequence[str]):
        self.net, self.names = net, tuple(names)
        self.outputs: dict[str, Tensor] = {}
        self.added: dict[str, Tensor] = {}
        cells = dict(net.cells_and_names())
        self.handles = [cells[name].register_forward_hook(self.hook(name)) for name in self.names]

    def hook(self, name: str) -> Callable[[Any, Any, Tensor], Tensor]:
        """A cell's."""

        def note(cell: Any, inputs: Any, output: Tensor) -> Tensor:
            self.outputs[name] = output
            return output + self.added[name] if name in self.added else output

        return note

    def logit(self, x: Tensor, number: int, added: Sequence[Tensor]) -> Tensor:
        """A class's, with tensors added to what the cells give."""
        self.added = dict(zip(self.names, added))
        return self.net(x)[0, number]

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self.handles:
            handle.remove()


def gradients(
    net: nn.Cell, x: Tensor, names: Sequence[str], number: Optional[int] = None
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """A class's logit by what some cells give, for one image.

    Args:
        net: the network.
        x: (1, channels, H, W) float32, normalized.
        names: of the cells.
        number: the class; None: the likeliest.

    Returns:
        The logits (num_classes,), and of each cell what it gives and the gradient of the class's logit, (N, C) each.
    """
    with uncompiled(net), softmax_shown(net):
        probe = Probe(net, names)
        try:
            logits = net(x).asnumpy()[0]
            values = [probe.outputs[name].asnumpy() for name in probe.names]
            chosen = int(logits.argmax()) if number is None else number
            zeros = [Tensor(np.zeros_like(value)) for value in values]
            found = ms.grad(lambda *added: probe.logit(x, chosen, added), tuple(range(len(zeros))))(*zeros)
        finally:
            probe.remove()
    slopes = [item.asnumpy() for item in (found if isinstance(found, tuple) else (found,))]
    return logits, list(zip(values, slopes))


def weighted(values: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """(N, C) tokens and gradients -> (N,): the channels' sum, each times its gradient's mean over the places."""
    return values @ slopes.mean(0)


def grad_cam(net: nn.Cell, x: Tensor, number: Optional[int] = None) -> tuple[np.ndarray, list[AttentionMap]]:
    """Which places speak for a class in one image.

    Args:
        net: a network of the four families.
        x: (1, channels, H, W) float32, normalized.
        number: the class; None: the likeliest.

    Returns:
        The logits (num_classes,), and maps in per cent of all that speaks for the class: first of all tokens together,
        then, where the network has two branches, of each by itself.

    Raises:
        UserError: a network of another kind, or several images.
    """
    places = of_family(FAMILIES, net, x, "Grad-CAM is made")(net, x.shape[2:])
    logits, found = gradients(net, x, [place.cell for place in places], number)
    maps = []
    for place, (values, slopes) in zip(places, found):
        first = int(place.class_token)
        maps.append(weighted(values[first:], slopes[first:]).reshape(place.grid.shape))
    tiles = [positive(place.title, values, place.grid) for place, values in zip(places, maps)]
    if len(tiles) > 1:
        both = grids.together([place.grid for place in places], maps, x.shape[2:])
        tiles.insert(0, positive("both branches", both, places[0].grid))
    return logits, tiles


def positive(title: str, values: np.ndarray, grid: Grid) -> AttentionMap:
    """What speaks for the class, as shares of their sum; nothing anywhere if nothing does."""
    kept = np.maximum(values, 0)
    return AttentionMap(title, (kept / (kept.sum() or 1))[None], grid.first, grid.step)
