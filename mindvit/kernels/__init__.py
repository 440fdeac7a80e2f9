"""Kernels of our own for CPUs: kernels.cpp, built once with the system's compiler, and cells that use them.

Only mindvit.device decides whether they are used; every cell has the same result, within rounding, as the operators it stands for.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Optional

import mindspore as ms
from mindspore import Tensor, nn, ops

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-std=c++17", "-shared", "-fPIC", "-pthread")
SWITCH = "MINDVIT_KERNELS"  # 0 in the environment: do without


def cache_folder() -> Path:
    """Where built libraries stay: $XDG_CACHE_HOME/mindvit or ~/.cache/mindvit."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mindvit"


def flags() -> tuple[str, ...]:
    """The compiler's flags: this machine's instructions, without AVX-512 where the framework's kernels have to do without it too."""
    return (*FLAGS, "-mno-avx512f") if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() == "AVX2" else FLAGS


def build(compiler: str, folder: Path) -> Path:
    """The library for this source, compiler and machine, built into `folder` if it isn't there. OSError or CalledProcessError if that fails."""
    try:
        machine = [line for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore").splitlines() if line.startswith("flags")][:1]
    except OSError:
        machine = []
    key = hashlib.sha256(repr((SOURCE.read_bytes(), compiler, flags(), machine)).encode()).hexdigest()[:16]
    path = folder / f"kernels-{key}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:  # ranks may build at the same time: whole files only
            subprocess.run([compiler, *flags(), "-o", f"{place}/kernels.so", str(SOURCE)], check=True, capture_output=True, text=True)
            os.replace(f"{place}/kernels.so", path)
    return path


@functools.cache
def library() -> Optional[str]:
    """The built library, or None, said once on stderr with the reason, where there can be none."""
    if os.environ.get(SWITCH) == "0":
        return None
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    if compiler is None:
        reason = "no C++ compiler found (g++ or clang++)"
    else:
        try:
            return str(build(compiler, cache_folder()))
        except subprocess.CalledProcessError as error:
            reason = f"{compiler} failed: {(error.stderr or str(error)).strip().splitlines()[0]}"
        except OSError as error:
            reason = f"{error.filename or compiler}: {error.strerror}"
    print(f"warning: mindvit's CPU kernels are left out, training is slower: {reason} ({SWITCH}=0 silences this)", file=sys.stderr, flush=True)
    return None


def kernel(name: str, shapes: Callable[..., Any], outputs: int = 1) -> ops.Custom:
    """The kernel of that name as an operator with float32 outputs; `shapes`: the inputs' shapes -> the outputs'."""
    return ops.Custom(f"{library()}:{name}", out_shape=shapes, out_dtype=(ms.float32,) * outputs if outputs > 1 else ms.float32, func_type="aot")


class Gelu(nn.Cell):
    """x * Phi(x), any shape, float32."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("GeluForward", _like_first)
        self.backward = kernel("GeluGrad", _like_first)

    def construct(self, x: Tensor) -> Tensor:
        return self.forward(x)

    def bprop(self, x: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradient of x."""
        return (self.backward(x, gradient),)


class BiasGelu(nn.Cell):
    """GELU(x + bias). x: (M, C), bias: (C,), float32."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = kernel("BiasGelu", _like_first)
        self.backward = kernel("BiasGeluGrad", _first_and_second, 2)

    def construct(self, x: Tensor, bias: Tensor) -> Tensor:
        return self.forward(x, bias)

    def bprop(self, x: Tensor, bias: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradients of x and bias."""
        return self.backward(x, bias, gradient)


class Softmax(nn.Cell):
    """softmax(scale * x) over the last axis, any shape, float32."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = Tensor([scale], ms.float32)
        self.forward = kernel("ScaledSoftmax", _like_first)
        self.backward = kernel("ScaledSoftmaxGrad", _like_first)

    def construct(self, x: Tensor) -> Tensor:
        return self.forward(x, self.scale)

    def bprop(self, x: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
        """Gradient of x."""
        return (self.backward(out, self.scale, gradient),)


class LayerNorm(nn.Cell):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis. x: (..., C), weight and bias: (C,), float32.

    Outputs: the result, and each row's mean and inverse deviation, which the gradient needs.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = Tensor([eps], ms.float32)
        self.forward = kernel("LayerNormForward", _first_and_rows, 3)
        self.backward = kernel("LayerNormGrad", _first_and_twice_second, 3)

    def construct(self, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.forward(x, weight, bias, self.eps)

    def bprop(self, x: Tensor, weight: Tensor, bias: Tensor, out: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Gradients of x, weight and bias."""
        return self.backward(x, weight, out[1], out[2], gradients[0])


def _like_first(first: Any, *_: Any) -> Any:
    return first


def _first_and_second(first: Any, second: Any, *_: Any) -> Any:
    return first, second


def _first_and_twice_second(first: Any, second: Any, *_: Any) -> Any:
    return first, second, second


def _first_and_rows(first: Any, *_: Any) -> Any:
    rows = 1
    for size in first[:-1]:
        rows *= size
    return first, [rows], [rows]
