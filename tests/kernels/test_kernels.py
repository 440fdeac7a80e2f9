"""The CPU's own kernels against the operators they stand for, forward and backward, and what happens where they can't
be built.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from modes import uncompiled

from mindvit.errors import UserError
from mindvit.kernels import ops as kernels
from mindvit.layers.activation import GELU, QuickGELU, Softmax
from mindvit.layers.attention import Block, SelfAttention
from mindvit.layers.augment import AugmentImages
from mindvit.layers.class_attention import ClassAttention, CrossAttention
from mindvit.layers.conv import Conv2d, DepthwiseConv3x3, FeatureLayout
from mindvit.layers.cross_covariance import CrossCovarianceAttention
from mindvit.layers.drop_path import Residual, number_drop_paths
from mindvit.layers.linear import Linear, weight_of
from mindvit.layers.masked_batch_norm import MaskedBatchNorm
from mindvit.layers.mlp import Mlp
from mindvit.layers.norm import BatchNorm, LayerNorm
from mindvit.layers.pixel_cross_entropy import PixelCrossEntropy
from mindvit.layers.recompute import set_recompute
from mindvit.layers.resize import BicubicResize
from mindvit.models.crossformer import GroupAttention
from mindvit.models.crossvit import MultiScaleBlock, patch_embed
from mindvit.models.cvt import Attention
from mindvit.models.xcit import CrossCovarianceBlock
from mindvit.optim.optimizers import SquareSum
from mindvit.runtime import platform

BATCH = 6
PLAIN = dataclasses.replace(platform.of("CPU"), kernels=False, product_kernels=False)  # the framework's operators
KEPT = np.array([0, 1, 0, 1, 1, 1], np.float32)  # two of six samples are dropped


class OnMaps(nn.Cell):
    """A cell of maps, from and to images, whatever the layout."""

    def __init__(self, cell: nn.Cell):
        super().__init__()
        self.layout, self.cell = FeatureLayout(), cell

    def construct(self, x: Tensor) -> Tensor:
        return self.layout.to_images(self.cell(self.layout.from_images(x)))


class With(nn.Cell):
    """A cell with further arguments."""

    def __init__(self, cell: nn.Cell, *more: Any):
        super().__init__()
        self.cell, self.more = cell, more

    def construct(self, x: Tensor) -> Tensor:
        return self.cell(x, *self.more)


class Beside(nn.Cell):
    """A residual branch of a norm's result, and more of the norm's x."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = LayerNorm(24, 1e-6)

    def construct(self, x: Tensor) -> Tensor:
        x, y = self.norm.with_residual(x)
        return x * 3 + y * y


class FromClassToken(nn.Cell):
    """A class token's attention, cross attention of CrossViT or class attention of XCiT; x: tokens (B, N, C), of
    which the first is the class token.
    """

    def __init__(self, cell: nn.Cell, cross: bool):
        super().__init__()
        self.cell, self.cross = cell, cross

    def construct(self, x: Tensor) -> Tensor:
        channels = x.shape[2]
        return self.cell(x[:, :1] * 2, x) if self.cross else self.cell(x[:, 0], x[:, 1:].reshape(-1, channels))


class Branch(nn.Cell):
    """A residual branch, scaled by channel and dropped for two of six samples."""

    def __init__(self, scaled: bool, rate: float, rows: int):
        super().__init__()
        self.residual = Residual(rate)
        self.gamma: Any = weight_of((10,)) if scaled else None
        self.kept = Tensor(KEPT[None] / (1 - rate))
        self.slope = Tensor(np.linspace(-1, 1, BATCH * rows * 10).reshape(-1, 10), ms.float32)

    def construct(self, x: Tensor) -> Tensor:
        return self.residual(x, x * self.slope, BATCH, self.kept, self.gamma)


