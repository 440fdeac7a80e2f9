"""The one file that knows Ascend, GPU and CPU, and what the launcher says about ranks."""

from __future__ import annotations

import glob
import os
import platform
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import mindspore as ms
from mindspore import communication

from mindvit.errors import UserError
from mindvit.kernels import compiler
from mindvit.recipe.options import PrecisionOptions, RuntimeOptions
from mindvit.runtime.platform import chip, cpu_has_avx512, current

__all__ = [
    "Device",
    "chip",
    "choose_target",
    "graphs_folder",
    "has_kernels",
    "launched_ranks",
    "machine",
    "memory",
    "set_up",
]

PREFERENCE = ("Ascend", "GPU", "CPU")
NODES = {"Ascend": "/dev/davinci[0-9]*", "GPU": "/dev/nvidia[0-9]*"}  # device files that the drivers make
HALF = {"float16": ms.float16, "bfloat16": ms.bfloat16}


@dataclass(frozen=True)
class Device:
    """What a run got: device, graph level, half-precision type (None: float32), its place among the ranks, and how
    many share its machine.
    """

    target: str
    jit_level: str
    amp_level: str
    val_amp_level: str
    half: Optional[ms.dtype.Type]
    rank: int = 0
    ranks: int = 1
    local_ranks: int = 1

    @property
    def saturates(self) -> bool:
        """Whether an overflow in half precision may leave the largest number and no infinity: on the first Ascend
        910, which then keeps a flag.
        """
        return self.target == "Ascend" and self.half == ms.float16

    @property
    def is_main(self) -> bool:
        """Whether this rank prints and saves."""
        return self.rank == 0


def machine() -> str:
    """This machine in a few words, for tables of results."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores{', AVX-512' if cpu_has_avx512() else ''}"


def memory(target: str) -> str:
    """The most memory that this process has used so far, in words."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
    if target == "CPU":
        return f"{host:.1f} GiB of memory at most"
    return f"{ms.hal.max_memory_allocated() / 2**30:.1f} GiB of {target} memory at most ({host:.1f} GiB on the host)"


def graphs_folder(wanted: str) -> Optional[Path]:
    """Where compiled graphs are kept, as the recipe's compile_cache says; None: nowhere. auto: on Ascend, where
    compiling takes minutes.
    """
    if wanted != "auto":
        return None if wanted == "none" else Path(wanted)
    return compiler.folder() / "graphs" if ms.get_context("device_target") == "Ascend" else None


def has_kernels() -> bool:
    """Whether cells that are built now may use our own kernels: see mindvit.runtime.platform."""
    return current().kernels


def launched_ranks() -> tuple[int, int]:
    """(rank, ranks) as msrun, mpirun or a rank table tell them; (0, 1) under no launcher."""
    environment = os.environ
    if environment.get("MS_ROLE") == "MS_WORKER":
        return int(environment.get("RANK_ID", environment.get("MS_NODE_ID", "0"))), int(
            environment.get("MS_WORKER_NUM", "1")
        )
    if "OMPI_COMM_WORLD_SIZE" in environment:
        return int(environment["OMPI_COMM_WORLD_RANK"]), int(environment["OMPI_COMM_WORLD_SIZE"])
    return int(environment.get("RANK_ID", "0")), int(environment.get("RANK_SIZE", "1"))


def choose_target(wanted: str) -> tuple[str, str]:
    """(device, why the better ones were passed over). UserError if a device asked for by name can't be used."""
    reasons = []
    for target in PREFERENCE if wanted == "auto" else (wanted,):
        if target in NODES and not glob.glob(NODES[target]):
            reasons.append(f"no {target} found")
            continue
        try:
            ms.set_device(target)
        except (RuntimeError, ValueError) as error:
            reasons.append(f"{target} can't be used: {str(error).splitlines()[0]}")
            continue
        return target, ", ".join(reasons)
    raise UserError(f"device_target is {wanted}, but {'; '.join(reasons)} (auto takes the best device there is)")


def set_up(runtime: RuntimeOptions, precision: PrecisionOptions) -> tuple[Device, str]:
    """Set MindSpore's context for this process; the device, and a line that says what the run got and what changed."""
    target, reasons = choose_target(runtime.device_target)
    own_level = "O2" if target == "Ascend" else "O0"
    changes = [reasons] if reasons else []
    jit_level = own_level if runtime.jit_level == "auto" else runtime.jit_level
    if target != "Ascend":
        if runtime.jit_level == "O2":
            jit_level = own_level
        if runtime.jit_level in ("auto", "O2"):
            changes.append("jit level O0 (O2 is Ascend's)")
    amp, val_amp = precision.amp_level, precision.val_amp_level or precision.amp_level
    mixed = (amp, val_amp) != ("O0", "O0")
    if target == "CPU" and mixed and precision.amp_on_cpu and precision.amp_type == "bfloat16":
        raise UserError(
            "amp_type is bfloat16 with amp_on_cpu, but MindSpore's CPU operators (Reshape, MatMul) don't take it: "
            "amp_type: float16, "
            "or leave amp_on_cpu out for float32"
        )
    if target == "CPU" and mixed and not precision.amp_on_cpu:
        changes.append(
            f"AMP O0, float32 (the recipe's {amp} {precision.amp_type} is for NPUs and GPUs; amp_on_cpu keeps it)"
        )
        amp = val_amp = "O0"
    if runtime.mode == 0:
        ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": jit_level})
    else:
        jit_level = "PyNative"
        ms.set_context(mode=ms.PYNATIVE_MODE)
    (rank, ranks), neighbours = launched_ranks(), 1
    if not runtime.distribute:
        if ranks > 1:
            raise UserError(
                f"distribute is False, but the launcher started {ranks} processes (run python train.py without msrun, "
                "or leave distribute out)"
            )
    elif ranks > 1:
        communication.init()
        rank, ranks, neighbours = (
            communication.get_rank(),
            communication.get_group_size(),
            communication.get_local_rank_size(),
        )
        ms.set_auto_parallel_context(parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True, device_num=ranks)
    else:
        changes.append("one process (no launcher: the run is alone)")
    half = HALF[precision.amp_type] if (amp, val_amp) != ("O0", "O0") else None
    devices = f"{ranks} x {target}" if ranks > 1 else target
    return Device(target, jit_level, amp, val_amp, half, rank, ranks, neighbours), f"device: {devices}" + "".join(
        f"; {change}" for change in changes
    )
