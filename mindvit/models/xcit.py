"""XCiT: Cross-Covariance Image Transformers (El-Nouby, Touvron, Caron and others; NeurIPS 2021).

https://arxiv.org/abs/2106.09681; the authors' code is facebookresearch/xcit, whose parameter names are kept.

Attention between channels instead of between tokens: a d x d matrix a head, whose cost grows with the number of
patches and not with its square. Patches meet in the two 3x3 convolutions of each block. At the end two blocks of
class attention (Touvron et al. 2021, CaiT) gather them in a class token. The position encoding is computed, so any
image size works.

Shapes: B batch, H W the grid, N = H*W patches, C channels, h heads, d channels a head. Patches travel as (B*N, C);
the class token is (B, C).
"""

from __future__ import annotations

import math
from typing import Optional

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Constant

from mindvit.errors import UserError
from mindvit.layers.activation import GELU
from mindvit.layers.class_attention import ClassAttention
from mindvit.layers.conv import Conv2d
from mindvit.layers.cross_covariance import CrossCovarianceAttention
from mindvit.layers.drop_path import Dropout, Residual
from mindvit.layers.linear import weight_of
from mindvit.layers.local_patch import LocalPatchInteraction
from mindvit.layers.mlp import Mlp
from mindvit.layers.norm import BatchNorm, LayerNorm
from mindvit.layers.precision import FULL_PRECISION
from mindvit.models.info import ModelInfo
from mindvit.models.network import Feature, Network
from mindvit.models.registry import Entry, register

LAYER_NORM_EPS = 1e-6
CLASS_BLOCKS = 2
FREQUENCIES, TEMPERATURE, POSITION_EPS = 32, 10000, 1e-6


