"""What a network's attention looks at: the softmax weights of the network that runs, put back on the image.

Nothing is computed a second time: hooks take the weights as they leave the softmax cells of a forward pass, and the
logits stay what they are. What each family shows, and what rollout (Abnar and Zuidema 2020) can say of it, is in
docs/looking.md.

Shapes: h heads, d channels a head, rows x columns the keys' grid. Points are (y, x) in px of the network's input.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence, TypeVar, Union

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindvit.errors import UserError
from mindvit.layers.activation import Softmax
from mindvit.layers.show_weights import softmax_shown
from mindvit.models.crossformer import CrossFormer, GroupAttention, grouping
from mindvit.models.crossvit import PATCH, CrossViT
from mindvit.models.cvt import CvT
from mindvit.models.xcit import XCiT
from mindvit.visualization import grids
from mindvit.visualization.grids import Grid, Point

T = TypeVar("T")
Weights = dict[str, np.ndarray]  # by the name of an attention cell
FIRST = "look here first"  # how the title of the first row begins


@dataclass(frozen=True)
class AttentionMap:
    """Attention of one query, or what every key receives, on a grid of keys.

    values: (h, rows, columns), nan where a place is no key of this query. first, step: where the first key's centre is,
    and how far the next one's. rest: the share (h,) that went to the class token, which is no place in the image.
    query: where the query is; None: a class token.
    unit: '%', of one query's attention, or of what the values are multiples, 'x average'.
    """

    title: str
    values: np.ndarray
    first: Point
    step: Point
    rest: Optional[np.ndarray] = None
    query: Optional[Point] = None
    unit: str = "%"

    def mean(self, title: str) -> AttentionMap:
        """The average of the heads."""
        rest = None if self.rest is None else self.rest.mean(0, keepdims=True)
        return AttentionMap(
            title, self.values.mean(0, keepdims=True), self.first, self.step, rest, self.query, self.unit
        )

    def heads(self) -> list[AttentionMap]:
        """Each head's own."""
        rests: Any = [None] * len(self.values) if self.rest is None else self.rest[:, None]
        return [
            AttentionMap(f"head {number}", values[None], self.first, self.step, rest, self.query, self.unit)
            for number, (values, rest) in enumerate(zip(self.values, rests), 1)
        ]


@dataclass(frozen=True)
class ChannelMatrix:
    """Cross-covariance attention of one head: values (d, d), a row for each query channel; no place in the image
    belongs to it.
    """

    title: str
    values: np.ndarray


@dataclass(frozen=True)
class Row:
    """Maps that belong together."""

    title: str
    tiles: Sequence[Union[AttentionMap, ChannelMatrix]]


@contextlib.contextmanager
def record_attention(net: nn.Cell, only: str = "") -> Iterator[Weights]:
    """Keep the attention weights of every run of a network inside the `with`.

    Runs inside are uncompiled (PyNative) and in evaluation mode; the mode that was set comes back at the end.

    Args:
        net: the network.
        only: how the names of the attention cells begin that are wanted; all by default.

    Yields:
        A dictionary that each run fills: softmax weights by the cell's name, float32, keys last.
    """
    found: Weights = {}
    handles: list[Any] = []
    with uncompiled(net), softmax_shown(net):
        for name, cell in net.cells_and_names():
            if isinstance(cell, Softmax) and name.startswith(only):
                handles.append(cell.register_forward_hook(_keeper(found, name.rsplit(".", 1)[0])))
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()


@contextlib.contextmanager
def uncompiled(net: nn.Cell) -> Iterator[None]:
    """Inside, networks run operator by operator (PyNative), `net` in evaluation mode; the mode that was set comes back
    at the end.
    """
    mode, training = ms.get_context("mode"), net.training
    try:
        ms.set_context(mode=ms.PYNATIVE_MODE)
        net.set_train(False)
        yield
    finally:
        net.set_train(training)
        ms.set_context(mode=mode)


def _keeper(found: Weights, name: str) -> Callable[[Any, Any, Tensor], None]:
    def keep(cell: Any, inputs: Any, output: Tensor) -> None:
        found[name] = output.asnumpy()

    return keep


