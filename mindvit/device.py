"""The one file that knows Ascend, GPU and CPU, and what the launcher says about ranks."""

from __future__ import annotations

import functools
from pathlib import Path

import mindspore as ms


@functools.lru_cache(maxsize=None)
def _cpu_has_avx512() -> bool:
    try:
        return " avx512f" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:  # no Linux: nothing is known, and the framework's kernel is the safe choice
        return False


def convolution_is_slow() -> bool:
    """Whether Conv2D's forward is to be avoided: on AVX-512 CPUs oneDNN's reference kernel runs, 70 to 150 times too slow."""
    return ms.get_context("device_target") == "CPU" and _cpu_has_avx512()
