"""Cells that call the kernels of csrc/. Each gives what the operators that it stands for give, within rounding."""

from mindvit.kernels.ops.activation import Gelu, Softmax
from mindvit.kernels.ops.attention import (
    Attention,
    ClassQuery,
    CrossCovariance,
    MixedAttention,
    PositionBias,
    attention_numbers,
)
from mindvit.kernels.ops.attention_branch import AttentionBranch, CrossCovarianceBranch
from mindvit.kernels.ops.conv import Conv, ConvSame, Depthwise, Im2col, PatchTokens
from mindvit.kernels.ops.cross_entropy import PixelCrossEntropy
from mindvit.kernels.ops.cross_fusion import CrossFusion
from mindvit.kernels.ops.custom import ProductCell
from mindvit.kernels.ops.detection import NMS, AssignBoxes, CutMasks, FocalLoss, RoIAlign
from mindvit.kernels.ops.images import MixedPixels, Pixels, Resize, ResizeMaps
from mindvit.kernels.ops.linear import Linear
from mindvit.kernels.ops.local_branch import LocalBranch, RunningLocalBranch
from mindvit.kernels.ops.mlp import MlpBranch
from mindvit.kernels.ops.norm import BatchNorm, BatchNormPredict, LayerNorm
from mindvit.kernels.ops.optimizer import AdamW, SquareSum
from mindvit.kernels.ops.residual import Residual, Sum
from mindvit.kernels.ops.transpose import Transpose

# cells that stand for a softmax among others
WITH_WEIGHTS = (
    Attention,
    MixedAttention,
    ClassQuery,
    CrossCovariance,
    AttentionBranch,
    CrossCovarianceBranch,
    CrossFusion,
)

__all__ = [
    "NMS",
    "WITH_WEIGHTS",
    "AdamW",
    "AssignBoxes",
    "Attention",
    "AttentionBranch",
    "BatchNorm",
    "BatchNormPredict",
    "ClassQuery",
    "Conv",
    "ConvSame",
    "CrossCovariance",
    "CrossCovarianceBranch",
    "CrossFusion",
    "CutMasks",
    "Depthwise",
    "FocalLoss",
    "Gelu",
    "Im2col",
    "LayerNorm",
    "Linear",
    "LocalBranch",
    "MixedAttention",
    "MixedPixels",
    "MlpBranch",
    "PatchTokens",
    "PixelCrossEntropy",
    "Pixels",
    "PositionBias",
    "ProductCell",
    "Residual",
    "Resize",
    "ResizeMaps",
    "RoIAlign",
    "RunningLocalBranch",
    "Softmax",
    "SquareSum",
    "Sum",
    "Transpose",
    "attention_numbers",
]
