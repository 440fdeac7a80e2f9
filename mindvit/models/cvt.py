"""CvT: Introducing Convolutions to Vision Transformers (Wu, Xiao, Codella, Liu, Dai, Yuan, Zhang; ICCV 2021).

https://arxiv.org/abs/2103.15808; the authors' code is microsoft/CvT, whose parameter names are kept.

Three stages, each on a smaller grid: an overlapping convolution makes tokens (section 3.1), then come transformer blocks whose
queries, keys and values are formed by depth-wise convolutions on the grid (section 3.2), keys and values on every second place.
No position is added. A class token joins in the last stage only, and it alone is classified.

Shapes: B batch, N tokens with the class token (if any) first, C channels, h heads, d channels a head, H and W the sides of a
stage's grid. Tokens are rows (B*N, C); maps are those of layers.conv.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindvit import device, kernels
from mindvit.errors import UserError
from mindvit.layers import attention
from mindvit.layers.basic import Dropout, LayerNorm, Linear, Softmax, weight_of
from mindvit.layers.conv import BatchNorm, Conv2d, DepthwiseConv3x3, Maps
from mindvit.layers.flash import flash_attention
from mindvit.models.network import Feature, Network
from mindvit.models.registry import Entry, ModelInfo, register

LAYER_NORM_EPS = 1e-5
EMBEDDING = ((7, 4, 2), (3, 2, 1), (3, 2, 1))  # kernel, stride and padding of each stage's convolution
Grid = tuple[int, int]


class QuickGELU(nn.Cell):
    """x * sigmoid(1.702 x), the activation of the authors' MLPs.

    ops.fast_gelu is the same function in one kernel, but on Ascend it is off by 2e-3 (see its documentation's example).
    """

    NAME = "QuickGelu"

    def construct(self, x: Tensor) -> Tensor:
        return x * ops.sigmoid(1.702 * x)


class ConvProjection(nn.Cell):
    """Depth-wise 3x3 convolution and batch normalisation (section 3.2); the Linear after them is in Attention. Maps -> rows."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.conv = DepthwiseConv3x3(channels, stride, bias=False)
        self.bn = BatchNorm(channels)
        self.maps = Maps()

    def construct(self, x: Tensor) -> Tensor:
        return self.maps.to_rows(self.bn(self.conv(x)))


def class_token(rows: Tensor, batch: int) -> Tensor:
    """(B*N, C) -> (B, C)."""
    return rows.reshape(batch, -1, rows.shape[1])[:, 0]


def patches_of(rows: Tensor, batch: int) -> Tensor:
    """(B*N, C) -> (B*H*W, C)."""
    channels = rows.shape[1]
    return rows.reshape(batch, -1, channels)[:, 1:].reshape(-1, channels)


def with_class_token(cls: Tensor, patches: Tensor) -> Tensor:
    """(B, C) and (B*H*W, C) -> (B*N, C)."""
    batch, channels = cls.shape
    return ops.cat((cls.reshape(batch, 1, channels), patches.reshape(batch, -1, channels)), 1).reshape(-1, channels)


class Attention(nn.Cell):
    """Attention whose queries, keys and values come from convolutions of the grid. x: (B*N, C) with C = h*d.

    The class token by-passes the convolutions, but not the Linear after them. As in the authors' code the scores are scaled by
    the stage's width, C ** -0.5, and not by the width of a head.
    """

    def __init__(self, channels: int, heads: int, has_class_token: bool, attn_drop: float, proj_drop: float):
        super().__init__()
        self.heads = heads
        self.scale = channels ** -0.5
        self.has_class_token = has_class_token
        self.compute_type = ms.float32
        self.maps = Maps()
        self.conv_proj_q = ConvProjection(channels, 1)
        self.conv_proj_k = ConvProjection(channels, 2)
        self.conv_proj_v = ConvProjection(channels, 2)
        self.proj_q = Linear(channels, channels)
        self.proj_k = Linear(channels, channels)
        self.proj_v = Linear(channels, channels)
        self.proj = Linear(channels, channels)
        self.attn_drop = Dropout(attn_drop)
        self.proj_drop = Dropout(proj_drop)
        self.softmax = Softmax()
        self.scores = ops.BatchMatMul(transpose_b=True)
        self.mix = ops.BatchMatMul()
        self.fused: Any = kernels.MixedAttention(heads, self.scale) if device.has_product_kernels() and attn_drop == 0 else None
        self.whole: Any = None  # no kernel has all of it: see layers.attention.HeadAttention
        self.flash: Any = flash_attention(channels, heads, self.scale, attn_drop)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, batch: int) -> Tensor:
        """Rows of queries (B*M, C), keys and values (B*N, C) before their Linear -> (B*M, C)."""
        rows, channels = q.shape
        fused = self.fused is not None and self.compute_type == ms.float32
        flash = self.flash is not None and self.compute_type != ms.float32
        if fused or flash:
            q, k, v = self.proj_q(q), self.proj_k(k), self.proj_v(v)
            q, k, v = q.reshape(batch, -1, channels), k.reshape(batch, -1, channels), v.reshape(batch, -1, channels)
            y = self.fused(q, k, v)[0] if fused else self.flash(q, k, v)
            return self.proj_drop(self.proj(y.reshape(rows, channels)))
        q = self.split_heads(self.proj_q(q) * self.scale, batch)                    # B h M d
        k, v = self.split_heads(self.proj_k(k), batch), self.split_heads(self.proj_v(v), batch)
        weights = self.softmax(self.scores(q, k).astype(ms.float32))                # B h M N
        y = self.mix(self.attn_drop(weights).astype(self.compute_type), v)          # B h M d
        return self.proj_drop(self.proj(y.transpose(0, 2, 1, 3).reshape(rows, channels)))

    def split_heads(self, x: Tensor, batch: int) -> Tensor:
        """(B*N, C) -> (B, h, N, d)."""
        return x.reshape(batch, -1, self.heads, x.shape[1] // self.heads).transpose(0, 2, 1, 3)

    def construct(self, x: Tensor, batch: int, grid: Grid, class_token_only: bool = False) -> Tensor:
        """Rows (B*N, C) -> what all tokens get, (B*N, C), or only the class token, (B, C)."""
        x = x.astype(self.compute_type)
        if not self.has_class_token:
            maps = self.maps.of_rows(x, batch, *grid)
            return self.attend(self.conv_proj_q(maps), self.conv_proj_k(maps), self.conv_proj_v(maps), batch)
        cls, maps = class_token(x, batch), self.maps.of_rows(patches_of(x, batch), batch, *grid)
        q = cls
        if not class_token_only:
            q = with_class_token(cls, self.conv_proj_q(maps))
        elif self.training:  # the authors form the patches' queries even where nothing sees them, which moves the running statistics
            q = ops.depend(cls, ops.stop_gradient(self.conv_proj_q(maps)))
        return self.attend(q, with_class_token(cls, self.conv_proj_k(maps)), with_class_token(cls, self.conv_proj_v(maps)), batch)


class Block(attention.Block):
    """The transformer block with the convolutions' attention and QuickGELU; the residual goes round both norms."""

    def __init__(self, channels: int, attn: Attention, mlp_ratio: float, drop: float, drop_path: float):
        super().__init__(channels, attn, mlp_ratio, LAYER_NORM_EPS, drop, drop_path, QuickGELU())

    def for_class_token(self, x: Tensor, batch: int, kept: Optional[Tensor], grid: Grid) -> Tensor:
        """Rows (B*N, C) -> the class token after the block, (B, C)."""
        y = self.attn(self.norm1(x), batch, grid, True)
        return self.mlp_branch(self.residual1(class_token(x, batch), y, batch, kept), batch, kept)


class PatchEmbed(nn.Cell):
    """Convolutional token embedding, section 3.1: convolution, then LayerNorm of the channels. Maps -> rows (B*H*W, C)."""

    def __init__(self, inputs: int, channels: int, kernel: int, stride: int, padding: int):
        super().__init__()
        self.proj = Conv2d(inputs, channels, kernel, stride, padding)
        self.norm = LayerNorm(channels, LAYER_NORM_EPS)

    def construct(self, x: Tensor) -> Tensor:
        return self.norm(self.proj.rows(x))


class Stage(nn.Cell):
    """Maps of the stage before -> maps of this one, without the class token. drop_paths: one rate a block."""

    def __init__(self, inputs: int, channels: int, embedding: Sequence[int], heads: int, mlp_ratio: float, drop_paths: Sequence[float],
                 has_class_token: bool, drop: float, attn_drop: float):
        super().__init__()
        self.has_class_token = has_class_token
        if has_class_token:
            self.cls_token = weight_of((1, 1, channels))
        self.patch_embed = PatchEmbed(inputs, channels, *embedding)
        self.pos_drop = Dropout(drop)
        self.blocks = nn.CellList([
            Block(channels, Attention(channels, heads, has_class_token, attn_drop, drop), mlp_ratio, drop, rate) for rate in drop_paths])
        self.maps = Maps()
        self.stream_type = ms.float32

    def grid(self, height: int, width: int) -> Grid:
        """Sides of the grid for those of the maps that come in."""
        return self.patch_embed.proj.side(height), self.patch_embed.proj.side(width)

    def tokens(self, x: Tensor, batch: int) -> Tensor:
        """Maps -> rows (B*N, C) before the blocks."""
        rows = self.patch_embed(x)
        if self.has_class_token:
            cls = ops.broadcast_to(self.cls_token.reshape(1, -1).astype(rows.dtype), (batch, -1))
            rows = with_class_token(cls, rows)
        return self.pos_drop(rows).astype(self.stream_type)

    def construct(self, x: Tensor, batch: int, kept: Optional[Tensor] = None) -> Tensor:
        grid = self.grid(*self.maps.grid(x))
        rows = self.tokens(x, batch)
        for block in self.blocks:
            rows = block(rows, batch, kept, grid)
        return self.maps.of_rows(patches_of(rows, batch) if self.has_class_token else rows, batch, *grid)

    def for_class_token(self, x: Tensor, batch: int, kept: Optional[Tensor]) -> Tensor:
        """Maps -> the class token (B, C); what the last block does to the patches is left out."""
        grid = self.grid(*self.maps.grid(x))
        rows = self.tokens(x, batch)
        for index in range(len(self.blocks) - 1):  # a slice of cells would rename their parameters outside graph mode
            rows = self.blocks[index](rows, batch, kept, grid)
        return self.blocks[-1].for_class_token(rows, batch, kept, grid)


class CvT(Network):
    """The network. x: (B, in_channels, H, W), of any size -> logits (B, num_classes); kept: see Residual.

    embed_dim, depth, num_heads, mlp_ratio: one number a stage. drop_path_rate is the last block's; it rises from 0 over the last
    stage, and the stages before drop nothing.
    """

    def __init__(self, embed_dim: Sequence[int], depth: Sequence[int], num_heads: Sequence[int], mlp_ratio: Sequence[float], num_classes: int,
                 in_channels: int, drop_path_rate: float, drop_rate: float = 0.0, attn_drop_rate: float = 0.0):
        super().__init__(num_classes, [Feature(f"stage{i}", width, 4 * 2 ** i) for i, width in enumerate(embed_dim)])
        rates = [[0.0] * depth[0], [0.0] * depth[1], np.linspace(0, drop_path_rate, depth[2]).tolist()]
        inputs = (in_channels, *embed_dim)
        self.stage0, self.stage1, self.stage2 = [
            Stage(inputs[i], embed_dim[i], EMBEDDING[i], num_heads[i], mlp_ratio[i], rates[i], i == 2, drop_rate, attn_drop_rate) for i in range(3)]
        self.norm = LayerNorm(embed_dim[-1], LAYER_NORM_EPS)
        self.head = self.new_head(num_classes)
        self.layout = Maps()

    @classmethod
    def check_input(cls, config: Mapping[str, Any], height: int, width: int) -> None:
        """The first convolution, 7 px with 2 px of padding at each side, needs 3 px; every later one fits a grid of 1."""
        if height < 3 or width < 3:
            raise UserError(
                f"CvT: an image of {height} x {width} px is too small: it needs at least 3 px each way "
                f"(recipes say image_resize)"
            )

    def saved_multiply_adds(self, size: int) -> int:
        """See Network: the last block computes queries, projection and MLP for the class token only."""
        for stage in (self.stage0, self.stage1, self.stage2):
            size = stage.grid(size, size)[0]
        hidden, channels = self.stage2.blocks[-1].mlp.fc1.weight.shape
        patches, keys = size ** 2, ((size - 1) // 2 + 1) ** 2 + 1
        return patches * channels * (9 + 2 * channels + 2 * hidden + 2 * keys)

    def no_weight_decay(self) -> frozenset[str]:
        """The class token; the convolutions are decayed, the depth-wise ones too."""
        return frozenset({"stage2.cls_token"})

    def forward_features(self, x: Tensor, kept: Optional[Tensor] = None) -> Tensor:
        """(B, in_channels, H, W) -> the normalised class token (B, C)."""
        batch = x.shape[0]
        x = self.stage1(self.stage0(self.layout.of_pictures(x), batch, kept), batch, kept)
        return self.norm(self.stage2.for_class_token(x, batch, kept))

    def maps(self, x: Tensor, kept: Optional[Tensor] = None) -> list[Tensor]:
        """(B, in_channels, H, W) -> what each stage gives, (B, C, H', W'), not normalised."""
        batch, found = x.shape[0], []
        x = self.layout.of_pictures(x)
        for stage in (self.stage0, self.stage1, self.stage2):
            x = stage(x, batch, kept)
            found.append(self.layout.to_pictures(x))
        return found


# name: embed_dim, num_heads, depth, input size, drop path rate, params, multiply-adds, acc1, acc5, the authors' configuration, other names.
# Accuracies: PaddleViT's evaluation of the authors' weights (docs/errata.md); the authors give top-1 with one decimal.
# Those pre-trained on ImageNet-22k are the networks for 384 px with other weights.
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


def _register_all() -> None:
    for name, (embed_dim, heads, depth, size, drop_path_rate, params, macs, acc1, acc5, source, others) in VARIANTS.items():
        large = size == 384  # evaluated on the whole picture, its sides squeezed
        info = ModelInfo(
            name=name, family="cvt", params=params, macs=macs, input_size=size, crop_pct=1.0 if large else 0.875, squeeze=large, acc1=acc1, acc5=acc5,
            accuracy_source="BR-IDL/PaddleViT README, 603a9b3", paper="https://arxiv.org/abs/2103.15808",
            source=f"microsoft/CvT experiments/imagenet/cvt/{source}.yaml", drop_path_rate=drop_path_rate,
            aliases=(name.replace("_", "-").replace("cvt", "CvT"), *others))
        register(Entry(info, CvT, {"embed_dim": embed_dim, "depth": depth, "num_heads": heads, "mlp_ratio": (4.0, 4.0, 4.0)}))


_register_all()
