"""CrossFormer's classifiers and segmentors in plain PyTorch, as their authors wrote them: what mindvit's are measured
beside.

Written from the papers and facts about the authors' code (group settings of 2021, mmsegmentation's heads), with
mmsegmentation's parameter names; tests/interop/check_peer.py compares it with mmsegmentation's own numbers.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ADE20K_CLASSES, IGNORED, SIDE = 150, 255, 512
EMBED = ((4, 2), (8, 4), (16, 8), (32, 8))  # kernel, and which part of the channels it gives
DROP_RATE, AUXILIARY_WEIGHT, MASKED = 0.1, 0.4, -1e6


class Size(NamedTuple):
    """A CrossFormer."""

    channels: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]


SIZES = {
    "tiny": Size(64, (1, 1, 8, 6), (2, 4, 8, 16)),  # a classifier alone
    "small": Size(96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "base": Size(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "large": Size(128, (2, 2, 18, 2), (4, 8, 16, 32)),
}
CLASSIFIERS = (7, 7, 7, 7), (8, 4, 2, 1)  # group and interval of each stage
GROUPS = {"upernet": ((7, 7, 7, 7), (8, 4, 2, 1)), "semantic_fpn": ((14, 14, 7, 7), (16, 8, 2, 1))}
METHODS = tuple(GROUPS)


class DynamicPositionBias(nn.Module):
    """(offsets, 2) -> (offsets, heads)."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        hidden = channels // 16
        self.pos_proj = nn.Linear(2, hidden)
        self.pos1, self.pos2, self.pos3 = (
            nn.Sequential(nn.LayerNorm(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs))
            for outputs in (hidden, hidden, heads)
        )

    def forward(self, offsets: Tensor) -> Tensor:
        return self.pos3(self.pos2(self.pos1(self.pos_proj(offsets))))


