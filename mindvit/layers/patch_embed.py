"""Patches of an image with a class token in front, each plus its position."""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from mindvit.kernels import ops as kernels
from mindvit.layers.conv import Conv2d, FeatureLayout
from mindvit.runtime import platform


class PatchTokens(nn.Cell):
    """A class token and an image's patches of `patch` px; each plus its position.

    The patches are those of one convolution or of a `stem` of several, which goes by the same name, `proj`.
    x: (B, in_channels, H, W), cls: (1, 1, C), positions: (1, 1 + N, C) -> (B, 1 + N, C).
    """

    def __init__(self, patch: int, channels: int, width: int, stem: Any = None):
        super().__init__()
        self.layout = FeatureLayout()
        self.single = stem is None
        self.proj: Any = Conv2d(channels, width, patch, patch, 0) if stem is None else stem
        fits = self.single and platform.current().product_kernels
        self.fused_op: Any = kernels.PatchTokens(patch) if fits else None

    def construct(self, x: Tensor, cls: Parameter, positions: Parameter) -> Tensor:
        if self.fused_op is not None and self.proj.compute_type == ms.float32:
            weight, bias = self.proj.weight.value(), self.proj.bias.value()
            return self.fused_op(x.astype(ms.float32), weight, bias, cls.value(), positions.value())[0]
        maps = self.layout.from_images(x)
        tokens = self.proj.tokens(maps) if self.single else self.layout.to_tokens(self.proj(maps))  # B*N C
        patches = tokens.reshape(-1, positions.shape[1] - 1, tokens.shape[1])  # B N C
        return ops.cat((ops.broadcast_to(cls.astype(tokens.dtype), (x.shape[0], 1, -1)), patches), 1) + positions
