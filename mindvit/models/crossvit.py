"""CrossViT: Cross-Attention Multi-Scale Vision Transformer for Image Classification (Chen, Fan, Panda; ICCV 2021).

https://arxiv.org/abs/2103.14899; the authors' code is IBM/CrossViT, whose parameter names are kept.

Two branches look at the same image, one with small patches (12 px, branch 0) and one with large ones (16 px, branch 1).
Each of three multi-scale blocks runs transformer blocks in both branches and then lets the class token of each branch
attend to the patches of the other (cross attention, section 3.3).

Shapes: B batch, N tokens with the class token first, C channels, h heads, d channels a head. They travel as (B*N, C).
"""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence, Union

import mindspore as ms
import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops

from mindvit.errors import UserError
from mindvit.layers.activation import GELU
from mindvit.layers.attention import Block, SelfAttention
from mindvit.layers.class_attention import CrossAttentionBlock
from mindvit.layers.conv import Conv2d
from mindvit.layers.drop_path import Dropout
from mindvit.layers.linear import Linear, weight_of
from mindvit.layers.norm import LayerNorm
from mindvit.layers.patch_embed import PatchTokens
from mindvit.layers.precision import in_float32
from mindvit.layers.resize import BicubicResize
from mindvit.models.info import ModelInfo
from mindvit.models.network import Feature, Network, multiples_beside
from mindvit.models.registry import Entry, register

LAYER_NORM_EPS = 1e-6
PATCH = (12, 16)
MULTI_SCALE_BLOCKS = 3


def projection(inputs: int, outputs: int) -> nn.SequentialCell:
    """From one branch's width to the other's: norm, GELU, linear."""
    return nn.SequentialCell(LayerNorm(inputs, LAYER_NORM_EPS), GELU(), Linear(inputs, outputs))


