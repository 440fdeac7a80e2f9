"""CvT: Introducing Convolutions to Vision Transformers (Wu, Xiao, Codella, Liu, Dai, Yuan, Zhang; ICCV 2021).

https://arxiv.org/abs/2103.15808; the authors' code is microsoft/CvT, whose parameter names are kept.

Three stages, each on a smaller grid: an overlapping convolution makes tokens (section 3.1), then come transformer
blocks whose queries, keys and values are formed by depth-wise convolutions on the grid (section 3.2), keys and
values on every second place. No position is added. A class token joins in the last stage only, and it alone is
classified.

Shapes: B batch, N tokens with the class token (if any) first, C channels, h heads, d channels a head, H and W the
sides of a stage's grid. Tokens travel as (B*N, C); maps are those of layers.conv.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

import numpy as np
from mindspore import Tensor, nn, ops

from mindvit.errors import UserError
from mindvit.layers import attention
from mindvit.layers.activation import QuickGELU
from mindvit.layers.attention import MixedAttention
from mindvit.layers.conv import Conv2d, DepthwiseConv3x3, FeatureLayout
from mindvit.layers.drop_path import Dropout
from mindvit.layers.linear import Linear, weight_of
from mindvit.layers.norm import BatchNorm, LayerNorm
from mindvit.layers.precision import FULL_PRECISION
from mindvit.layers.split import SplitTokens
from mindvit.models.info import ModelInfo
from mindvit.models.network import Feature, Network
from mindvit.models.registry import Entry, register

LAYER_NORM_EPS = 1e-5
EMBEDDING = ((7, 4, 2), (3, 2, 1), (3, 2, 1))  # kernel, stride and padding of each stage's convolution
Grid = tuple[int, int]


class ConvProjection(nn.Cell):
    """Depth-wise 3x3 convolution and batch normalisation (section 3.2); the Linear after them is in Attention.

    Maps -> tokens.
    """

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.conv = DepthwiseConv3x3(channels, stride, bias=False)
        self.bn = BatchNorm(channels)
        self.layout = FeatureLayout()

    def construct(self, x: Tensor) -> Tensor:
        return self.layout.to_tokens(self.bn(self.conv(x)))


class ClassTokenSplit(nn.Cell):
    """(B*N, C) -> the class token, (B, C), and the patches, (B*H*W, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.split = SplitTokens()

    def construct(self, tokens: Tensor, batch: int) -> tuple[Tensor, Tensor]:
        channels = tokens.shape[1]
        cls, patches = self.split(tokens.reshape(batch, -1, channels), 1)
        return cls.reshape(batch, channels), patches.reshape(-1, channels)


def with_class_token(cls: Tensor, patches: Tensor) -> Tensor:
    """(B, C) and (B*H*W, C) -> (B*N, C)."""
    batch, channels = cls.shape
    return ops.cat((cls.reshape(batch, 1, channels), patches.reshape(batch, -1, channels)), 1).reshape(-1, channels)


class Attention(MixedAttention):
    """Attention whose queries, keys and values come from convolutions of the grid. x: (B*N, C) with C = h*d.

    The class token by-passes the convolutions, but not the Linear after them. As in the authors' code the scores
    are scaled by the stage's width, C ** -0.5, and not by the width of a head.
    """

    def __init__(self, channels: int, heads: int, has_class_token: bool, attn_drop: float, proj_drop: float):
        super().__init__(channels, heads, channels**-0.5, attn_drop, proj_drop)
        self.has_class_token = has_class_token
        self.layout = FeatureLayout()
        self.split = ClassTokenSplit()
        self.conv_proj_q = ConvProjection(channels, 1)
        self.conv_proj_k = ConvProjection(channels, 2)
        self.conv_proj_v = ConvProjection(channels, 2)
        self.proj_q = Linear(channels, channels)
        self.proj_k = Linear(channels, channels)
        self.proj_v = Linear(channels, channels)
        self.proj = Linear(channels, channels)

    def project(self, q: Tensor, k: Tensor, v: Tensor, batch: int) -> Tensor:
        """What queries (B*M, C), keys and values (B*N, C) are made of -> (B*M, C)."""
        y = self.attend(self.proj_q(q), self.proj_k(k), self.proj_v(v), batch)
        return self.proj_drop(self.proj(y))

    def construct(self, x: Tensor, batch: int, grid: Grid, class_token_only: bool = False) -> Tensor:
        """Tokens (B*N, C) -> what all tokens get, (B*N, C), or only the class token, (B, C)."""
        x = x.astype(self.compute_type)
        if not self.has_class_token:
            maps = self.layout.from_tokens(x, batch, *grid)
            return self.project(self.conv_proj_q(maps), self.conv_proj_k(maps), self.conv_proj_v(maps), batch)
        cls, patches = self.split(x, batch)
        maps = self.layout.from_tokens(patches, batch, *grid)
        q = cls
        if not class_token_only:
            q = with_class_token(cls, self.conv_proj_q(maps))
        elif (
            self.training
        ):  # the authors form the patches' queries even where nothing sees them, which moves the running statistics
            q = ops.depend(cls, ops.stop_gradient(self.conv_proj_q(maps)))
        return self.project(
            q, with_class_token(cls, self.conv_proj_k(maps)), with_class_token(cls, self.conv_proj_v(maps)), batch
        )


class Block(attention.Block):
    """The transformer block with the convolutions' attention and QuickGELU; the residual goes round both norms."""

    def __init__(self, channels: int, attn: Attention, mlp_ratio: float, drop: float, drop_path: float):
        super().__init__(channels, attn, mlp_ratio, LAYER_NORM_EPS, drop, drop_path, QuickGELU())

    def for_class_token(self, x: Tensor, batch: int, drop_path_scale: Optional[Tensor], grid: Grid) -> Tensor:
        """Tokens (B*N, C) -> the class token after the block, (B, C)."""
        y = self.attn(self.norm1(x), batch, grid, True)
        x = self.residual1(self.attn.split(x, batch)[0], y, batch, drop_path_scale)
        return self.mlp.residual_branch(x, self.norm2, self.residual2, batch, drop_path_scale)


class PatchEmbed(nn.Cell):
    """Convolutional token embedding, section 3.1: convolution, then LayerNorm of the channels.

    Maps -> tokens (B*H*W, C).
    """

    def __init__(self, inputs: int, channels: int, kernel: int, stride: int, padding: int):
        super().__init__()
        self.proj = Conv2d(inputs, channels, kernel, stride, padding)
        self.norm = LayerNorm(channels, LAYER_NORM_EPS)

    def construct(self, x: Tensor) -> Tensor:
        return self.norm(self.proj.tokens(x))


class Stage(nn.Cell):
    """Maps of the stage before -> maps of this one, without the class token. drop_paths: one rate a block."""

    def __init__(
        self,
        inputs: int,
        channels: int,
        embedding: Sequence[int],
        heads: int,
        mlp_ratio: float,
        drop_paths: Sequence[float],
        has_class_token: bool,
        drop: float,
        attn_drop: float,
    ):
        super().__init__()
        self.has_class_token = has_class_token
        if has_class_token:
            self.cls_token = weight_of((1, 1, channels))
        self.patch_embed = PatchEmbed(inputs, channels, *embedding)
        self.pos_drop = Dropout(drop)
        self.blocks = nn.CellList(
            [
                Block(channels, Attention(channels, heads, has_class_token, attn_drop, drop), mlp_ratio, drop, rate)
                for rate in drop_paths
            ]
        )
        self.layout, self.split = FeatureLayout(), ClassTokenSplit()
        self.stream_type = FULL_PRECISION

    def grid(self, height: int, width: int) -> Grid:
        """Sides of the grid for those of the maps that come in."""
        return self.patch_embed.proj.side(height), self.patch_embed.proj.side(width)

    def tokens(self, x: Tensor, batch: int) -> Tensor:
        """Maps -> tokens (B*N, C) before the blocks."""
        tokens = self.patch_embed(x)
        if self.has_class_token:
            cls = ops.broadcast_to(self.cls_token.reshape(1, -1).astype(tokens.dtype), (batch, -1))
            tokens = with_class_token(cls, tokens)
        return self.pos_drop(tokens).astype(self.stream_type)

    def construct(self, x: Tensor, batch: int, drop_path_scale: Optional[Tensor] = None) -> Tensor:
        grid = self.grid(*self.layout.grid(x))
        tokens = self.tokens(x, batch)
        for block in self.blocks:
            tokens = block(tokens, batch, drop_path_scale, grid)
        if self.has_class_token:
            _, tokens = self.split(tokens, batch)
        return self.layout.from_tokens(tokens, batch, *grid)

    def for_class_token(self, x: Tensor, batch: int, drop_path_scale: Optional[Tensor]) -> Tensor:
        """Maps -> the class token (B, C); what the last block does to the patches is left out."""
        grid = self.grid(*self.layout.grid(x))
        tokens = self.tokens(x, batch)
        for index in range(len(self.blocks) - 1):  # a slice of cells would rename their parameters outside graph mode
            tokens = self.blocks[index](tokens, batch, drop_path_scale, grid)
        return self.blocks[-1].for_class_token(tokens, batch, drop_path_scale, grid)


class CvT(Network):
    """The network. x: (B, in_channels, H, W), of any size -> logits (B, num_classes); drop_path_scale: see Residual.

    embed_dim, depth, num_heads, mlp_ratio: one number a stage. drop_path_rate is the last block's; it rises from 0
    over the last stage, and the stages before drop nothing.
    """

    def __init__(
        self,
        embed_dim: Sequence[int],
        depth: Sequence[int],
        num_heads: Sequence[int],
        mlp_ratio: Sequence[float],
        num_classes: int,
        in_channels: int,
        drop_path_rate: float,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
    ):
        super().__init__(num_classes, [Feature(f"stage{i}", width, 4 * 2**i) for i, width in enumerate(embed_dim)])
        rates = [[0.0] * depth[0], [0.0] * depth[1], np.linspace(0, drop_path_rate, depth[2]).tolist()]
        inputs = (in_channels, *embed_dim)
        self.stage0, self.stage1, self.stage2 = [
            Stage(
                inputs[i],
                embed_dim[i],
                EMBEDDING[i],
                num_heads[i],
                mlp_ratio[i],
                rates[i],
                i == 2,
                drop_rate,
                attn_drop_rate,
            )
            for i in range(3)
        ]
        self.norm = LayerNorm(embed_dim[-1], LAYER_NORM_EPS)
        self.head = self.new_head(num_classes)

    @classmethod
    def check_input(cls, config: Mapping[str, Any], height: int, width: int) -> None:
        """The first convolution, 7 px with 2 px of padding at each side, needs 3 px; every later one fits a grid of
        1.
        """
        if height < 3 or width < 3:
            raise UserError(
                f"CvT: an image of {height} x {width} px is too small: it needs at least 3 px each way (recipes say "
                "image_resize)"
            )

    def saved_multiply_adds(self, size: int) -> int:
        """See Network: the last block computes queries, projection and MLP for the class token only."""
        for stage in (self.stage0, self.stage1, self.stage2):
            size = stage.grid(size, size)[0]
        hidden, channels = self.stage2.blocks[-1].mlp.fc1.weight.shape
        patches, keys = size**2, ((size - 1) // 2 + 1) ** 2 + 1
        return patches * channels * (9 + 2 * channels + 2 * hidden + 2 * keys)

    def no_weight_decay(self) -> frozenset[str]:
        """The class token; the convolutions are decayed, the depth-wise ones too."""
        return frozenset({"stage2.cls_token"})

    def forward_features(self, x: Tensor, drop_path_scale: Optional[Tensor] = None) -> Tensor:
        """(B, in_channels, H, W) -> the normalised class token (B, C)."""
        batch = x.shape[0]
        x = self.stage1(self.stage0(self.layout.from_images(x), batch, drop_path_scale), batch, drop_path_scale)
        return self.norm(self.stage2.for_class_token(x, batch, drop_path_scale))

    def feature_maps(self, x: Tensor, drop_path_scale: Optional[Tensor] = None) -> list[Tensor]:
        """(B, in_channels, H, W) -> the maps that each stage gives, not normalised."""
        batch, found = x.shape[0], []
        x = self.layout.from_images(x)
        for stage in (self.stage0, self.stage1, self.stage2):
            x = stage(x, batch, drop_path_scale)
            found.append(x)
        return found


# name: embed_dim, num_heads, depth, input size, drop path rate, params, multiply-adds, acc1, acc5, the authors'
# configuration, other names.
# Accuracies: PaddleViT's evaluation of the authors' weights (docs/errata.md); the authors give top-1 with one decimal.
# Those pre-trained on ImageNet-22k are the networks for 384 px with other weights.
# fmt: off
VARIANTS = {
    "cvt_13_224": ((64, 192, 384), (1, 3, 6), (1, 2, 10), 224, 0.1, 19997480, 4566089216, 81.59, 95.67, "cvt-13-224x224", ("cvt-13", "cvt-13-224x224")),
    "cvt_21_224": ((64, 192, 384), (1, 3, 6), (1, 4, 16), 224, 0.1, 31622696, 7177985024, 82.46, 96.00, "cvt-21-224x224", ("cvt-21", "cvt-21-224x224")),
    "cvt_13_384": ((64, 192, 384), (1, 3, 6), (1, 2, 10), 384, 0.1, 19997480, 16269359616, 83.0, 96.36, "cvt-13-384x384", ("cvt-13-384", "cvt-13-384x384")),
    "cvt_21_384": ((64, 192, 384), (1, 3, 6), (1, 4, 16), 384, 0.1, 31622696, 24849091584, 83.27, 96.16, "cvt-21-384x384", ("cvt-21-384", "cvt-21-384x384")),
    "cvt_13_384_22k": ((64, 192, 384), (1, 3, 6), (1, 2, 10), 384, 0.1, 19997480, 16269359616, 83.26, 97.09, "cvt-13-384x384", ("cvt-13-384-22k",)),
    "cvt_21_384_22k": ((64, 192, 384), (1, 3, 6), (1, 4, 16), 384, 0.1, 31622696, 24849091584, 84.91, 97.62, "cvt-21-384x384", ("cvt-21-384-22k",)),
    "cvt_w24_384_22k": ((192, 768, 1024), (3, 12, 16), (2, 2, 20), 384, 0.3, 277196392, 194221654016, 87.58, 98.47, "cvt-w24-384x384",
                        ("cvt-w24-384-22k", "cvt-w24-384x384")),
}
# fmt: on


def _register_all() -> None:
    for name, (
        embed_dim,
        heads,
        depth,
        size,
        drop_path_rate,
        params,
        macs,
        acc1,
        acc5,
        source,
        others,
    ) in VARIANTS.items():
        large = size == 384  # evaluated on the whole image, squashed to a square
        info = ModelInfo(
            name=name,
            family="cvt",
            params=params,
            macs=macs,
            input_size=size,
            crop_pct=1.0 if large else 0.875,
            crop_mode="squash" if large else "center",
            acc1=acc1,
            acc5=acc5,
            accuracy_source="BR-IDL/PaddleViT README, 603a9b3",
            paper="https://arxiv.org/abs/2103.15808",
            source=f"microsoft/CvT experiments/imagenet/cvt/{source}.yaml",
            drop_path_rate=drop_path_rate,
            aliases=(name.replace("_", "-").replace("cvt", "CvT"), *others),
        )
        register(
            Entry(info, CvT, {"embed_dim": embed_dim, "depth": depth, "num_heads": heads, "mlp_ratio": (4.0, 4.0, 4.0)})
        )


_register_all()