class Whole(nn.Cell):
    """A block, whose branches are kernels from end to end, with stochastic depth."""

    def __init__(self, block: nn.Cell, *more: Any):
        super().__init__()
        self.block, self.more = block, more
        self.kept = Tensor(np.array([KEPT / (1 - rate) for rate in number_drop_paths(block)]))

    def construct(self, x: Tensor) -> Tensor:
        return self.block(x, BATCH, *self.more, self.kept)


class Grouped(Whole):
    """A block on a grid of tokens."""

    def construct(self, x: Tensor) -> Tensor:
        return self.block(x, BATCH, self.kept, *self.more)


class TwoBranches(nn.Cell):
    """A multi-scale block of CrossViT, with 7 tokens of 16 and 11 of 24 channels cut from x (B, 11, 24); all tokens,
    or only class tokens.
    """

    def __init__(self, class_tokens: bool):
        super().__init__()
        self.block = MultiScaleBlock((16, 24), (7, 11), (2, 3), (2, 3), ((0.0,), (0.0, 0.4)), 0.0, 0.0)
        self.kept = Tensor(np.array([KEPT / (1 - rate) for rate in number_drop_paths(self.block)]))
        self.class_tokens = class_tokens

    def construct(self, x: Tensor) -> Tensor:
        small, large = x[:, :7, :16].reshape(-1, 16), x.reshape(-1, 24)
        small, large = self.block(small, large, BATCH, self.kept, self.class_tokens)
        return ops.cat((small.reshape(BATCH, -1), large.reshape(BATCH, -1)), 1)