class MultiScaleBlock(nn.Cell):
    """Transformer blocks in each branch, then one cross attention each way (section 3.3 of the paper).

    widths, tokens, heads: one number a branch; drop_paths: the rates of all of a branch's blocks, of both
    branches. The numbers of tokens are told, as a graph that is exported for any batch can't derive them.
    """

    def __init__(
        self,
        widths: Sequence[int],
        tokens: Sequence[int],
        heads: Sequence[int],
        mlp_ratios: Sequence[float],
        drop_paths: Sequence[Sequence[float]],
        drop: float,
        attn_drop: float,
    ):
        super().__init__()
        self.tokens = tuple(tokens)
        self.blocks = nn.CellList(
            [
                nn.CellList(
                    [
                        Block(width, SelfAttention(width, head, attn_drop, drop), ratio, LAYER_NORM_EPS, drop, rate)
                        for rate in rates
                    ]
                )
                for width, head, ratio, rates in zip(widths, heads, mlp_ratios, drop_paths)
            ]
        )
        self.projs = nn.CellList([projection(widths[0], widths[1]), projection(widths[1], widths[0])])
        # fusion i works in the other branch's width, and both take the last rate of the large branch
        self.fusion = nn.CellList(
            [
                CrossAttentionBlock(width, head, LAYER_NORM_EPS, drop, attn_drop, drop_paths[1][-1], index == 0)
                for index, width, head in zip((0, 1), widths[::-1], heads[::-1])
            ]
        )
        self.revert_projs = nn.CellList([projection(widths[1], widths[0]), projection(widths[0], widths[1])])

    def branch(self, index: int, tokens: Tensor, batch: int, drop_path_scale: Optional[Tensor]) -> Tensor:
        """(B*N, C) -> (B, N, C)."""
        for block in self.blocks[index]:
            tokens = block(tokens, batch, drop_path_scale)
        return tokens.reshape(-1, self.tokens[index], tokens.shape[1])

    def construct(
        self, small: Tensor, large: Tensor, batch: int, drop_path_scale: Optional[Tensor] = None, last: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Tokens (B*N, C) of both branches -> those of the small and the large branch, (B, N, C), or only their class
        tokens (B, 1, C).
        """
        small, large = (
            self.branch(0, small, batch, drop_path_scale),
            self.branch(1, large, batch, drop_path_scale),
        )  # B N C, B M D
        new_small, small, large = self.fusion[0].fuse(
            small, large, self.projs[0], self.revert_projs[0], drop_path_scale, last
        )
        new_large, _, _ = self.fusion[1].fuse(large, small, self.projs[1], self.revert_projs[1], drop_path_scale, last)
        return new_small, new_large


def patch_embed(branch: int, channels: int, width: int, stem: str) -> PatchTokens:
    """A branch's tokens: patches by one convolution or, in the dagger variants, three, with strides that multiply to
    12 and to 16.
    """
    if stem == "patch":
        return PatchTokens(PATCH[branch], channels, width)
    second, third = ((3, 3, 0), (3, 1, 1)) if branch == 0 else ((3, 2, 1), (3, 2, 1))
    cells = [
        Conv2d(channels, width // 4, 7, 4, 3),
        nn.ReLU(),
        Conv2d(width // 4, width // 2, *second),
        nn.ReLU(),
        Conv2d(width // 2, width, *third),
    ]
    return PatchTokens(PATCH[branch], channels, width, nn.SequentialCell(cells))


def branch_sizes(img_size: Union[int, Sequence[int]]) -> tuple[int, int]:
    """Sides of the images that the two branches see; an int is the small-patch branch's, the other is the nearest at
    14/15 of it, at least 16.

    240 -> (240, 224) and 408 -> (408, 384), the published pairs. UserError for sizes that the patches don't divide.
    """
    if isinstance(img_size, int):
        small, large = img_size, max(1, round(img_size * 14 / 15 / PATCH[1])) * PATCH[1]
    else:
        small, large = img_size
    if small <= 0 or large <= 0 or small % PATCH[0] or large % PATCH[1]:
        near = (
            f", such as {' or '.join(map(str, multiples_beside(small, PATCH[0])))}" if isinstance(img_size, int) else ""
        )
        raise UserError(
            f"CrossViT: img_size is {img_size}, but the first side must be a multiple of 12{near}, and the "
            "second of 16 "
            f"(images of any size fit the standard network, which resizes them: leave img_size out)"
        )
    return small, large


class CrossViT(Network):
    """The network.

    x: (B, in_channels, H, W) -> logits (B, num_classes), the mean of both branches' heads; drop_path_scale: see
    Residual.

    An image whose height is not a branch's is resized for that branch (bicubic, to a square), as in the authors'
    code; one whose height is, must be square. num_classes=0 gives the two normalised class tokens side by side.
    Feature maps: the patches of the small- and of the large-patch branch after each multi-scale block.
    """

    HEADS = ("head.0", "head.1")

    def __init__(
        self,
        img_size: Union[int, Sequence[int]],
        embed_dim: Sequence[int],
        depth: Sequence[int],
        num_heads: Sequence[int],
        mlp_ratio: Sequence[float],
        stem: str,
        num_classes: int,
        in_channels: int,
        drop_path_rate: float,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
    ):
        self.sizes = branch_sizes(img_size)
        grids = [size // patch for size, patch in zip(self.sizes, PATCH)]
        super().__init__(num_classes, features(embed_dim, [self.sizes[0] / grid for grid in grids]))
        self.grids = grids
        self.widths = tuple(embed_dim)
        self.resize = nn.CellList([BicubicResize(size) for size in self.sizes])
        self.patch_embed = nn.CellList([patch_embed(i, in_channels, width, stem) for i, width in enumerate(embed_dim)])
        self.pos_embed = ParameterTuple(
            [_named(f"pos_embed.{i}", (1, grids[i] ** 2 + 1, width)) for i, width in enumerate(embed_dim)]
        )
        self.cls_token = ParameterTuple([_named(f"cls_token.{i}", (1, 1, width)) for i, width in enumerate(embed_dim)])
        self.pos_drop = Dropout(drop_rate)
        self.blocks = nn.CellList(
            [
                MultiScaleBlock(
                    embed_dim, [grid**2 + 1 for grid in grids], num_heads, mlp_ratio, rates, drop_rate, attn_drop_rate
                )
                for rates in drop_paths(drop_path_rate, depth)
            ]
        )
        self.norm = nn.CellList([LayerNorm(width, LAYER_NORM_EPS) for width in embed_dim])
        self.head = self.new_head(num_classes)

    @property
    def num_features(self) -> int:
        """Channels of both branches' class tokens side by side."""
        return sum(self.widths)

    def new_head(self, num_classes: int) -> Any:
        """A classifier for each branch."""
        return nn.CellList([Linear(width, num_classes) for width in self.widths]) if num_classes else None

    @classmethod
    def check_input(cls, config: Mapping[str, Any], height: int, width: int) -> None:
        """An image of a branch's height goes in as it is, so it must have its width too."""
        super().check_input(config, height, width)
        if height in branch_sizes(config["img_size"]) and width != height:
            raise UserError(
                f"CrossViT: an image of {height} x {width} px: one of a branch's height must be square (others are "
                "resized, to squares)"
            )

    @classmethod
    def sizes_for(cls, config: Mapping[str, Any], side: int) -> Optional[tuple[int, int]]:
        """The small-patch branch takes the image as it is, the large-patch branch resizes it; those of the arguments
        if the side is theirs.
        """
        small, large = branch_sizes(config["img_size"])
        if side == small:
            return small, large
        if side < 1 or side % PATCH[0]:
            near = " or ".join(map(str, multiples_beside(side, PATCH[0])))
            raise UserError(
                f"CrossViT: images of {side} px, but its small-patch branch takes multiples of {PATCH[0]}, such as "
                f"{near}; this network was published for {small}"
            )
        return branch_sizes(side)

    def check_size(self, height: int, width: int) -> None:
        """See check_input."""
        self.check_input({"img_size": self.sizes}, height, width)

    def no_weight_decay(self) -> frozenset[str]:
        """Names without weight decay beside biases and one-dimensional tensors: none.

        The authors' model asks for cls_token and pos_embed, but timm compares whole names and these end in .0 and
        .1, so their networks were trained with both decayed.
        """
        return frozenset()

    def tokens(self, index: int, x: Tensor) -> Tensor:
        """Image -> tokens (B*N, C) of a branch, position added."""
        if x.shape[2] != self.sizes[index]:
            x = self.resize[index](x)
        tokens = self.pos_drop(self.patch_embed[index](x, self.cls_token[index], self.pos_embed[index]))
        return tokens.reshape(-1, tokens.shape[2]).astype(self.stream_type)

    def multi_scale(self, x: Tensor, count: int, drop_path_scale: Optional[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Tokens of both branches before the first and after each of the first `count` multi-scale blocks."""
        outputs = [(self.tokens(0, x), self.tokens(1, x))]
        for index in range(count):  # a slice of cells would rename their parameters outside graph mode
            small, large = outputs[-1]
            small, large = self.blocks[index](small, large, x.shape[0], drop_path_scale)
            outputs.append((small.reshape(-1, small.shape[2]), large.reshape(-1, large.shape[2])))
        return outputs

    def forward_features(self, x: Tensor, drop_path_scale: Optional[Tensor] = None) -> tuple[Tensor, Tensor]:
        """(B, in_channels, H, W) -> the normalised class tokens of the small- and the large-patch branch, (B, C)
        each.
        """
        small, large = self.multi_scale(x, MULTI_SCALE_BLOCKS - 1, drop_path_scale)[-1]
        small, large = self.blocks[MULTI_SCALE_BLOCKS - 1](small, large, x.shape[0], drop_path_scale, True)
        return self.norm[0](small.reshape(-1, self.widths[0])), self.norm[1](large.reshape(-1, self.widths[1]))

    def forward_head(self, x: tuple[Tensor, Tensor], pre_logits: bool = False) -> Tensor:
        """Class tokens of both branches -> logits, in float32; without a classifier, the tokens side by side."""
        small, large = x
        if pre_logits or self.head is None:
            return ops.cat((small, large), 1)
        return (in_float32(self.head[0](small)) + in_float32(self.head[1](large))) / 2

    def feature_maps(self, x: Tensor, drop_path_scale: Optional[Tensor] = None) -> list[Tensor]:
        """(B, in_channels, H, W) -> maps of grid x grid patches, of the small and of the large branch after each multi-
        scale block.
        """
        found = []
        for small, large in self.multi_scale(x, MULTI_SCALE_BLOCKS, drop_path_scale)[1:]:
            found += [self.map_of(0, small, x.shape[0]), self.map_of(1, large, x.shape[0])]
        return found

    def map_of(self, branch: int, tokens: Tensor, batch: int) -> Tensor:
        """Tokens with the class token (B*N, C) -> the patches' maps."""
        patches = tokens.reshape(batch, -1, tokens.shape[1])[:, 1:]  # B N C
        grid = self.grids[branch]
        return self.layout.from_tokens(patches.reshape(-1, tokens.shape[1]), batch, grid, grid)

    def saved_multiply_adds(self, size: int) -> int:
        """See Network; the branches' sizes are the same whatever the image's."""
        tokens = [grid**2 + 1 for grid in self.grids]
        return sum(
            block.fusion[index].attn.saved_multiply_adds(tokens[1 - index]) for block in self.blocks for index in (0, 1)
        )


def _named(name: str, shape: tuple[int, ...]) -> ms.Parameter:
    parameter = weight_of(shape)
    parameter.name = name
    return parameter


def features(widths: Sequence[int], strides: Sequence[float]) -> list[Feature]:
    """The maps of both branches after each multi-scale block."""
    branches = list(enumerate(zip(widths, strides)))
    return [
        Feature(f"blocks.{block}.blocks.{branch}", width, stride)
        for block in range(MULTI_SCALE_BLOCKS)
        for branch, (width, stride) in branches
    ]


def drop_paths(rate: float, depth: Sequence[int]) -> list[tuple[list[float], list[float]]]:
    """Stochastic-depth rates of each multi-scale block's two branches: rising over the large branch's blocks from 0
    to `rate`.

    The small branch takes the rates from the start of its multi-scale block on.
    """
    small, large = depth
    rates = np.linspace(0, rate, MULTI_SCALE_BLOCKS * large).tolist()
    starts = range(0, len(rates), large)
    return [(rates[start : start + small], rates[start : start + large]) for start in starts]


# name: embed_dim, depth, heads, mlp_ratio, stem, img_size, params, multiply-adds, acc1, acc5.
# Accuracies: timm's validation of the authors' weights (results-imagenet.csv), at the input size that they were
# trained for.
# fmt: off
VARIANTS = {
    "crossvit_tiny": ((96, 192), (1, 4), (3, 3), (4, 4), "patch", 240, 7014800, 1562734080, 73.352, 91.906),
    "crossvit_small": ((192, 384), (1, 4), (6, 6), (4, 4), "patch", 240, 26856272, 5615557632, 81.036, 95.466),
    "crossvit_base": ((384, 768), (1, 4), (12, 12), (4, 4), "patch", 240, 105025232, 21191473152, 82.212, 95.826),
    "crossvit_9": ((128, 256), (1, 3), (4, 4), (3, 3), "patch", 240, 8553296, 1840796160, 73.994, 91.976),
    "crossvit_15": ((192, 384), (1, 5), (6, 6), (3, 3), "patch", 240, 27528464, 5790571776, 81.522, 95.694),
    "crossvit_18": ((224, 448), (1, 6), (7, 7), (3, 3), "patch", 240, 43271408, 9031158528, 82.390, 96.064),
    "crossvit_9_dagger": ((128, 256), (1, 3), (4, 4), (3, 3), "conv", 240, 8776592, 1979049984, 76.990, 93.602),
    "crossvit_15_dagger": ((192, 384), (1, 5), (6, 6), (3, 3), "conv", 240, 28209008, 6112304640, 82.302, 95.960),
    "crossvit_18_dagger": ((224, 448), (1, 6), (7, 7), (3, 3), "conv", 240, 44266976, 9473218944, 82.494, 96.070),
    "crossvit_15_dagger_384": ((192, 384), (1, 5), (6, 6), (3, 3), "conv", 408, 28500080, 21398550336, 83.842, 96.786),
    "crossvit_18_dagger_384": ((224, 448), (1, 6), (7, 7), (3, 3), "conv", 408, 44606560, 32409093024, 84.198, 96.834),
}
# fmt: on


def _register_all() -> None:
    for name, (embed_dim, depth, heads, mlp_ratio, stem, size, params, macs, acc1, acc5) in VARIANTS.items():
        short = name.replace("_384", "")
        nominal = 384 if size == 408 else 224  # the large branch's size, by which the authors and PaddleViT name them
        aliases = {
            f"{short}_{size}",
            f"{short}_{size}.in1k",
            f"{short}_{nominal}",
            f"{short}_{nominal}".replace("crossvit", "cross_vit"),
        } - {name}
        info = ModelInfo(
            name=name,
            family="crossvit",
            params=params,
            macs=macs,
            input_size=size,
            crop_pct=1.0 if size == 408 else 0.875,
            acc1=acc1,
            acc5=acc5,
            accuracy_source=f"timm results-imagenet.csv, {short}_{size}.in1k",
            paper="https://arxiv.org/abs/2103.14899",
            source=f"IBM/CrossViT weights-0.1/{short}_{nominal}.pth",
            drop_path_rate=0.1,
            aliases=tuple(sorted(aliases)),
        )
        config = {
            "img_size": size,
            "embed_dim": embed_dim,
            "depth": depth,
            "num_heads": heads,
            "mlp_ratio": mlp_ratio,
            "stem": stem,
        }
        register(Entry(info, CrossViT, config))


_register_all()