def attention_maps(net: nn.Cell, x: Tensor, at: Point = (0.5, 0.5)) -> tuple[np.ndarray, list[Row]]:
    """What attention looks at in one image.

    Args:
        net: a network of the four families.
        x: (1, channels, H, W) float32, normalized.
        at: where the query is that CrossFormer's groups are shown for, as shares of height and width (y, x).

    Returns:
        The logits (num_classes,), and rows of maps: first the one to look at first, which sums the others up, then from
        the first block to the last.

    Raises:
        UserError: a network of another kind, or several images.
    """
    only, maps_of = of_family(FAMILIES, net, x, "attention maps are made")
    with record_attention(net, only) as weights:
        logits = net(x).asnumpy()[0]
    return logits, maps_of(net, weights, x.shape[2:], at)


def of_family(families: Mapping[type, T], net: nn.Cell, x: Tensor, what: str) -> T:
    """What a network's family has in a table. UserError for a network of another kind, or several images."""
    kind = next((kind for kind in families if isinstance(net, kind)), None)
    if kind is None or len(x) != 1:
        raise UserError(
            f"{what} for one image at a time and {', '.join(item.__name__ for item in families)}, "
            f"but this is {type(net).__name__} and {len(x)} images"
        )
    return families[kind]


def of_class_token(title: str, weights: np.ndarray, grid: Grid) -> AttentionMap:
    """weights: (h, 1 + rows*columns), the class token's, itself first."""
    return AttentionMap(title, weights[:, 1:].reshape(-1, *grid.shape), grid.first, grid.step, weights[:, 0])


def halved(weights: np.ndarray) -> np.ndarray:
    """(N, N) attention of a layer, heads averaged, with the residual as half of each row."""
    return (weights + np.eye(len(weights), dtype=weights.dtype)) / 2


def of_crossvit(net: CrossViT, weights: Weights, size: tuple[int, int], at: Point) -> list[Row]:
    """The class tokens on their own branch's patches, with the rollout, and in the fusions on the other's."""

    def on(branch: int, title: str, values: np.ndarray) -> AttentionMap:
        return of_class_token(title, values, places[branch])

    patch = [f"{size} px" for size in PATCH]
    own, fused = [], []
    rolled = rollout_crossvit(net, weights)
    places = [grids.of_crossvit(net, branch, size) for branch in (0, 1)]
    patches = [rolled[branch][1:].reshape(place.shape) for branch, place in enumerate(places)]
    both = grids.together(places, patches, size)[None]
    first = AttentionMap("rollout", both, places[0].first, places[0].step, np.array([rolled[0][0] + rolled[1][0]]))
    for branch in (0, 1):
        maps = [
            on(
                branch,
                f"block {number}",
                weights[f"blocks.{number - 1}.blocks.{branch}.{len(block.blocks[branch]) - 1}.attn"][0, :, 0],
            )
            for number, block in enumerate(net.blocks, 1)
        ]
        tiles = [item.mean(item.title) for item in maps] + [on(branch, "rollout", rolled[branch][None])]
        own.append(
            Row(
                f"class token on its own branch, {patch[branch]} patches ({net.grids[branch]} x {net.grids[branch]}), "
                "mean of heads",
                tiles,
            )
        )
        maps = [
            on(1 - branch, f"block {number}", weights[f"blocks.{number - 1}.fusion.{branch}.attn"][0])
            for number, _ in enumerate(net.blocks, 1)
        ]
        title = f"fusion: class token of the {patch[branch]}-patch branch on the {patch[1 - branch]} patches"
        fused += [
            Row(f"{title}, mean of heads", [item.mean(item.title) for item in maps]),
            Row(f"{title}, heads of the last block", maps[-1].heads()),
        ]
    return [Row(f"{FIRST}: where the class tokens look, both branches and all layers", [first]), *own, *fused]


