"""Cells that have two implementations, one for each kind of device: both give the same values and gradients."""

from __future__ import annotations

import math
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindvit import device
from mindvit.layers.basic import GELU, LayerNorm
from mindvit.layers.conv import Conv2d


def values_and_gradients(cell: nn.Cell, x: np.ndarray) -> list[np.ndarray]:
    """Output, and gradients of its weighted sum with respect to the input and every parameter."""
    weights = ms.ParameterTuple(cell.trainable_params())
    shape = cell(Tensor(x)).shape
    factor = Tensor(np.random.default_rng(5).standard_normal(shape).astype(np.float32))

    def weighted(x: Tensor) -> Tensor:
        return (cell(x) * factor).sum()

    inner, outer = ops.grad(weighted, 0, weights)(Tensor(x))
    return [cell(Tensor(x)).asnumpy(), inner.asnumpy(), *(item.asnumpy() for item in outer)]


def both(monkeypatch: pytest.MonkeyPatch, switch: str, build: Any, x: np.ndarray) -> None:
    results = []
    for slow in (True, False):
        monkeypatch.setattr(device, switch, lambda slow=slow: slow)
        ms.set_seed(4)
        cell = build()
        for parameter, scale in zip(cell.get_parameters(), (1.0, 0.5)):
            parameter.set_data(Tensor(scale * np.random.default_rng(parameter.size).standard_normal(parameter.shape).astype(np.float32)))
        results.append(values_and_gradients(cell, x))
    assert len(results[0]) == 4
    for ours, reference in zip(*results):
        assert ours.shape == reference.shape and np.abs(ours - reference).max() < 2e-5 * max(1, np.abs(reference).max())


# the dagger stems' convolutions
@pytest.mark.parametrize("kernel, stride, padding", [(7, 4, 3), (3, 3, 0), (3, 2, 1), (3, 1, 1)])
def test_convolution_as_a_product(monkeypatch: pytest.MonkeyPatch, kernel: int, stride: int, padding: int) -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 12, 12)).astype(np.float32)
    both(monkeypatch, "convolution_is_slow", lambda: Conv2d(4, 6, kernel, stride, padding), x)


@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_layer_norm_by_products(monkeypatch: pytest.MonkeyPatch, eps: float) -> None:
    x = 0.1 * np.random.default_rng(0).standard_normal((20, 24)).astype(np.float32) + 3
    both(monkeypatch, "layer_norm_is_slow", lambda: LayerNorm(24, eps), x)


def test_gelu_is_the_exact_one() -> None:
    x = np.linspace(-4, 4, 33, dtype=np.float32)
    exact = np.array([value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])
    assert np.abs(GELU()(Tensor(x)).asnumpy() - exact).max() < 1e-6  # the tanh form is off by 5e-4