class Labelled(nn.Cell):
    """The cross entropy of maps that are resized to labels, some of which count nothing."""

    def __init__(self, classes: int, *size: int):
        super().__init__()
        weights = weight_of((classes,))
        weights.requires_grad = False
        self.layout, self.loss = FeatureLayout(), PixelCrossEntropy(255, weights if classes < 10 else None)
        labels = np.random.default_rng(1).integers(0, classes, (BATCH, *size))
        labels[:, : size[0] // 3] = labels[0, :, 1] = 255
        self.labels = Tensor(labels.astype(np.int32))

    def construct(self, x: Tensor) -> Tensor:
        return self.loss(self.layout.from_images(x), self.labels)


class FromImages(nn.Cell):
    """CrossViT's class token and patches of 16 px, whose weights are (10, 3, 16, 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = patch_embed(1, 3, 10, "patch")
        self.cls, self.positions = weight_of((1, 1, 10)), weight_of((1, 7, 10))

    def construct(self, x: Tensor) -> Tensor:
        return self.embed(x, self.cls, self.positions)


CELLS: dict[str, tuple[Callable[[], nn.Cell], tuple[int, ...]]] = {
    "gelu": (GELU, (3, 5, 7)),
    "linear": (lambda: Linear(23, 9), (4, 17, 23)),
    "linear without a bias": (lambda: Linear(23, 9, bias=False), (5, 23)),
    "long linear": (lambda: Linear(40, 30), (1000, 40)),
    "plain branch": (lambda: Branch(False, 0.0, 7), (BATCH * 7, 10)),
    "scaled branch": (lambda: Branch(True, 0.0, 4), (BATCH * 4, 10)),
    "branch that is dropped": (lambda: Branch(False, 0.4, 4), (BATCH * 4, 10)),
    "long scaled branch that is dropped": (lambda: Branch(True, 0.4, 1000), (BATCH * 1000, 10)),
    "mlp": (lambda: Mlp(5, 33, 0.0), (70, 5)),
    "quick mlp": (lambda: Mlp(5, 33, 0.0, QuickGELU()), (200, 5)),
    "long mlp": (lambda: Mlp(16, 64, 0.0), (3000, 16)),  # long enough for two threads
    "linear of few rows": (lambda: Linear(300, 450), (7, 300)),  # threads share out columns
    "block of few rows": (
        lambda: Whole(Block(240, SelfAttention(240, 3, 0.0, 0.0), 3, 1e-6, 0.0, 0.4)),
        (BATCH * 2, 240),
    ),
    "softmax": (Softmax, (2, 3, 4, 19)),
    "layer norm": (lambda: LayerNorm(37, 1e-6), (3, 29, 37)),
    "long layer norm": (lambda: LayerNorm(32, 1e-5), (2500, 32)),
    "cross attention": (lambda: FromClassToken(CrossAttention(24, 3, 0.0, 0.0), True), (BATCH, 11, 24)),
    "class attention": (lambda: FromClassToken(ClassAttention(24, 3, 0.0, 0.0), False), (BATCH, 11, 24)),
    "resize to fewer": (lambda: BicubicResize(5), (2, 3, 9, 8)),
    "resize to more": (lambda: BicubicResize(17), (BATCH, 3, 6, 13)),
    "layer norm beside a branch": (Beside, (5, 17, 24)),
    "attention": (lambda: With(SelfAttention(24, 3, 0.0, 0.0), BATCH), (BATCH * 11, 24)),
    "group attention": (
        lambda: With(GroupAttention(48, 3, (3, 2, True, "head"), 0.0, 0.0), BATCH, (11, 9)),  # for two threads
        (BATCH * 99, 48),
    ),
    "group attention block": (
        lambda: Grouped(Block(48, GroupAttention(48, 6, (3, 2, True, "head"), 0.0, 0.0), 2, 1e-5, 0.0, 0.4), (11, 9)),
        (BATCH * 99, 48),
    ),
    "block of groups side by side": (
        lambda: Grouped(Block(32, GroupAttention(32, 4, (4, 2, False, "head"), 0.0, 0.0), 2, 1e-5, 0.0, 0.0), (4, 12)),
        (BATCH * 48, 32),
    ),
    "convolutional attention": (lambda: With(Attention(16, 2, True, 0.0, 0.0), BATCH, (5, 4)), (BATCH * 21, 16)),
    "cross-covariance attention": (lambda: With(CrossCovarianceAttention(24, 3, 0.0, 0.0), BATCH), (BATCH * 11, 24)),
    "block": (lambda: Whole(Block(24, SelfAttention(24, 3, 0.0, 0.0), 3, 1e-6, 0.0, 0.4)), (BATCH * 11, 24)),
    "long block that keeps all": (
        lambda: With(Block(16, SelfAttention(16, 2, 0.0, 0.0), 4, 1e-5, 0.0, 0.0, QuickGELU()), BATCH),
        (BATCH * 300, 16),
    ),
    "two branches": (lambda: TwoBranches(False), (BATCH, 11, 24)),
    "class tokens of two branches": (lambda: TwoBranches(True), (BATCH, 11, 24)),
    "cross-covariance block": (
        lambda: Whole(CrossCovarianceBlock(24, 3, 4, 0.5, 0.0, 0.0, 0.4), 4, 3),
        (BATCH * 12, 24),
    ),
    "class token and patches": (FromImages, (5, 3, 48, 32)),  # threads part within a sample
    "patches": (lambda: OnMaps(Conv2d(3, 10, 4, 4, 0)), (BATCH, 3, 13, 12)),
    "convolution": (lambda: OnMaps(Conv2d(3, 10, 3, 2, 1)), (BATCH, 3, 13, 12)),
    "overlapping convolution": (lambda: OnMaps(Conv2d(4, 10, 6, 3, 1, bias=False)), (BATCH, 4, 18, 15)),
    "long overlapping convolution": (lambda: OnMaps(Conv2d(3, 8, 16, 4, 6)), (5, 3, 64, 60)),
    "convolution of a few tiles": (lambda: OnMaps(Conv2d(64, 10, 3, 1, 1)), (2, 64, 9, 12)),
    "convolution of many tiles": (lambda: OnMaps(Conv2d(64, 9, 3, 1, 1)), (2, 64, 33, 28)),
    "pixel cross entropy": (lambda: Labelled(7, 13, 16), (BATCH, 7, 5, 6)),
    "long pixel cross entropy": (lambda: Labelled(70, 40, 41), (BATCH, 70, 10, 21)),  # for two threads
    "depth-wise": (lambda: OnMaps(DepthwiseConv3x3(9)), (BATCH, 9, 6, 7)),
    "depth-wise, stride 2": (lambda: OnMaps(DepthwiseConv3x3(9, 2, bias=False)), (BATCH, 9, 7, 6)),
    "depth-wise, one row": (lambda: OnMaps(DepthwiseConv3x3(33)), (BATCH, 33, 1, 40)),
    "batch norm": (lambda: OnMaps(BatchNorm(9)), (BATCH, 9, 6, 7)),
    "batch norm of some maps": (lambda: OnMaps(With(MaskedBatchNorm(9), Tensor(KEPT))), (BATCH, 9, 6, 7)),
}


def outcome(make: Callable[[], nn.Cell], shape: tuple[int, ...], training: bool) -> dict[str, np.ndarray]:
    """The cell's output, the gradients of its input and weights, and its running statistics, of made-up numbers that
    are always the same.
    """
    cell = make()
    random = np.random.default_rng(0)
    for item in cell.get_parameters():
        item.set_data(Tensor((random.random(item.shape) * 0.5 + 0.2 * (item.ndim == 1)).astype(np.float32)))
    cell.set_train(training)
    x = Tensor(random.standard_normal(shape).astype(np.float32) * 2)
    weights = list(cell.trainable_params())
    y = cell(x)
    slope = Tensor(random.standard_normal(y.shape).astype(np.float32))

    def loss(x: Tensor) -> Tensor:
        return (cell(x) * slope).sum()

    function = ops.value_and_grad(loss, 0, ms.ParameterTuple(weights) if weights else None)
    _, gradients = function(x)
    gradients, others = gradients if weights else (gradients, ())
    return {
        "y": y.asnumpy(),
        "x": gradients.asnumpy(),
        **{item.name: value.asnumpy() for item, value in zip(weights, others)},
        **{item.name: item.asnumpy() for item in cell.get_parameters() if not item.requires_grad},
    }


def both(name: str, training: bool) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What kernels in a graph give, and what the operators do, whose graphs would take most of the time to compile."""
    ours = outcome(*CELLS[name], training)
    with platform.use(PLAIN), uncompiled():
        return ours, outcome(*CELLS[name], training)


def same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert list(ours) == list(theirs)
    largest = max(np.abs(value).max() for value in theirs.values())  # some gradients are zero but for rounding
    for key, expected in theirs.items():
        assert np.isfinite(expected).all() and np.abs(ours[key] - expected).max() < 5e-6 * (
            np.abs(expected).max() + largest
        ), key


@pytest.mark.parametrize("name", CELLS)
def test_kernels_do_what_the_operators_do(name: str) -> None:
    assert platform.current().product_kernels, "this machine lacks a C++ compiler: CI must have one"
    same(*both(name, training=True))


def test_evaluation_takes_the_running_statistics() -> None:
    ours, theirs = both("batch norm", training=False)
    assert all(np.abs(ours[key] - theirs[key]).max() < 1e-5 * max(1.0, np.abs(theirs[key]).max()) for key in theirs)


@pytest.mark.parametrize(
    "name",
    [
        "block",
        "long block that keeps all",
        "block of few rows",
        "group attention block",
        "two branches",
        "cross-covariance block",
    ],
)
def test_evaluation_does_what_the_operators_do(name: str) -> None:
    """Evaluation keeps nothing for a gradient, but one can be had all the same."""
    same(*both(name, training=False))


@pytest.mark.parametrize("name", ["long block that keeps all", "cross-covariance block"])
def test_what_is_computed_again_is_the_same(name: str) -> None:
    make, shape = CELLS[name]
    cell = make()
    set_recompute(cell)
    kept, again = outcome(make, shape, training=True), outcome(lambda: cell, shape, training=True)
    assert all(np.array_equal(kept[key], again[key]) for key in kept)
    assert sum(getattr(item, "recomputes", False) for _, item in cell.cells_and_names()) == (2 if "long" in name else 3)


def test_a_branch_that_recomputes_keeps_its_inputs_alone() -> None:
    branch = kernels.MlpBranch("Gelu").set_train()
    one, row, square = (Tensor(np.ones(shape, np.float32)) for shape in ((1,), (4,), (4, 4)))
    inputs = (square, one, one, (row, row, one), (square, row, square, row))
    assert len(branch.construct(*inputs)) == 5
    branch.recomputes = True
    assert len(branch.construct(*inputs)) == 1


def test_what_cannot_be_computed_again() -> None:
    with pytest.raises(UserError, match="on a CPU only our kernels recompute"):
        set_recompute(Block(24, SelfAttention(24, 3, 0.1, 0.1), 3, 1e-6, 0.1, 0.0))


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((1, 9, 1), (2, 0, 1)),
        ((70, 130), (1, 0)),
        ((3, 65, 2, 67), (0, 3, 1, 2)),
        ((300, 5, 1, 40), (1, 0, 2, 3)),
        ((2, 3, 4, 5, 2, 3, 7), (0, 2, 3, 5, 1, 4, 6)),
        ((4, 3, 2, 5, 6), (4, 1, 3, 0, 2)),
    ],
)
def test_axes_in_another_order(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    cell, random = kernels.Transpose(axes), np.random.default_rng(0)
    x = random.standard_normal(shape, np.float32)
    slope = random.standard_normal(x.transpose(axes).shape, np.float32)
    assert np.array_equal(cell(Tensor(x)).asnumpy(), x.transpose(axes))

    def loss(x: Tensor) -> Tensor:
        return (cell(x) * Tensor(slope)).sum()

    assert np.array_equal(ops.grad(loss)(Tensor(x)).asnumpy(), slope.transpose(np.argsort(axes)))


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 16, 16, 1), (3, 40, 31, 4)])
def test_pixels_are_normalised(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, shape, dtype=np.uint8)
    factor, offset = random.random((2, shape[-1])).astype(np.float32)
    y = kernels.Pixels()(Tensor(images), Tensor(factor), Tensor(offset)).asnumpy()
    assert y.dtype == np.float32 and np.allclose(y, (images * factor + offset).transpose(0, 3, 1, 2), rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 16, 16, 1), (3, 140, 131, 4)])