def rollout_crossvit(net: CrossViT, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """Rollout over the tokens of both branches at once -> (1 + patches,) of the small and of the large branch.

    Each is what the mean of the two final class tokens (the logits are the mean of two heads) owes to that branch's
    tokens; together they sum to one. The first of each is the class token. A fusion is a layer in which only class
    tokens change.
    """
    counts = [grid**2 + 1 for grid in net.grids]
    branches = [slice(0, counts[0]), slice(counts[0], sum(counts))]
    flow = np.eye(sum(counts))
    for number, block in enumerate(net.blocks):
        for branch, places in enumerate(branches):
            for layer in range(len(block.blocks[branch])):
                flow[places] = (
                    halved(weights[f"blocks.{number}.blocks.{branch}.{layer}.attn"][0].mean(0)) @ flow[places]
                )
        before = flow.copy()
        for branch, places in enumerate(branches):
            seen, other = weights[f"blocks.{number}.fusion.{branch}.attn"][0].mean(0), branches[1 - branch]
            own = before[places.start]
            flow[places.start] = (own + seen[0] * own + seen[1:] @ before[other.start + 1 : other.stop]) / 2
    result = (flow[0] + flow[counts[0]]) / 2
    return result[branches[0]], result[branches[1]]


def of_cvt(net: CvT, weights: Weights, size: tuple[int, int], at: Point) -> list[Row]:
    """The class token's attention in the last stage, whose keys lie on every second place of the grid."""
    tokens = grids.of_cvt(net, size)
    grid, shape = tokens.shape, ((tokens.shape[0] + 1) // 2, (tokens.shape[1] + 1) // 2)
    keys = Grid(shape, tokens.first, (2 * tokens.step[0], 2 * tokens.step[1]))
    names = [f"stage2.blocks.{index}.attn" for index in range(len(net.stage2.blocks))]
    maps = [of_class_token(f"block {number}", weights[name][0, :, 0], keys) for number, name in enumerate(names, 1)]
    layers = [weights[name][0].mean(0) for name in names]
    # a token at the border has fewer keys around it, which even attention shows too: what is left is what the network
    # chose
    rolled = rollout_cvt(layers, grid) / rollout_cvt(
        [np.full_like(layer, 1 / layer.shape[1]) for layer in layers], grid
    )
    first = AttentionMap(
        "rollout", rolled[None, 1:].reshape(1, *grid), tokens.first, tokens.step, unit="x even attention"
    )
    every = np.mean([weights[name][0, :, 0].mean(0) for name in names], 0)
    mean = of_class_token("mean of all blocks", every[None], keys)
    title = f"class token in stage 3 ({grid[0]} x {grid[1]} tokens, {shape[0]} x {shape[1]} keys)"
    return [
        Row(f"{FIRST}: where the class token looks, all blocks of stage 3", [first]),
        Row(f"{title}, mean of heads", [mean, *(item.mean(item.title) for item in maps)]),
        Row("heads of the last block", maps[-1].heads()),
    ]


def rollout_cvt(layers: list[np.ndarray], grid: tuple[int, int]) -> np.ndarray:
    """Rollout within stage 3, (1 + rows*columns,), the class token first. layers: (queries, 1 + keys); the last has
    the class token's query only.
    """
    places = np.zeros((layers[0].shape[1], 1 + grid[0] * grid[1]))
    places[0, 0] = 1
    places[1:, 1:] = np.kron(windows(grid[0]), windows(grid[1]))
    flow = np.eye(places.shape[1])
    for weights in layers[:-1]:
        flow = halved(weights @ places) @ flow
    return (flow[0] + layers[-1][0] @ places @ flow) / 2


def windows(side: int) -> np.ndarray:
    """(keys, tokens) along one axis: what a key is taken from, its own token and half as much each neighbour, as its
    convolution is 3 wide, stride 2.
    """
    distance = np.abs(2 * np.arange((side + 1) // 2)[:, None] - np.arange(side))
    shares = np.maximum(2.0 - distance, 0)
    return shares / shares.sum(1, keepdims=True)


def of_crossformer(net: CrossFormer, weights: Weights, size: tuple[int, int], at: Point) -> list[Row]:
    """Of each stage's last short- and last long-distance block: the attention of the token at a point, and what all
    tokens receive.
    """
    rows = []
    for number, layer in enumerate(net.layers):
        tokens = grids.of_crossformer(number, size)
        grid, first, step = tokens.shape, tokens.first, tokens.step[0]
        place = min(int(at[0] * grid[0]), grid[0] - 1), min(int(at[1] * grid[1]), grid[1] - 1)
        tiles: list[Union[AttentionMap, ChannelMatrix]] = []
        last: dict[str, int] = {}  # the last block of each kind
        for index, block in enumerate(layer.blocks):
            last[kind_of(block.attn, grid)] = index
        for kind, index in last.items():
            query, received = of_groups(
                layer.blocks[index].attn, weights[f"layers.{number}.blocks.{index}.attn"], grid, place
            )
            point = ((place[0] + 0.5) * step, (place[1] + 0.5) * step)
            tiles.append(AttentionMap("", query, first, (step, step), query=point).mean(f"{kind}, one query"))
            tiles.append(AttentionMap("", received, first, (step, step), unit="x average").mean(f"{kind}, received"))
        rows.append(Row(f"stage {number + 1} ({grid[0]} x {grid[1]} tokens), mean of heads", tiles))
    return [Row(f"{FIRST}: what tokens are looked at in the last block", [rows[-1].tiles[-1]]), *rows]


def kind_of(attention: GroupAttention, grid: tuple[int, int]) -> str:
    """'short', 'long' or, where a single group has all tokens, 'all'."""
    down, across = grouping(grid[0], grid[1], *attention.rule)
    if down[0] * across[0] * down[2] * across[2] == 1:
        return "all tokens"
    return "short" if down[2] * across[2] == 1 else "long"


def of_groups(
    attention: GroupAttention, weights: np.ndarray, grid: tuple[int, int], place: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """weights: (groups, h, G, G) -> maps (h, H, W): of the query at `place`, nan outside its group; and of what each
    token receives, 1 on average.
    """
    down, across = grouping(grid[0], grid[1], *attention.rule)
    height, width = int(np.prod(down)), int(np.prod(across))  # with padding
    tokens = (
        np.arange(height * width).reshape(*down, *across).transpose(0, 2, 3, 5, 1, 4).reshape(len(weights), -1)
    )  # groups G: which token it is
    group, slot = np.argwhere(tokens == place[0] * width + place[1])[0]
    query, received = np.full((2, weights.shape[1], height * width), np.nan, np.float32)
    query[:, tokens[group]] = weights[group, :, slot]
    real = (tokens // width < grid[0]) & (tokens % width < grid[1])
    received[:, tokens] = (weights * real[:, None, :, None]).sum(2).transpose(1, 0, 2)
    rows, columns = (item.reshape(-1, height, width)[:, : grid[0], : grid[1]] for item in (query, received))
    return rows, columns


def of_xcit(net: XCiT, weights: Weights, size: tuple[int, int], at: Point) -> list[Row]:
    """The class token's attention in the two class-attention blocks, and the cross-covariance of the first and the
    last block, head by head.
    """
    patches = grids.of_xcit(net, size)
    names = [f"cls_attn_blocks.{index}.attn" for index in range(len(net.cls_attn_blocks))]
    every = np.mean([weights[name][0].mean(0) for name in names], 0)
    first = of_class_token("mean of blocks and heads", every[None], patches)
    rows = [Row(f"{FIRST}: where the class token looks", [first])]
    for number, name in enumerate(names, 1):
        found = of_class_token("", weights[name][0], patches)
        rows.append(
            Row(
                f"class attention, block {number} of {len(names)} ({patches.shape[0]} x {patches.shape[1]} patches)",
                [found.mean("mean of heads"), *found.heads()],
            )
        )
    for index in sorted({0, len(net.blocks) - 1}):
        matrices = weights[f"blocks.{index}.attn"][0]
        width = matrices.shape[-1]
        rows.append(
            Row(
                f"cross-covariance attention, block {index + 1} of {len(net.blocks)}: {width} x {width} channels, a "
                "query channel a row",
                [ChannelMatrix(f"head {number}", values) for number, values in enumerate(matrices, 1)],
            )
        )
    return rows


# which attention cells are needed, and what is made of them
FAMILIES: dict[type, tuple[str, Callable[[Any, Weights, Any, Point], list[Row]]]] = {
    CrossViT: ("", of_crossvit),
    CvT: ("stage2.", of_cvt),
    CrossFormer: ("", of_crossformer),
    XCiT: ("", of_xcit),
}
