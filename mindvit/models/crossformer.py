"""CrossFormer: A Versatile Vision Transformer Hinging on Cross-scale Attention (Wang, Yao, Chen et al.; ICLR 2022).

https://arxiv.org/abs/2108.00154; the authors' code is cheerss/CrossFormer, whose parameter names are kept.

Tokens are made with kernels of several sizes side by side (cross-scale embedding, section 3.1). Attention is among
groups of tokens: neighbours in even blocks (short distance), every I-th token in odd ones (long distance, section
3.2), with a bias that a small network computes from the offset of two tokens (section 3.3). Four stages, each with
half the side of the last.

Shapes: B batch, H x W tokens, C channels, h heads, d channels a head, G tokens a group. They travel as (B*H*W, C).
"""

from __future__ import annotations

import functools
from typing import Any, Mapping, Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindvit.errors import UserError
from mindvit.kernels import ops as kernels
from mindvit.layers.attention import Block, HeadAttention
from mindvit.layers.conv import Conv2d, FeatureLayout
from mindvit.layers.drop_path import Dropout
from mindvit.layers.linear import Linear
from mindvit.layers.norm import LayerNorm
from mindvit.layers.precision import in_float32
from mindvit.layers.transpose import Transpose
from mindvit.models.info import ModelInfo
from mindvit.models.network import Feature, Network, multiples_beside
from mindvit.models.registry import Entry, register
from mindvit.runtime import platform

Axis = tuple[
    int, int, int
]  # regions, tokens of a group, interval: token (region * tokens + i) * interval + g is the i-th of its group
Grid = tuple[int, int]  # height and width in tokens

LAYER_NORM_EPS = 1e-5
STRIDE = 4
EMBED_KERNELS = {4: 2, 8: 4, 16: 8, 32: 8}  # kernel: the part of the channels that it gives is 1 / this
REVISIONS = ("head", "iclr", "iclr_classifier")
MASKED = -1e6  # added to the scores of padding