@pytest.mark.parametrize("erase, mix", [(False, False), (True, False), (False, True), (True, True)])
def test_images_are_prepared(shape: tuple[int, ...], erase: bool, mix: bool) -> None:
    batch, height, width, channels = shape
    random = np.random.default_rng(0)
    edges = np.sort(random.integers(0, (height + 1, width + 1), (batch, 2, 2)), 1)
    boxes = edges.transpose(0, 2, 1).reshape(batch, 4) * erase
    arrays = (
        random.integers(0, 256, shape, np.uint8),
        random.random((height, width, 1), np.float32) if mix else np.ones((height, width, 1), np.float32),
        boxes.astype(np.int32),
        random.standard_normal((height, width, channels), np.float32),
    )
    mean, std = random.random((2, channels)) + 0.1
    results = []
    for own in (True, False):
        with contextlib.nullcontext() if own else platform.use(PLAIN):
            results.append(AugmentImages(mean, std, erase, mix)(*map(Tensor, arrays)).asnumpy())
    assert results[0].dtype == np.float32 and results[0].shape == (batch, channels, height, width)
    assert np.allclose(results[0], results[1], rtol=1e-5, atol=1e-5)


def test_the_kernels_are_used() -> None:
    cells = {name: make() for name, (make, _) in CELLS.items()}
    for name, cell in cells.items():
        inside = [type(item).__module__ for _, item in cell.cells_and_names()]
        assert any(module.startswith(kernels.__name__) for module in inside), name
    with platform.use(PLAIN):
        assert not any(
            type(item).__module__.startswith(kernels.__name__)
            for make, _ in CELLS.values()
            for _, item in make().cells_and_names()
        )