class Attention(nn.Module):
    """Among the tokens of each group, (groups, height * width, C), with a bias of every pair's offset."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads, self.scale = heads, (channels // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.pos = DynamicPositionBias(channels, heads)

    def bias(self, height: int, width: int) -> Tensor:
        """(heads, N, N)."""
        offsets = torch.stack(
            torch.meshgrid(torch.arange(1 - height, height), torch.arange(1 - width, width), indexing="ij")
        )
        table = self.pos(offsets.flatten(1).T.float())
        places = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")).flatten(1)
        down, across = places[:, :, None] - places[:, None, :]
        index = (down + height - 1) * (2 * width - 1) + across + width - 1
        return table[index.flatten()].view(height * width, height * width, -1).permute(2, 0, 1)

    def forward(self, x: Tensor, height: int, width: int, mask: Tensor | None) -> Tensor:
        groups, tokens, channels = x.shape
        q, k, v = self.qkv(x).view(groups, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q * self.scale @ k.transpose(-2, -1) + self.bias(height, width)
        if mask is not None:  # (groups of an image, N)
            scores = scores.view(-1, mask.shape[0], self.heads, tokens, tokens) + mask[:, None, None]
            scores = scores.view(groups, self.heads, tokens, tokens)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(groups, tokens, channels))


class Mlp(nn.Module):
    """Two products with GELU between."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention among neighbours or, `distant`, among every interval-th token; then an MLP. x: (B, H, W, C)."""

    def __init__(self, channels: int, heads: int, group: int, interval: int, distant: bool):
        super().__init__()
        self.group, self.interval, self.distant = group, interval, distant
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attn, self.mlp = Attention(channels, heads), Mlp(channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        group, distant = self.group, self.distant
        if min(height, width) <= group:
            group, distant = min(height, width), False
        step = self.interval if distant else group
        y = F.pad(self.norm1(x), (0, 0, 0, -width % step, 0, -height % step))
        high, wide = y.shape[1:3]
        real = torch.zeros(high, wide)
        real[height:], real[:, width:] = MASKED, MASKED
        if distant:  # the groups grow with the image
            r, s = high // step, wide // step
            y = y.view(batch, r, step, s, step, channels).permute(0, 2, 4, 1, 3, 5)
            real = real.view(r, step, s, step).permute(1, 3, 0, 2)
        else:
            r = s = step
            y = y.view(batch, high // step, step, wide // step, step, channels).permute(0, 1, 3, 2, 4, 5)
            real = real.view(high // step, step, wide // step, step).permute(0, 2, 1, 3)
        mask = real.reshape(-1, r * s) if (high, wide) != (height, width) else None
        y = self.attn(y.reshape(-1, r * s, channels), r, s, mask)
        if distant:
            y = y.view(batch, step, step, r, s, channels).permute(0, 3, 1, 4, 2, 5)
        else:
            y = y.view(batch, high // step, wide // step, step, step, channels).permute(0, 1, 3, 2, 4, 5)
        x = x + y.reshape(batch, high, wide, channels)[:, :height, :width]
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """(B, 3, 4H, 4W) -> (B, H, W, C)."""

    def __init__(self, channels: int):
        super().__init__()
        self.projs = nn.ModuleList(nn.Conv2d(3, channels // part, k, 4, (k - 4) // 2) for k, part in EMBED)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.cat([proj(x) for proj in self.projs], 1).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """(B, H, W, C) -> (B, H/2, W/2, 2C)."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.reductions = nn.ModuleList(nn.Conv2d(channels, channels, k, 2, (k - 2) // 2) for k in (2, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x).permute(0, 3, 1, 2)
        return torch.cat([reduction(x) for reduction in self.reductions], 1).permute(0, 2, 3, 1)


class Stage(nn.Module):
    """Blocks, and what makes the next stage's tokens."""

    def __init__(self, blocks: Sequence[Block], downsample: PatchMerging | None):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        if downsample is not None:
            self.downsample = downsample


class Backbone(nn.Module):
    """CrossFormer without a classifier: the maps after each stage, (B, C, H, W)."""

    def __init__(self, size: Size, groups: Sequence[int], intervals: Sequence[int]):
        super().__init__()
        self.patch_embed = PatchEmbed(size.channels)
        self.layers = nn.ModuleList()
        for level, (depth, heads, group, interval) in enumerate(zip(size.depths, size.heads, groups, intervals)):
            width = size.channels * 2**level
            blocks = [Block(width, heads, group, interval, number % 2 == 1) for number in range(depth)]
            self.layers.append(Stage(blocks, PatchMerging(width) if level + 1 < len(groups) else None))

    def stages(self, x: Tensor) -> list[Tensor]:
        """(B, H, W, C) each."""
        x, found = self.patch_embed(x), []
        for number, stage in enumerate(self.layers):
            for block in stage.blocks:
                x = block(x)
            found.append(x)
            if number + 1 < len(self.layers):
                x = stage.downsample(x)
        return found

    def forward(self, x: Tensor) -> list[Tensor]:
        return [tokens.permute(0, 3, 1, 2).contiguous() for tokens in self.stages(x)]


class Classifier(Backbone):
    """(B, 3, 224, 224) -> logits (B, classes)."""

    def __init__(self, size: Size, classes: int = 1000):
        super().__init__(size, *CLASSIFIERS)
        width = size.channels * 2 ** (len(size.depths) - 1)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.head(self.norm(self.stages(x)[-1]).mean((1, 2)))


class ConvModule(nn.Module):
    """Convolution and, where there is no bias, BatchNorm and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, norm: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2, bias=not norm)
        self.norm = norm
        if norm:
            self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True) if self.norm else self.conv(x)


def resized(x: Tensor, like: Tensor) -> Tensor:
    """Maps with another one's sides."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


class FPN(nn.Module):
    """A feature pyramid (Lin et al. 2017)."""

    def __init__(self, widths: Sequence[int], channels: int):
        super().__init__()
        self.lateral_convs = nn.ModuleList(ConvModule(width, channels, 1, norm=False) for width in widths)
        self.fpn_convs = nn.ModuleList(ConvModule(channels, channels, 3, norm=False) for _ in widths)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        found = [conv(item) for conv, item in zip(self.lateral_convs, maps)]
        for level in range(len(found) - 1, 0, -1):
            found[level - 1] = found[level - 1] + F.interpolate(found[level], size=found[level - 1].shape[2:])
        return [conv(item) for conv, item in zip(self.fpn_convs, found)]


class FCNHead(nn.Module):
    """One 3x3 convolution of one map."""

    def __init__(self, inputs: int, channels: int, classes: int, level: int):
        super().__init__()
        self.level = level
        self.convs = nn.Sequential(ConvModule(inputs, channels, 3))
        self.dropout = nn.Dropout2d(DROP_RATE)
        self.conv_seg = nn.Conv2d(channels, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.conv_seg(self.dropout(self.convs(maps[self.level])))


class FPNHead(nn.Module):
    """Semantic FPN (Kirillov et al. 2019)."""

    def __init__(self, widths: Sequence[int], channels: int, classes: int):
        super().__init__()
        self.scale_heads = nn.ModuleList()
        for level, width in enumerate(widths):
            steps: list[nn.Module] = []
            for number in range(max(level, 1)):
                steps.append(ConvModule(channels if number else width, channels, 3))
                if level:
                    steps.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.scale_heads.append(nn.Sequential(*steps))
        self.dropout = nn.Dropout2d(DROP_RATE)
        self.conv_seg = nn.Conv2d(channels, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        total = self.scale_heads[0](maps[0])
        for head, item in zip(self.scale_heads[1:], maps[1:]):
            total = total + resized(head(item), total)
        return self.conv_seg(self.dropout(total))


class UPerHead(nn.Module):
    """UPerNet (Xiao et al. 2018)."""

    def __init__(self, widths: Sequence[int], channels: int, classes: int):
        super().__init__()
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), ConvModule(widths[-1], channels, 1)) for side in (1, 2, 3, 6)
        )
        self.bottleneck = ConvModule(widths[-1] + 4 * channels, channels, 3)
        self.lateral_convs = nn.ModuleList(ConvModule(width, channels, 1) for width in widths[:-1])
        self.fpn_convs = nn.ModuleList(ConvModule(channels, channels, 3) for _ in widths[:-1])
        self.fpn_bottleneck = ConvModule(len(widths) * channels, channels, 3)
        self.dropout = nn.Dropout2d(DROP_RATE)
        self.conv_seg = nn.Conv2d(channels, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        pooled = [maps[-1], *(resized(module(maps[-1]), maps[-1]) for module in self.psp_modules)]
        found = [conv(item) for conv, item in zip(self.lateral_convs, maps)]
        found.append(self.bottleneck(torch.cat(pooled, 1)))
        for level in range(len(found) - 1, 0, -1):
            found[level - 1] = found[level - 1] + resized(found[level], found[level - 1])
        outputs = [conv(item) for conv, item in zip(self.fpn_convs, found)]
        outputs = [outputs[0], *(resized(item, outputs[0]) for item in (*outputs[1:], found[-1]))]
        return self.conv_seg(self.dropout(self.fpn_bottleneck(torch.cat(outputs, 1))))


class Segmentor(nn.Module):
    """(B, 3, H, W) -> logits (B, classes, H, W)."""

    def __init__(self, method: str, size: str, classes: int = ADE20K_CLASSES):
        super().__init__()
        self.backbone = Backbone(SIZES[size], *GROUPS[method])
        widths = [SIZES[size].channels * 2**level for level in range(4)]
        if method == "semantic_fpn":
            self.neck: nn.Module | None = FPN(widths, 256)
            self.decode_head: nn.Module = FPNHead([256] * 4, 128, classes)
            self.auxiliary_head: nn.Module | None = None
        else:
            self.neck = None
            self.decode_head = UPerHead(widths, 512, classes)
            self.auxiliary_head = FCNHead(widths[2], 256, classes, 2)

    def heads(self, x: Tensor) -> list[Tensor]:
        """Logits of the decode head and, where there is one, of the auxiliary head, at their own sides."""
        maps = self.backbone(x)
        logits = [self.decode_head(maps if self.neck is None else self.neck(maps))]
        return logits if self.auxiliary_head is None else [*logits, self.auxiliary_head(maps)]

    def forward(self, x: Tensor) -> Tensor:
        maps = self.backbone(x)
        return resized(self.decode_head(maps if self.neck is None else self.neck(maps)), x)

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        """The mean over all pixels, ignored ones included; labels: (B, H, W)."""
        total = x.new_zeros(())
        for logits, weight in zip(self.heads(x), (1.0, AUXILIARY_WEIGHT)):
            logits = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
            losses = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
            total = total + weight * losses.mean()
        return total


def is_segmentor(name: str) -> bool:
    """Whether it is one of mindvit's names of these networks."""
    return name.partition("_crossformer_")[0] in METHODS


def network(name: str) -> Segmentor | Classifier:
    """By mindvit's name: upernet_crossformer_small, crossformer_tiny, ..."""
    method, _, size = name.rpartition("crossformer_")
    return Segmentor(method[:-1], size) if method else Classifier(SIZES[size])
