"""Layers of dense predictors: maps of other sides, necks, pyramids, and BatchNorm over ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
import sync_norm
from dense_goldens import sampled
from golden import FOLDER, fill
from launcher import msrun
from mindspore import Tensor, nn, ops
from sync_norm import Weighed

from mindvit.layers.conv import FeatureLayout
from mindvit.layers.norm import BatchNorm
from mindvit.layers.resample import MATRICES, Resample
from mindvit.layers.sync_batch_norm import SyncBatchNorm
from mindvit.models.necks import FPN
from mindvit.models.pyramid import DoubleSides, MaxPool
from mindvit.runtime import platform

PLATFORMS = [platform.PORTABLE, platform.Platform(slow_convolution=True), None]


def built(chosen: Any, build: Any, *arguments: Any) -> tuple[Any, FeatureLayout]:
    """A cell with random weights, and the layout of maps, for a platform; None is this machine's."""
    with platform.use(chosen or platform.current()):
        cell, layout = build(*arguments), FeatureLayout()
    rng = np.random.default_rng(0)
    for item in cell.get_parameters():
        item.set_data(Tensor(rng.standard_normal(item.shape).astype(np.float32)))
    return cell, layout


def image(channels: int, height: int, width: int = 6) -> np.ndarray:
    return np.random.default_rng(channels).standard_normal((2, channels, height, width)).astype(np.float32)