def fourier_table(height: int, width: int) -> np.ndarray:
    """(height*width, 64) float32: sines and cosines of every place's y, then of its x, at 16 wavelengths (section 3.3
    of the paper).

    Positions count from 1 and the last is 2 pi, whatever the size. Released weights depend on the order: y before
    x, and each sine followed by the cosine of the same wavelength.
    """
    wavelengths = (TEMPERATURE ** (2 * (np.arange(FREQUENCIES) // 2) / FREQUENCIES)).astype(np.float32)
    halves = []
    for side in (height, width):
        place = np.arange(1, side + 1, dtype=np.float32) / np.float32(side + POSITION_EPS) * np.float32(2 * math.pi)
        angles = place[:, None] / wavelengths
        halves.append(np.where(np.arange(FREQUENCIES) % 2, np.cos(angles), np.sin(angles)))
    y, x = halves
    y, x = (
        np.broadcast_to(y[:, None], (height, width, FREQUENCIES)),
        np.broadcast_to(x[None], (height, width, FREQUENCIES)),
    )
    return np.concatenate((y, x), 2).reshape(height * width, 2 * FREQUENCIES)


@ops.constexpr
def _fourier(height: int, width: int) -> Tensor:
    return Tensor(fourier_table(height, width))


class FourierPositions(nn.Cell):
    """(H, W) -> the position encoding (N, C): a 1x1 convolution of the Fourier table, in float32."""

    def __init__(self, channels: int):
        super().__init__()
        self.token_projection = Conv2d(2 * FREQUENCIES, channels, 1, 1, 0)
        self.product = ops.MatMul(transpose_b=True)

    def construct(self, height: int, width: int) -> Tensor:
        weight = self.token_projection.weight
        return self.product(_fourier(height, width), weight.reshape(weight.shape[0], -1)) + self.token_projection.bias


class PatchEmbed(nn.Cell):
    """Patches by stride-2 convolutions with BatchNorm, GELU between.

    Maps -> maps, each side halved (rounded up) log2(patch) times.
    """

    def __init__(self, patch_size: int, channels: int, width: int):
        super().__init__()
        halvings = int(math.log2(patch_size))
        widths = [channels] + [width >> (halvings - 1 - i) for i in range(halvings)]
        cells: list[nn.Cell] = []
        for inputs, outputs in zip(widths, widths[1:]):
            cells += [nn.SequentialCell(Conv2d(inputs, outputs, 3, 2, 1, bias=False), BatchNorm(outputs)), GELU()]
        self.proj = nn.SequentialCell(cells[:-1])

    def construct(self, x: Tensor) -> Tensor:
        return self.proj(x)


class CrossCovarianceBlock(nn.Cell):
    """x + attention, + local patch interaction, + MLP, each of a norm and scaled by channel. x: (B*N, C).

    The numbers of norms and gammas are not in the order of use: 1, 3, 2.
    """

    def __init__(
        self, channels: int, heads: int, mlp_ratio: float, eta: float, drop: float, attn_drop: float, drop_path: float
    ):
        super().__init__()
        self.stream_type = FULL_PRECISION
        self.norm1 = LayerNorm(channels, LAYER_NORM_EPS)
        self.attn = CrossCovarianceAttention(channels, heads, attn_drop, drop)
        self.gamma1 = weight_of((channels,), Constant(eta))
        self.residual1 = Residual(drop_path)
        self.norm3 = LayerNorm(channels, LAYER_NORM_EPS)
        self.local_mp = LocalPatchInteraction(channels)
        self.gamma3 = weight_of((channels,), Constant(eta))
        self.residual3 = Residual(drop_path)
        self.norm2 = LayerNorm(channels, LAYER_NORM_EPS)
        self.mlp = Mlp(channels, int(channels * mlp_ratio), drop)
        self.gamma2 = weight_of((channels,), Constant(eta))
        self.residual2 = Residual(drop_path)

    def construct(
        self, x: Tensor, batch: int, height: int, width: int, drop_path_scale: Optional[Tensor] = None
    ) -> Tensor:
        x = self.attn.residual_branch(x, self.norm1, self.residual1, batch, drop_path_scale, self.gamma1)
        x = self.local_mp.residual_branch(
            x, self.norm3, self.residual3, batch, (height, width), drop_path_scale, self.gamma3
        )
        x = self.mlp.residual_branch(x, self.norm2, self.residual2, batch, drop_path_scale, self.gamma2)
        return x.astype(self.stream_type)


class ClassAttentionBlock(nn.Cell):
    """Class attention and MLP for the class token, cls (B, C); patches, (B*N, C), are rescaled on the way.

    Released weights depend on what the authors' code does beside the paper's equations: - the attention's residual
    adds gamma1 * norm1(patches) to the patches; - norm2 replaces what it is given instead of branching off, the
    patches too (tokens_norm), or only the class token (nano); - the MLP's residual adds the patches to themselves,
    without gamma2 (the next norm hides all of this doubling but its eps).
    """

    def __init__(
        self, channels: int, heads: int, mlp_ratio: float, eta: float, tokens_norm: bool, drop: float, attn_drop: float
    ):
        super().__init__()
        self.stream_type = FULL_PRECISION
        self.tokens_norm = tokens_norm
        self.norm1 = LayerNorm(channels, LAYER_NORM_EPS)
        self.attn = ClassAttention(channels, heads, attn_drop, drop)
        self.gamma1 = weight_of((channels,), Constant(eta))
        self.norm2 = LayerNorm(channels, LAYER_NORM_EPS)
        self.mlp = Mlp(channels, int(channels * mlp_ratio), drop)
        self.gamma2 = weight_of((channels,), Constant(eta))

    def construct(self, cls: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        normed = self.norm1(patches)
        cls = self.norm2(cls + self.gamma1 * self.attn(self.norm1(cls), normed))
        cls = cls + self.gamma2 * self.mlp(cls)
        patches = patches + self.gamma1 * normed
        if self.tokens_norm:
            patches = self.norm2(patches)
        return cls.astype(self.stream_type), (patches + patches).astype(self.stream_type)


class XCiT(Network):
    """The network.

    x: (B, in_channels, H, W), any size, -> logits (B, num_classes), or the class token (B, C) with num_classes=0.

    drop_path_rate is the same in all cross-covariance blocks; class attention drops nothing. drop_path_scale: see
    Residual.
    """

    CLASSIFIER = ("norm", "head", "cls_token", "cls_attn_blocks")

    def __init__(
        self,
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        eta: float,
        tokens_norm: bool,
        num_classes: int,
        in_channels: int,
        drop_path_rate: float,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
    ):
        if patch_size not in (8, 16):
            raise UserError(f"XCiT: patch_size is {patch_size}, but must be 8 or 16")
        features = [Feature(f"blocks.{index}", embed_dim, patch_size) for index in range(depth)]
        # the authors' detectors take 3, 5, 7, 11 of 12 blocks and 7, 11, 15, 23 of 24
        super().__init__(num_classes, features, sorted({max(depth * part // 12 - 1, 0) for part in (4, 6, 8, 12)}))
        self.patch_size = patch_size
        self.patch_embed = PatchEmbed(patch_size, in_channels, embed_dim)
        self.pos_embeder = FourierPositions(embed_dim)
        self.cls_token = weight_of((1, 1, embed_dim))
        self.pos_drop = Dropout(drop_rate)
        self.blocks = nn.CellList(
            [
                CrossCovarianceBlock(embed_dim, num_heads, mlp_ratio, eta, drop_rate, attn_drop_rate, drop_path_rate)
                for _ in range(depth)
            ]
        )
        self.cls_attn_blocks = nn.CellList(
            [
                ClassAttentionBlock(embed_dim, num_heads, mlp_ratio, eta, tokens_norm, drop_rate, attn_drop_rate)
                for _ in range(CLASS_BLOCKS)
            ]
        )
        self.norm = LayerNorm(embed_dim, LAYER_NORM_EPS)
        self.head = self.new_head(num_classes)

    def saved_multiply_adds(self, size: int) -> int:
        """See Network: class attention."""
        return sum(
            block.attn.saved_multiply_adds((-(-size // self.patch_size)) ** 2 + 1) for block in self.cls_attn_blocks
        )

    def no_weight_decay(self) -> frozenset[str]:
        """The class token. The temperatures (h, 1, 1) do decay: the authors name them where timm doesn't look."""
        return frozenset({"cls_token"})

    def tokens(self, x: Tensor) -> Tensor:
        """Images -> tokens (B*N, C), position added."""
        batch = x.shape[0]
        x = self.patch_embed(self.layout.from_images(x))
        height, width = self.layout.grid(x)
        x = self.pos_drop(self.layout.to_tokens(x).reshape(batch, height * width, -1) + self.pos_embeder(height, width))
        return x.reshape(batch * height * width, -1).astype(self.stream_type)

    def after_blocks(self, x: Tensor, drop_path_scale: Optional[Tensor]) -> tuple[Tensor, ...]:
        """Images -> the tokens (B*N, C) after each block."""
        batch, height, width = x.shape[0], self.side(x.shape[2]), self.side(x.shape[3])
        tokens = self.tokens(x)
        outputs: tuple[Tensor, ...] = ()
        for block in self.blocks:
            tokens = block(tokens, batch, height, width, drop_path_scale)
            outputs = (*outputs, tokens)
        return outputs

    def side(self, side: int) -> int:
        """Patches along an image's side; one that hangs over the edge counts, as the stem's halvings leave it."""
        return -(-side // self.patch_size)

    def feature_maps(self, x: Tensor, drop_path_scale: Optional[Tensor] = None) -> list[Tensor]:
        """(B, in_channels, H, W) -> the patches on their grid of H / patch_size x W / patch_size after each block,
        without norm.
        """
        batch, height, width = x.shape[0], self.side(x.shape[2]), self.side(x.shape[3])
        found = self.after_blocks(x, drop_path_scale)
        return [self.layout.from_tokens(tokens, batch, height, width) for tokens in found]

    def forward_features(self, x: Tensor, drop_path_scale: Optional[Tensor] = None) -> Tensor:
        """(B, in_channels, H, W) -> the normalised class token (B, C)."""
        patches = self.after_blocks(x, drop_path_scale)[-1]
        cls = ops.broadcast_to(self.cls_token.reshape(1, -1), (x.shape[0], -1)).astype(self.stream_type)
        for block in self.cls_attn_blocks:
            cls, patches = block(cls, patches)
        return self.norm(cls)


# The authors' segmentation configs confirm the drop paths of tiny_12, small_12, small_24 and medium_24; the others
# are said to be in Table B.1.
SIZES = {  # embed_dim, depth, heads, eta, tokens_norm, drop path
    "nano_12": (128, 12, 4, 1.0, False, 0.0),
    "tiny_12": (192, 12, 4, 1.0, True, 0.0),
    "tiny_24": (192, 24, 4, 1e-5, True, 0.05),
    "small_12": (384, 12, 8, 1.0, True, 0.05),
    "small_24": (384, 24, 8, 1e-5, True, 0.1),
    "medium_24": (512, 24, 8, 1e-5, True, 0.15),
    "large_24": (768, 24, 16, 1e-5, True, 0.25),
}

# Released weights: each of the networks below was trained at 224 px, distilled at 224, and distilled and then tuned
# at 384.
WEIGHTS = ("224", "224_distill", "384_distill")
# fmt: off
# size, patch: params, multiply-adds at 224 and at 384, (acc1, acc5) of each of WEIGHTS in timm's results-imagenet.csv
RELEASED = {
    ("nano_12", 16): (3053224, 557324544, 1636840704, ((69.982, 89.780), (72.318, 90.826), (75.460, 92.672))),
    ("nano_12", 8): (3049016, 2159092992, 6344078592, ((73.900, 92.154), (76.330, 93.070), (77.810, 94.036))),
    ("tiny_12", 16): (6716272, 1244513664, 3655257984, ((77.122, 93.728), (78.572, 94.210), (80.954, 95.430))),
    ("tiny_12", 8): (6706504, 4828510080, 14187818880, ((79.710, 95.058), (81.214, 95.614), (82.394, 96.222))),
    ("tiny_24", 16): (12116896, 2336443776, 6864195456, ((79.474, 94.878), (80.462, 95.202), (82.580, 96.254))),
    ("tiny_24", 8): (12107128, 9196230528, 27023568768, ((81.888, 95.978), (82.578, 96.186), (83.784, 96.716))),
    ("small_12", 16): (26253304, 4853484288, 14255693568, ((81.982, 95.814), (83.354, 96.420), (84.734, 97.136))),
    ("small_12", 8): (26213032, 18849427200, 55386627840, ((83.354, 96.472), (84.252, 96.874), (85.068, 97.264))),
    ("small_24", 16): (47671384, 9118243584, 26788863744, ((82.588, 95.996), (83.880, 96.734), (85.102, 97.318))),
    ("small_24", 8): (47631112, 35908464384, 105519308544, ((83.854, 96.636), (84.878, 97.200), (85.580, 97.572))),
    ("medium_24", 16): (84395752, 16186156032, 47554286592, ((82.630, 95.978), (84.292, 96.936), (85.434, 97.408))),
    ("medium_24", 8): (84323624, 63756014592, 187351421952, ((83.744, 96.394), (85.078, 97.274), (85.842, 97.602))),
    ("large_24", 16): (189096136, 36017911296, 105819618816, ((82.886, 95.880), (84.936, 97.128), (85.778, 97.530))),
    ("large_24", 8): (188932648, 141880942080, 416927301120, ((84.380, 96.664), (85.396, 97.418), (86.024, 97.690))),
}
# fmt: on


def _register_all() -> None:
    for (size, patch), (params, *macs, accuracies) in RELEASED.items():
        embed_dim, depth, heads, eta, tokens_norm, drop_path = SIZES[size]
        config = {
            "patch_size": patch,
            "embed_dim": embed_dim,
            "depth": depth,
            "num_heads": heads,
            "mlp_ratio": 4,
            "eta": eta,
            "tokens_norm": tokens_norm,
        }
        for weights, (acc1, acc5) in zip(WEIGHTS, accuracies):
            pixels, *distilled = weights.split("_")
            plain = f"xcit_{size}_p{patch}_{pixels}"  # what timm and PaddleViT call both of a pair
            tag = f"{plain}.fb_dist_in1k" if distilled else f"{plain}.fb_in1k"
            info = ModelInfo(
                name="_".join((plain, *distilled)),
                family="xcit",
                params=params,
                macs=macs[pixels == "384"],
                input_size=int(pixels),
                crop_pct=1.0,
                acc1=acc1,
                acc5=acc5,
                accuracy_source=f"timm results-imagenet.csv, {tag}",
                paper="https://arxiv.org/abs/2106.09681",
                source=f"facebookresearch/xcit {plain}{'_dist' if distilled else ''}.pth",
                drop_path_rate=drop_path,
                aliases=(tag, plain) if weights == "384_distill" else (tag,),
            )  # 384 px come distilled only
            register(Entry(info, XCiT, config))


_register_all()