def grouping(height: int, width: int, group: int, interval: int, distant: bool, revision: str) -> tuple[Axis, Axis]:
    """How a map of tokens is cut into groups along its height and its width; the map is padded to the product of each
    axis.

    The revisions of the authors' code differ in maps that are no larger than a group one way, and in the long-
    distance groups of maps beyond a classifier's at 224 px. There 'head' keeps group and interval and cuts the map
    into regions; 'iclr', the 2021 code of the detectors, keeps the interval, and the group grows;
    'iclr_classifier', of the same day, does the opposite.
    """
    if min(height, width) <= group:
        distant, group = False, (max if revision == "head" else min)(height, width)
    if distant and revision == "iclr":
        return (1, -(-height // interval), interval), (1, -(-width // interval), interval)
    if distant and revision == "iclr_classifier":
        return (1, group, -(-height // group)), (1, group, -(-width // group))
    step = interval if distant else 1
    return (-(-height // (group * step)), group, step), (-(-width // (group * step)), group, step)


_grouping = ops.constexpr(grouping)


@functools.cache
def offsets(height: int, width: int) -> Tensor:
    """(offsets, 2) float32: every difference of two positions in a group of height x width tokens, rows first."""
    y, x = np.mgrid[1 - height : height, 1 - width : width]
    return Tensor(np.stack((y.ravel(), x.ravel()), 1).astype(np.float32))


@functools.cache
def pairs(height: int, width: int) -> Tensor:
    """(G*G,) int32, G = height * width: which of the offsets lies from key to query, for each query and key."""
    y, x = (axis.ravel() for axis in np.mgrid[:height, :width])
    index = (y[:, None] - y + height - 1) * (2 * width - 1) + x[:, None] - x + width - 1
    return Tensor(index.ravel().astype(np.int32))


@functools.cache
def mask(height: int, width: int, down: Axis, across: Axis) -> Tensor:
    """(groups, 1, 1, G) float32: what is added to the scores of a key, zero unless it is padding."""
    sides = [np.arange(np.prod(axis)).reshape(axis) < side for axis, side in ((down, height), (across, width))]
    real = sides[0][:, :, :, None, None, None] & sides[1]  # regions G interval, twice
    real = real.transpose(0, 2, 3, 5, 1, 4).reshape(-1, 1, 1, down[1] * across[1])
    return Tensor(np.where(real, 0, MASKED).astype(np.float32))


_offsets, _pairs, _mask = ops.constexpr(offsets), ops.constexpr(pairs), ops.constexpr(mask)
_attention_numbers = ops.constexpr(kernels.attention_numbers)


class DynamicPositionBias(nn.Cell):
    """A bias for each head, query and key of a group of height x width tokens, from their offset (section 3.3).

    Output: (h, G, G), float32.
    """

    def __init__(self, channels: int, heads: int):
        super().__init__()
        hidden = channels // 4 // 4
        self.pos_proj = Linear(2, hidden)
        self.pos1, self.pos2, self.pos3 = (
            nn.SequentialCell(LayerNorm(hidden, LAYER_NORM_EPS), nn.ReLU(), Linear(hidden, outputs))
            for outputs in (hidden, hidden, heads)
        )
        self.heads_first = Transpose(1, 0)
        self.fused_op: Any = kernels.PositionBias(LAYER_NORM_EPS) if platform.current().product_kernels else None

    def weights_of(self, layer: nn.SequentialCell) -> tuple[Tensor, ...]:
        """Those of the norm and of the product."""
        return layer[0].weight.value(), layer[0].bias.value(), layer[2].weight.value(), layer[2].bias.value()

    def construct(self, height: int, width: int) -> Tensor:
        if self.fused_op is not None and self.pos_proj.compute_type == ms.float32:
            first = self.pos_proj.weight.value(), self.pos_proj.bias.value()
            layers = self.weights_of(self.pos1), self.weights_of(self.pos2), self.weights_of(self.pos3)
            return self.fused_op(_offsets(height, width), _pairs(height, width), first, layers[0], layers[1], layers[2])
        table = in_float32(self.pos3(self.pos2(self.pos1(self.pos_proj(_offsets(height, width))))))
        biases = ops.gather(table, _pairs(height, width), 0)  # G*G h
        return self.heads_first(biases).reshape(-1, height * width, height * width)


class GroupAttention(HeadAttention):
    """Self-attention among the tokens of each group (section 3.2). x: (B*H*W, C); grid: (H, W).

    `rule` is (group size, interval, whether the block is a long-distance one, revision), see `grouping`. The
    authors pad the normalised tokens with zeros. Neither query, key nor value of padding reaches a real token, so
    here q, k and v are padded instead: the same, without products for padding. Kernels need no padding at all.
    """

    def __init__(self, channels: int, heads: int, rule: tuple[int, int, bool, str], attn_drop: float, proj_drop: float):
        super().__init__(channels, heads, attn_drop, proj_drop)
        self.rule = rule
        self.pos = DynamicPositionBias(channels, heads)

    def for_kernels(self, grid: Grid) -> tuple[Tensor, Tensor]:
        """The kernels' numbers and bias."""
        down, across = _grouping(grid[0], grid[1], *self.rule)
        return _attention_numbers(self.scale, self.heads, grid, down, across), self.pos(down[1], across[1])

    def construct(self, x: Tensor, batch: int, grid: Grid) -> Tensor:
        qkv = self.qkv(x)
        if self.fused_op is not None and qkv.dtype == ms.float32:
            numbers, bias = self.for_kernels(grid)
            y = self.fused_op(qkv.reshape(batch, grid[0] * grid[1], -1), numbers, bias)
        else:
            y = self.attend_groups(qkv.reshape(batch, grid[0], grid[1], -1))
        return self.proj_drop(self.proj(y.reshape(x.shape)))

    def attend_groups(self, qkv: Tensor) -> Tensor:
        """(B, H, W, 3C) -> (B, H, W, C).

        Rows and columns are cut into (n r i) and (m s j): n x m regions of groups of r x s tokens, of which each
        region has i x j, interleaved. In einops' words: "b (n r i) (m s j) c -> (b n i m j) (r s) c".
        """
        batch, height, width, channels = qkv.shape
        (n, r, i), (m, s, j) = down, across = _grouping(height, width, *self.rule)
        added = self.pos(r, s)  # h G G
        if (n * r * i, m * s * j) != (height, width):
            added = added + _mask(height, width, down, across)  # groups h G G
        qkv = padded(qkv, n * r * i, m * s * j)
        qkv = qkv.reshape(batch * n, r, i, m, s, j, 3 * self.heads, -1).transpose(0, 2, 3, 5, 6, 1, 4, 7)
        y = self.attend(qkv.reshape(-1, 3 * self.heads, r * s, qkv.shape[7]), added)  # B*groups h G d
        y = y.reshape(batch * n, i, m, j, self.heads, r, s, -1).transpose(0, 5, 1, 2, 6, 3, 4, 7)
        return cut(y.reshape(batch, n * r * i, m * s * j, channels // 3), height, width)


def padded(x: Tensor, height: int, width: int) -> Tensor:
    """(B, H, W, C) -> (B, height, width, C), zeros below and to the right."""
    if width > x.shape[2]:
        x = ops.cat((x, ops.zeros((x.shape[0], x.shape[1], width - x.shape[2], x.shape[3]), x.dtype)), 2)
    if height > x.shape[1]:
        x = ops.cat((x, ops.zeros((x.shape[0], height - x.shape[1], width, x.shape[3]), x.dtype)), 1)
    return x


def cut(x: Tensor, height: int, width: int) -> Tensor:
    """The top left of (B, H, W, C)."""
    if x.shape[1:3] == (height, width):
        return x
    return ops.slice(x, (0, 0, 0, 0), (x.shape[0], height, width, x.shape[3]))


class PatchEmbed(nn.Cell):
    """Cross-scale embedding (section 3.1): the same places seen with four kernels. x: (B, 3, 4H, 4W) -> (B*H*W, C)."""

    def __init__(self, inputs: int, channels: int):
        super().__init__()
        self.layout = FeatureLayout()
        self.projs = nn.CellList(
            [
                Conv2d(inputs, channels // part, kernel, STRIDE, (kernel - STRIDE) // 2)
                for kernel, part in EMBED_KERNELS.items()
            ]
        )
        self.norm = LayerNorm(channels, LAYER_NORM_EPS)

    def construct(self, x: Tensor) -> Tensor:
        x = self.layout.from_images(x)
        return self.norm(ops.cat([proj.tokens(x) for proj in self.projs], 1))


class PatchMerging(nn.Cell):
    """Cross-scale embedding between stages, kernels 2 and 4 with stride 2. tokens: (B*H*W, C) -> (B*H/2*W/2, 2C)."""

    def __init__(self, channels: int):
        super().__init__()
        self.layout = FeatureLayout()
        self.reductions = nn.CellList([Conv2d(channels, channels, kernel, 2, (kernel - 2) // 2) for kernel in (2, 4)])
        self.norm = LayerNorm(channels, LAYER_NORM_EPS)

    def construct(self, tokens: Tensor, batch: int, grid: tuple[int, int]) -> Tensor:
        x = self.layout.from_tokens(self.norm(tokens), batch, *grid)
        return ops.cat([reduction.tokens(x) for reduction in self.reductions], 1)


class Stage(nn.Cell):
    """Blocks whose attention is short- and long-distance in turn; `downsample` makes the next stage's tokens, None in
    the last.
    """

    def __init__(self, blocks: Sequence[Block], downsample: Optional[PatchMerging]):
        super().__init__()
        self.blocks = nn.CellList(blocks)
        self.downsample = downsample

    def construct(
        self, tokens: Tensor, batch: int, grid: tuple[int, int], drop_path_scale: Optional[Tensor] = None
    ) -> Tensor:
        for block in self.blocks:
            tokens = block(tokens, batch, drop_path_scale, grid)
        return tokens


class CrossFormer(Network):
    """The network.

    x: (B, in_channels, H, W) -> logits (B, num_classes); drop_path_scale: see Residual. Height and width: multiples
    of 32.

    Feature maps: the tokens after each stage's last block, without a norm. `revision` says which of the authors'
    groupings is meant (see `grouping`): 'head', of the time of CrossFormer++, 'iclr', of 2021, with which the
    published detectors were trained, or 'iclr_classifier'. All are the same at 224 x 224 px.
    """

    def __init__(
        self,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        group_size: Sequence[int],
        interval: Sequence[int],
        mlp_ratio: float,
        revision: str,
        num_classes: int,
        in_channels: int,
        drop_path_rate: float,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
    ):
        if revision not in REVISIONS:
            raise UserError(f"CrossFormer: revision is {revision!r}, but must be one of {', '.join(REVISIONS)}")
        if not len(depths) == len(num_heads) == len(group_size) == len(interval):
            raise UserError(
                f"CrossFormer: depths {tuple(depths)}, num_heads {tuple(num_heads)}, "
                f"group_size {tuple(group_size)} and interval "
                f"{tuple(interval)} must have one number for each stage"
            )
        widths = [embed_dim * 2**stage for stage in range(len(depths))]
        super().__init__(
            num_classes, [Feature(f"layers.{stage}", width, STRIDE * 2**stage) for stage, width in enumerate(widths)]
        )
        self.patch_embed = PatchEmbed(in_channels, embed_dim)
        self.pos_drop = Dropout(drop_rate)
        rates = iter(np.linspace(0, drop_path_rate, sum(depths)).tolist())
        stages = []
        for width, depth, heads, group, step in zip(widths, depths, num_heads, group_size, interval):
            attentions = [
                GroupAttention(width, heads, (group, step, index % 2 == 1, revision), attn_drop_rate, drop_rate)
                for index in range(depth)
            ]
            blocks = [
                Block(width, attention, mlp_ratio, LAYER_NORM_EPS, drop_rate, next(rates)) for attention in attentions
            ]
            stages.append(Stage(blocks, PatchMerging(width) if width < widths[-1] else None))
        self.layers = nn.CellList(stages)
        self.norm = LayerNorm(widths[-1], LAYER_NORM_EPS)
        self.head = self.new_head(num_classes)

    @classmethod
    def check_input(cls, config: Mapping[str, Any], height: int, width: int) -> None:
        """Every stage but the last halves the map; of an odd one its smaller kernel would leave the last row and
        column out.
        """
        super().check_input(config, height, width)
        step = STRIDE * 2 ** (len(config["depths"]) - 1)
        if height % step or width % step:
            near = " or ".join(map(str, multiples_beside(height if height % step else width, step)))
            raise UserError(
                f"CrossFormer: an image of {height} x {width} px, but height and width must be multiples of {step}, "
                f"such as {near} "
                f"(resize or pad it)"
            )

    def check_size(self, height: int, width: int) -> None:
        """See check_input."""
        self.check_input({"depths": self.feature_info}, height, width)

    def stages(self, x: Tensor, drop_path_scale: Optional[Tensor]) -> list[Tensor]:
        """Tokens after each stage's blocks."""
        batch, _, height, width = x.shape
        tokens = self.pos_drop(self.patch_embed(x)).astype(self.stream_type)
        height, width = height // STRIDE, width // STRIDE
        outputs = []
        for layer in self.layers:
            tokens = layer(tokens, batch, (height, width), drop_path_scale)
            outputs.append(tokens)
            if layer.downsample is not None:
                tokens = layer.downsample(tokens, batch, (height, width)).astype(self.stream_type)
                height, width = height // 2, width // 2
        return outputs

    def forward_features(self, x: Tensor, drop_path_scale: Optional[Tensor] = None) -> Tensor:
        """(B, in_channels, H, W) -> (B, C), the mean of the normalised tokens."""
        tokens = self.norm(self.stages(x, drop_path_scale)[-1])
        return tokens.reshape(x.shape[0], -1, tokens.shape[1]).mean(1)

    def feature_maps(self, x: Tensor, drop_path_scale: Optional[Tensor] = None) -> list[Tensor]:
        """(B, in_channels, H, W) -> maps of C * 2^i channels and H / 2^(i+2) x W / 2^(i+2) tokens of each stage i."""
        batch, height, width = x.shape[0], x.shape[2] // STRIDE, x.shape[3] // STRIDE
        found = []
        for tokens in self.stages(x, drop_path_scale):
            found.append(self.layout.from_tokens(tokens, batch, height, width))
            height, width = height // 2, width // 2
        return found


# name: embed_dim, depths, heads, drop path rate, params, multiply-adds, acc1, configuration.
# Accuracies: the README of the authors' repository; it tells no acc5.
# fmt: off
VARIANTS = {
    "crossformer_tiny": (64, (1, 1, 8, 6), (2, 4, 8, 16), 0.1, 27776794, 2857427552, 81.5, "tiny"),
    "crossformer_small": (96, (2, 2, 6, 2), (3, 6, 12, 24), 0.2, 30657394, 4906063692, 82.5, "small"),
    "crossformer_base": (96, (2, 2, 18, 2), (3, 6, 12, 24), 0.3, 51971554, 9159389964, 83.4, "base"),
    "crossformer_large": (128, (2, 2, 18, 2), (4, 8, 16, 32), 0.5, 91971184, 16107451680, 84.0, "large"),
}
# fmt: on


def _register_all() -> None:
    for name, (embed_dim, depths, heads, drop_path_rate, params, macs, acc1, size) in VARIANTS.items():
        info = ModelInfo(
            name=name,
            family="crossformer",
            params=params,
            macs=macs,
            input_size=224,
            crop_pct=0.875,
            acc1=acc1,
            acc5=None,
            accuracy_source="cheerss/CrossFormer README",
            paper="https://arxiv.org/abs/2108.00154",
            source=f"cheerss/CrossFormer configs/crossformer/{size}_patch4_group7_224.yaml",
            drop_path_rate=drop_path_rate,
            aliases=(f"CrossFormer-{size[0].upper()}",),
        )
        config = {
            "embed_dim": embed_dim,
            "depths": depths,
            "num_heads": heads,
            "group_size": (7, 7, 7, 7),
            "interval": (8, 4, 2, 1),
            "mlp_ratio": 4.0,
            "revision": "head",
        }
        register(Entry(info, CrossFormer, config))


_register_all()