def convolved(x: np.ndarray, conv: Any) -> np.ndarray:
    """What a ConvModule without a norm gives of (B, C, H, W)."""
    weight, bias = conv.conv.weight.asnumpy(), conv.conv.bias.asnumpy()
    side: int = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), (side // 2, side // 2), (side // 2, side // 2)))
    windows = np.stack(
        [padded[:, :, y : y + x.shape[2], z : z + x.shape[3]] for y in range(side) for z in range(side)], -1
    )
    weight = weight.reshape(*weight.shape[:2], -1)
    return np.asarray(np.einsum("bchwk,ock->bohw", windows, weight) + bias[:, None, None])


@pytest.mark.parametrize("chosen", PLATFORMS)
def test_feature_pyramid(chosen: Any) -> None:
    cell, layout = built(chosen, FPN, [4, 6], 8)
    fine, coarse = image(4, 8), image(6, 3)
    found = cell((layout.from_images(Tensor(fine)), layout.from_images(Tensor(coarse))))
    lateral = [convolved(x, conv) for x, conv in zip((fine, coarse), cell.lateral_convs)]
    lateral[0] = lateral[0] + lateral[1][:, :, np.arange(8) * 3 // 8]
    for ours, x, conv in zip(found, lateral, cell.fpn_convs):
        assert np.abs(layout.to_images(ours).asnumpy() - convolved(x, conv)).max() < 1e-4


@pytest.mark.parametrize("chosen", PLATFORMS)
def test_sides_are_doubled_as_by_a_transposed_convolution(chosen: Any) -> None:
    cell, layout = built(chosen, DoubleSides, 4)
    x = image(4, 8)
    found = layout.to_images(cell(layout.from_images(Tensor(x)), 2)).asnumpy()
    expected = np.einsum("bchw,cokl->bohkwl", x, cell.weight.asnumpy()).reshape(2, 4, 16, 12)
    assert np.abs(found - expected - cell.bias.asnumpy()[:, None, None]).max() < 1e-5


@pytest.mark.parametrize("chosen", PLATFORMS)
def test_maxima(chosen: Any) -> None:
    cell, layout = built(chosen, MaxPool, 2)
    x = image(4, 9)
    for given in (x, x[:, :, :8]):  # the second has nothing that hangs over the edge
        found = layout.to_images(cell(layout.from_images(Tensor(given)), 2)).asnumpy()
        assert np.array_equal(found, x[:, :, :8].reshape(2, 4, 4, 2, 3, 2).max((3, 5)))


@pytest.mark.parametrize("rule", MATRICES)
@pytest.mark.parametrize("chosen", PLATFORMS)
def test_resampling_and_its_gradient(rule: str, chosen: Any) -> None:
    cell, layout = built(chosen, Resample, rule)
    height, width = (3, 3) if rule == "every_second" else (11, 4)  # of 5 and 6
    x, upstream = image(3, 5), Tensor(image(3, height, width))
    rows, columns = MATRICES[rule](5, height), MATRICES[rule](6, width)
    assert np.allclose(rows.sum(1), 1) and np.allclose(columns.sum(1), 1)

    def scalar(x: Tensor) -> Tensor:
        return (layout.to_images(cell(layout.from_images(x), height, width)) * upstream).sum()

    found = layout.to_images(cell(layout.from_images(Tensor(x)), height, width)).asnumpy()
    assert np.abs(found - np.einsum("rh,cw,bkhw->bkrc", rows, columns, x)).max() < 1e-5
    gradient = ops.grad(scalar)(Tensor(x)).asnumpy()
    assert np.abs(gradient - np.einsum("rh,cw,bkrc->bkhw", rows, columns, upstream.asnumpy())).max() < 1e-5


RULES = {"pool": "average", "pool_up": "bilinear", "maxpool_k1_s2": "every_second"}


@pytest.mark.parametrize("kind", ["pool", "pool_up", "bilinear", "nearest", "maxpool_k1_s2"])
def test_resampling_beside_pytorch(kind: str) -> None:
    golden = np.load(FOLDER / "detection_ops.npz")
    keys = {"/".join(key.split("/")[:3]) for key in golden.files if key.split("/")[:2] == ["resize", kind]}
    for key in keys:
        x = golden[f"resize/pool/{key[-1]}"] if kind == "pool_up" else fill.noise("ops/resize", (1, 4, 7, 10))
        whole = key in golden.files
        shape = golden[key].shape if whole else golden[f"{key}/shape"]
        matrices = [MATRICES[RULES.get(kind, kind)](x.shape[axis], shape[axis]) for axis in (2, 3)]
        found = np.einsum("rh,cw,bkhw->bkrc", *matrices, x)
        assert (np.abs(found - golden[key]).max() if whole else sampled(found, golden, key)) < 1e-5, key


class Twice(nn.Cell):
    """What the sum over two ranks gives where the other rank has the same maps."""

    def construct(self, x: Tensor) -> Tensor:
        return x * 2

    def bprop(self, x: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor]:
        """Gradient of x."""
        return (gradient * 2,)


def test_synchronized_norm_is_the_plain_one_of_all_maps() -> None:
    plain, synchronized = BatchNorm(6).set_train(True), BatchNorm(6).set_train(True)
    synchronized.sync_op = SyncBatchNorm(1, across=nn.Identity())
    rng = np.random.default_rng(0)
    x, upstream = (Tensor((rng.standard_normal((2, 6, 6, 6)) * 2 + 9).astype(np.float32)) for _ in range(2))
    found = []
    for cell in (plain, synchronized):
        weights = ms.ParameterTuple(cell.trainable_params())
        value, (dx, dw) = ops.value_and_grad(Weighed(cell, upstream), (0,), weights)(x)
        found.append([value, dx, *dw, cell.running_mean, cell.running_var])
    for ours, right in zip(found[1], found[0]):
        assert np.abs(ours.asnumpy() - right.asnumpy()).max() < 1e-3 * max(1, np.abs(right.asnumpy()).max())


def test_synchronized_norm_counts_all_ranks() -> None:
    cell = SyncBatchNorm(2, across=Twice())
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 4)).astype(np.float32)
    axis = cell.layout.channel_axis
    mean, var = ms.Parameter(np.zeros(4, np.float32), name="m"), ms.Parameter(np.ones(4, np.float32), name="v")
    y = cell(Tensor(x), ops.ones(4, ms.float32), ops.zeros(4, ms.float32), mean, var).asnumpy()
    axes = tuple(place for place in range(4) if place != axis)
    assert np.abs(y.mean(axes)).max() < 1e-5 and np.abs(y.std(axes) - 1).max() < 1e-4
    assert np.allclose(var.asnumpy(), 0.9 + 0.1 * x.var(axes) * 32 / 31, atol=1e-6)


def test_two_ranks_normalize_as_one_with_all_maps(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = (*msrun(2, tmp_path / "logs"), "python", sync_norm.__file__, str(tmp_path))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in range(2):
        assert np.load(tmp_path / f"{rank}.npz")["deviations"].max() < 2e-4  # of sums up to 120
