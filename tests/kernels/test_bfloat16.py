"""Products in bfloat16: each instruction by itself, kernels and whole networks beside float32."""

from __future__ import annotations

import ctypes
import itertools
import subprocess
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from small import SMALL, inputs_of, small

from mindvit.errors import UserError
from mindvit.kernels import build, compiler
from mindvit.kernels.ops import ProductCell
from mindvit.layers.precision import set_precision
from mindvit.recipe.options import PrecisionOptions, RuntimeOptions
from mindvit.runtime import device, platform

EPS = 2.0**-8  # of bfloat16: neighbours of 1 are 1 - EPS / 2 and 1 + EPS
SIZES = [(1, 1, 1), (16, 32, 32), (37, 50, 81), (70, 33, 1100), (3, 1030, 2), (300, 40, 49)]
HERE = platform.of("CPU").bfloat16_products


def rounded(x: np.ndarray) -> np.ndarray:
    """To bfloat16, the nearest and of two the even one."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def processor_has(flag: str) -> bool:
    with open("/proc/cpuinfo", encoding="ascii", errors="ignore") as file:
        return f" {flag}" in file.read()


def check(library: ctypes.CDLL, tiles: bool) -> bool:
    """Of rounded operands nothing is lost but float32's rounding of sums; alpha is 0.5, which rounds nothing.

    False: the library says that this processor lacks the instruction.
    """
    random, ran = np.random.default_rng(0), set()
    for (m, n, k), left, right, add in itertools.product(SIZES, "NT", "NT", (0, 1)):
        a, b, c = (random.standard_normal(shape).astype(np.float32) for shape in ((m, k), (k, n), (m, n)))
        given = [np.ascontiguousarray(x.T if way == "T" else x) for x, way in ((a, left), (b, right))]
        found = c.copy()
        sizes = map(ctypes.c_int64, (m, n, k))
        pointers = [ctypes.c_void_p(item.ctypes.data) for item in (*given, found)]
        failed = library.TryBFloat16(
            int(tiles), *(ctypes.c_char(way.encode()) for way in left + right), *sizes, *pointers[:2], add, pointers[2]
        )
        ran.add(not failed)
        expected = 0.5 * rounded(a).astype(float) @ rounded(b) + add * c
        assert failed or np.abs(found - expected).max() < 1e-6 * np.sqrt(k) * 4, (m, n, k, left, right, add)
    assert len(ran) == 1
    return ran.pop()


@pytest.mark.parametrize("tiles", [True, False])
def test_each_instruction(tiles: bool) -> None:
    assert check(ctypes.CDLL(build.library()), tiles) == processor_has("amx_bf16" if tiles else "avx512_bf16")


@pytest.mark.skipif(not processor_has("avx512_bf16"), reason="what surrounds the tiles needs AVX512_BF16")
def test_tiles_without_a_processor_that_has_them(tmp_path: Path) -> None:
    flags = ["-O1", "-march=x86-64-v4", "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-std=c++17", "-shared", "-fPIC"]
    sources = [str(build.SOURCE.with_name(name)) for name in ("bfloat16.cpp", "parallel.cpp")]
    header, library = str(Path(__file__).with_name("emulated_tiles.h")), str(tmp_path / "tiles.so")
    subprocess.run([str(compiler.program()), *flags, "-include", header, "-o", library, *sources], check=True)
    assert check(ctypes.CDLL(library), tiles=True)


def outcome(net: nn.Cell, x: Tensor, half: bool) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and the gradients of all weights, one after the other."""
    set_precision(net, "O2" if half else "O0", ms.bfloat16)
    weights = ms.ParameterTuple(net.trainable_params())

    def loss(x: Tensor) -> tuple[Tensor, Tensor]:
        y = net(x)
        return ops.logsumexp(y, 1).sum() - y[:, 0].sum(), y

    (_, y), found = ops.value_and_grad(loss, None, weights, has_aux=True)(x)
    return y.asnumpy(), np.concatenate([item.asnumpy().ravel() for item in found])


@pytest.mark.usefixtures("operator_by_operator")
@pytest.mark.parametrize("family", SMALL)
def test_networks_beside_float32(family: str) -> None:
    """In norm: rounding errors of a product's operands are independent, so that products keep their operands' relative
    error, and layers add theirs up. Where the processor has no such products, float32 runs, to the bit.
    """
    net, x = small(family, drop_path_rate=0.0).set_train(True), inputs_of(family)
    plain, half = (outcome(net, x, chosen) for chosen in (False, True))
    for ours, theirs in zip(half, plain):
        distance = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        assert (0 < distance < 8 * EPS) if HERE else distance == 0, distance


def test_a_recipe_chooses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(has: bool, **options: Any) -> tuple[device.Device, str]:
        there = platform.Platform(bfloat16_products=has)
        monkeypatch.setattr(device, "of", lambda *_: there)
        return device.set_up(RuntimeOptions(device_target="CPU"), PrecisionOptions(**options))

    asked = {"amp_level": "O2", "amp_type": "bfloat16"}
    got, line = chosen(True, **asked)
    assert (got.amp_level, got.half) == ("O2", ms.bfloat16) and "products in bfloat16" in line
    got, line = chosen(False, **asked)
    assert (got.amp_level, got.half) == (
        "O0",
        None,
    ) and "needs our kernels and Intel's AMX or AMD's" in line
    got, line = chosen(True, amp_level="O2")  # nobody asked for bfloat16, which changes results
    assert (got.amp_level, got.half) == ("O0", None) and "amp_type: bfloat16 is faster here" in line
    with pytest.raises(UserError, match="needs our kernels and Intel's AMX or AMD's AVX512_BF16"):
        chosen(False, amp_on_cpu=True, **asked)


def test_only_products_have_a_second_form() -> None:
    net = small("crossvit")
    set_precision(net, "O1", ms.bfloat16)
    kernels = [cell for _, cell in net.cells_and_names() if isinstance(cell, ProductCell)]
    names = {operator.made_of[0] for cell in kernels for operator in cell._primitives.values()}
    assert names and all(name.endswith("BFloat16") == HERE for name in names)
    set_precision(net, "O0", ms.bfloat16)
    names = {operator.made_of[0] for cell in kernels for operator in cell._primitives.values()}
    assert names and not any(name.endswith("BFloat16") for name in names)
