"""Our own kernels for CPUs: the C++ of csrc/, built once with the system's compiler (docs/dev/kernels.md)."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import Optional

from mindvit.kernels import compiler

SOURCE = Path(__file__).with_name("csrc") / "kernels.cpp"  # which includes all others
FLAGS = ("-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-pthread")
WIDE = ("-mprefer-vector-width=512",)  # compilers take half of AVX-512's registers by themselves
SWITCH = "MINDVIT_KERNELS"  # 0 in the environment: do without


def flags() -> tuple[str, ...]:
    """The compiler's flags: without AVX-512 where the framework's kernels have to do without it too."""
    narrow = compiler.IS_X86 and os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() == "AVX2"
    if not compiler.IS_X86:
        return FLAGS
    return (*FLAGS, "-mno-avx512f") if narrow else (*FLAGS, *WIDE)


@functools.cache
def library() -> Optional[str]:
    """The path of the built library; None where it can't be built, which one line on stderr says with the reason."""
    path = compiler.library(SOURCE, flags(), SWITCH, "mindvit's own CPU kernels are left out, and networks are slower")
    if path is None:
        return None
    # MindSpore unloads it with the last graph that needs it, under the feet of its threads, unless it is loaded
    # once more
    ctypes.CDLL(str(path))
    return str(path)


@functools.cache
def has_products() -> bool:
    """Whether the library found the framework's matrix product, which the kernels of products and attention call."""
    path = library()
    return path is not None and bool(ctypes.CDLL(path).HasGemm())


@functools.cache
def has_bfloat16() -> bool:
    """Whether the kernels of products are there, and bfloat16 makes them faster on this processor."""
    return has_products() and bool(ctypes.CDLL(library()).HasBFloat16())
