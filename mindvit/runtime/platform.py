"""What the machine that runs a network is good at: by this, layers choose how they compute when they are built.

The results are the same, within rounding, whatever they choose.
"""

from __future__ import annotations

import contextlib
import functools
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, Optional

import mindspore as ms

from mindvit.kernels import build
from mindvit.runtime import ascend


@dataclass(frozen=True)
class Platform:
    """What a machine is good at.

    kernels: our own kernels (mindvit.kernels) are there. product_kernels: those of products and attention too, for
    which the framework's matrix product must be found. bfloat16_products: these can multiply in bfloat16, which is
    faster here. flash_attention: the NPU's attention in one operator.
    direct_operators: the NPU's newer operators, which are launched directly, are there beside those that are compiled
    first. overflow_flag: half precision overflows to its largest number and a flag of the device.
    costly_launches: the host launches operator after operator, so few are fast, and at a branch on a value it waits for
    the device, which then waits for it.
    nms_operator: the framework's NMSWithMask has been seen to be right here (tasks.detection.operators);
    roi_align_operator: so has its ROIAlign, of this mode and with this much added to where boxes begin and end.
    slow_convolution: Conv2D is to be avoided. slow_broadcasting: so are sums with a row, and means and gradients of
    LayerNorm.
    """

    kernels: bool = False
    product_kernels: bool = False
    bfloat16_products: bool = False
    flash_attention: bool = False
    direct_operators: bool = False
    overflow_flag: bool = False
    costly_launches: bool = False
    nms_operator: bool = False
    roi_align_operator: Optional[tuple[int, float, float]] = None
    slow_convolution: bool = False
    slow_broadcasting: bool = False


PORTABLE = Platform()  # plain operators alone: for files that other machines read, and for counting


@functools.cache
def of(target: str, chip_name: str = "", jit_level: str = "") -> Platform:
    """The platform of a device: CPU, GPU or Ascend, what its driver calls the chip, and the graph level.

    Ascend's graph engine (O2) launches nothing by itself, branches on the device and knows the older operators best.
    """
    if target == "Ascend":
        newer, launches = ascend.generation(chip_name) in (ascend.A2, ascend.A3), jit_level != "O2"
        return Platform(
            flash_attention=newer,
            direct_operators=newer and launches,
            overflow_flag=ascend.keeps_overflow_flag(chip_name),
            costly_launches=launches,
        )
    if target != "CPU":
        return PORTABLE
    # on AVX-512 CPUs oneDNN's reference kernel runs a convolution, 70 to 150 times too slow
    return Platform(
        kernels=build.library() is not None,
        product_kernels=build.has_products(),
        bfloat16_products=build.has_bfloat16(),
        slow_convolution=cpu_has_avx512(),
        slow_broadcasting=True,
    )


_chosen: ContextVar[Optional[Platform]] = ContextVar("platform", default=None)


def current() -> Platform:
    """The platform for which cells are built now: this machine's, unless `use` names another."""
    return _chosen.get() or of(ms.get_context("device_target"), chip(), ascend.jit_level())


@contextlib.contextmanager
def use(chosen: Platform) -> Iterator[None]:
    """Cells that are built inside are built for that platform."""
    token = _chosen.set(chosen)
    try:
        yield
    finally:
        _chosen.reset(token)


@functools.cache
def chip() -> str:
    """What the driver calls this process's NPU or GPU (Ascend910B3, ...); empty on a CPU and where it won't say.

    Where there is a simulation and no driver, it is what the environment variable MINDVIT_CHIP says.
    """
    if ms.get_context("device_target") == "CPU":
        return ""
    try:
        return str(ms.hal.get_device_name(ms.get_context("device_id")))
    except (RuntimeError, ValueError):
        return ascend.simulated_chip()


@functools.cache
def cpu_has_avx512() -> bool:
    """Whether this machine's CPU has AVX-512."""
    try:
        return " avx512f" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:  # no Linux: nothing is known, and the framework's kernel is the safe choice
        return False
