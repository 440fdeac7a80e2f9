"""Cells that have two implementations, one for each kind of device: both give the same values and gradients."""

from __future__ import annotations

import math
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindvit.layers.activation import GELU
from mindvit.layers.conv import Conv2d, DepthwiseConv3x3, FeatureLayout
from mindvit.layers.norm import BatchNorm, LayerNorm
from mindvit.runtime import platform
from mindvit.runtime.platform import Platform


def values_and_gradients(cell: nn.Cell, x: np.ndarray) -> list[np.ndarray]:
    """Output, and gradients of its weighted sum with respect to the input and every parameter."""
    weights = ms.ParameterTuple(cell.trainable_params())
    shape = cell(Tensor(x)).shape
    factor = Tensor(np.random.default_rng(5).standard_normal(shape).astype(np.float32))

    def weighted(x: Tensor) -> Tensor:
        return (cell(x) * factor).sum()

    inner, outer = ops.grad(weighted, 0, weights)(Tensor(x))
    return [cell(Tensor(x)).asnumpy(), inner.asnumpy(), *(item.asnumpy() for item in outer)]


def both(slow: Platform, build: Any, x: np.ndarray) -> None:
    """What a cell gives on a platform where something is slow is what it gives elsewhere."""
    results = []
    for chosen in (slow, platform.PORTABLE):
        ms.set_seed(4)
        with platform.use(chosen):
            cell = build()
        for parameter, scale in zip(cell.trainable_params(), (1.0, 0.5)):
            parameter.set_data(
                Tensor(
                    scale * np.random.default_rng(parameter.size).standard_normal(parameter.shape).astype(np.float32)
                )
            )
        results.append(values_and_gradients(cell, x))
    assert len(results[0]) == 4
    for ours, reference in zip(*results):
        assert ours.shape == reference.shape and np.abs(ours - reference).max() < 2e-5 * max(1, np.abs(reference).max())


class OnImages(nn.Cell):
    """A cell that works on maps, between images."""

    def __init__(self, cell: nn.Cell):
        super().__init__()
        self.layout, self.cell = FeatureLayout(), cell

    def construct(self, x: Tensor) -> Tensor:
        return self.layout.to_images(self.cell(self.layout.from_images(x)))


class Tokens(nn.Cell):
    """Images -> tokens -> maps -> tokens of a convolution."""

    def __init__(self, cell: Conv2d):
        super().__init__()
        self.layout, self.cell = FeatureLayout(), cell

    def construct(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        tokens = self.layout.to_tokens(self.layout.from_images(x))
        return self.cell.tokens(self.layout.from_tokens(tokens, batch, height, width))


# the dagger stems' and CrossFormer's convolutions, and patches
@pytest.mark.parametrize(
    "kernel, stride, padding, around",
    [
        (7, 4, 3, OnImages),
        (3, 3, 0, Tokens),
        (3, 2, 1, OnImages),
        (3, 1, 1, OnImages),
        (4, 2, 1, Tokens),
        (4, 4, 0, Tokens),
    ],
)
def test_convolution_as_a_product(kernel: int, stride: int, padding: int, around: Any) -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 12, 16)).astype(np.float32)
    both(Platform(slow_convolution=True), lambda: around(Conv2d(4, 6, kernel, stride, padding)), x)


class Counted(nn.Cell):
    """What a cell gives of some of the maps; zeros of others."""

    def __init__(self, cell: nn.Cell, counts: np.ndarray):
        super().__init__(auto_prefix=False)
        self.cell, self.counts = cell, Tensor(counts.reshape(-1, 1, 1, 1))

    def construct(self, x: Tensor) -> Tensor:
        return self.cell(x) * self.counts


@pytest.mark.parametrize("counts", [(1, 0, 0, 1, 1), (0, 0)])
def test_convolution_of_maps_that_are_zero(counts: tuple[int, ...]) -> None:
    used = np.array(counts, np.float32)
    x = np.random.default_rng(0).standard_normal((len(used), 64, 6, 8)).astype(np.float32) * used[:, None, None, None]
    both(platform.current(), lambda: Counted(OnImages(Conv2d(64, 5, 3, 1, 1)), used), x)
    cell = OnImages(Conv2d(64, 5, 3, 1, 1))
    found = cell(Tensor(x)).asnumpy()[used == 0]
    assert np.allclose(found, cell.cell.bias.asnumpy()[:, None, None])


@pytest.mark.parametrize("height, width", [(8, 6), (7, 10), (1, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_convolution_as_a_product(stride: int, height: int, width: int) -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, height, width)).astype(np.float32)
    both(Platform(slow_convolution=True), lambda: OnImages(DepthwiseConv3x3(4, stride)), x)


def test_batch_norm_in_both_layouts() -> None:
    x = 2 * np.random.default_rng(0).standard_normal((3, 4, 5, 6)).astype(np.float32) + 1
    both(Platform(slow_convolution=True), lambda: OnImages(BatchNorm(4)).set_train(True), x)


@pytest.mark.parametrize("slow", [True, False])
def test_batch_norm_is_pytorchs(slow: bool) -> None:
    x = 2 * np.random.default_rng(0).standard_normal((3, 4, 1, 2)).astype(np.float32) + 1
    with platform.use(Platform(slow_convolution=slow)):
        cell = OnImages(BatchNorm(4)).set_train(True)
    mean, var = x.mean((0, 2, 3), dtype=np.float64), x.var((0, 2, 3), dtype=np.float64)
    assert (
        np.abs(cell(Tensor(x)).asnumpy() - (x - mean[:, None, None]) / np.sqrt(var + 1e-5)[:, None, None]).max() < 1e-5
    )
    assert np.abs(cell.cell.running_mean.asnumpy() - 0.1 * mean).max() < 1e-6
    assert (
        np.abs(cell.cell.running_var.asnumpy() - (0.9 + 0.1 * var * 6 / 5)).max() < 1e-6
    )  # unbiased: 6 values a channel
    cell.set_train(False)
    mean, var = cell.cell.running_mean.asnumpy()[:, None, None], cell.cell.running_var.asnumpy()[:, None, None]
    assert np.abs(cell(Tensor(x)).asnumpy() - (x - mean) / np.sqrt(var + 1e-5)).max() < 1e-5


@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_layer_norm_by_products(eps: float) -> None:
    x = 0.1 * np.random.default_rng(0).standard_normal((20, 24)).astype(np.float32) + 3
    both(Platform(slow_broadcasting=True), lambda: LayerNorm(24, eps), x)


def test_gelu_is_the_exact_one() -> None:
    x = np.linspace(-4, 4, 33, dtype=np.float32)
    exact = np.array([value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])
    assert np.abs(GELU()(Tensor(x)).asnumpy() - exact).max() < 1e-6  # the tanh form is off by 5e-4