def test_the_library_outlives_the_graphs_that_use_it() -> None:
    """Its threads run on, so that unloading it would end the process."""
    program = """
import mindspore as ms, numpy as np
from mindspore import Tensor
ms.set_device("CPU"); ms.set_context(mode=ms.GRAPH_MODE)
from mindvit.kernels import build
from mindvit.layers.augment import AugmentImages
images, pixel = np.zeros((2, 6, 6, 3), np.uint8), np.ones((6, 6, 1), np.float32)
box, noise = np.zeros((2, 4), np.int32), np.ones((6, 6, 3), np.float32)
# nobody has the cell, so its graph goes at once
AugmentImages((0.5,) * 3, (0.2,) * 3, erase=True, mix=True)(*map(Tensor, (images, pixel, box, noise)))
print(build.library() in open("/proc/self/maps").read())"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert ended.returncode == 0 and ended.stdout.split()[-1] == "True", ended.stderr[-2000:]


def test_gelu_in_its_tails_and_beyond() -> None:
    x = np.array([-math.inf, -100, -10, -5, -1e-20, 0, 1e-20, 5, 100, math.inf, math.nan], np.float32)
    y = kernels.Gelu()(Tensor(x)).asnumpy()
    exact = np.array([value * 0.5 * math.erfc(-value / math.sqrt(2)) for value in x[1:-2].astype(float)])
    assert np.abs(y[1:-2] - exact).max() < 1e-6 and abs(y[2] / exact[1] - 1) < 1e-4 and abs(y[3] / exact[2] - 1) < 1e-5
    assert y[-2] == math.inf and np.isnan(y[-1])


def test_softmax_of_scores_far_apart_and_of_none() -> None:
    y = kernels.Softmax()(
        Tensor(np.array([[1e4, 0, -1e4], [-1e30, -1e30, -1e30], [math.nan, 0, 0]], np.float32))
    ).asnumpy()
    assert y[0].tolist() == [1, 0, 0] and np.allclose(y[1], 1 / 3) and np.isnan(y[2]).all()


def test_a_gradient_that_is_no_number_is_not_swallowed() -> None:
    x, weight = Tensor(np.ones((4, 8), np.float32)), Tensor(np.ones(8, np.float32))
    gradient = np.ones((4, 8), np.float32)
    gradient[1, 2] = math.nan
    norm = kernels.LayerNorm(1e-6)
    _, _, mean, inverse = norm(x, weight, weight)
    assert all(np.isnan(item.asnumpy()).any() for item in norm.backward(x, weight, mean, inverse, Tensor(gradient), x))


def test_long_sums_keep_their_digits() -> None:
    rows = 200_000
    x = Tensor(np.zeros((rows, 3), np.float32))
    gradient = np.random.default_rng(0).random((rows, 3)).astype(np.float32)
    _, total = kernels.Linear().weight_gradient(x, Tensor(gradient))
    assert np.abs(total.asnumpy() / gradient.astype(np.float64).sum(0) - 1).max() < 1e-6


def test_the_sum_of_all_squares() -> None:
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(shape).astype(np.float32) * 3 for shape in ((3,), (700, 900), (1,), (5, 4, 3, 2))]
    tensors = tuple(map(Tensor, arrays))
    expected = sum(np.square(array, dtype=np.float64).sum() for array in arrays)
    assert abs(SquareSum()(tensors).asnumpy() / expected - 1) < 1e-6
    arrays[1][3, 4] = math.nan
    assert math.isnan(SquareSum()(tuple(map(Tensor, arrays))).asnumpy())
    with platform.use(PLAIN):
        assert abs(SquareSum()(tensors).asnumpy() / expected - 1) < 1e-6
