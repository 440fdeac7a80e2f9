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
from mindvit.runtime import ascend
from mindvit.runtime.platform import chip, cpu_has_avx512, current, of

__all__ = [
    "Device",
    "chip",
    "choose_target",
    "graphs_folder",
    "has_kernels",
    "join_ranks",
    "launched_ranks",
    "machine",
    "memory",
    "set_up",
]

PREFERENCE = ("Ascend", "GPU", "CPU")
NODES = {"Ascend": "/dev/davinci[0-9]*", "GPU": "/dev/nvidia[0-9]*"}  # device files that the drivers make
HALF = {"float16": ms.float16, "bfloat16": ms.bfloat16}
BFLOAT16_NEEDS = "our kernels and Intel's AMX or AMD's AVX512_BF16"  # on a CPU
NAMES = {None: "float32", **{kind: name for name, kind in HALF.items()}}


@dataclass(frozen=True)
class Device:
    """What a run got: device, graph level, half-precision type (None: float32), its place among the ranks, how many
    share its machine, and what the driver calls its chip.
    """

    target: str
    jit_level: str
    amp_level: str
    val_amp_level: str
    half: Optional[ms.dtype.Type]
    rank: int = 0
    ranks: int = 1
    local_ranks: int = 1
    chip: str = ""

    @property
    def saturates(self) -> bool:
        """Whether an overflow in half precision may leave the largest number and no infinity."""
        # of an NPU without a name nothing is known
        flag = of(self.target, self.chip).overflow_flag or (self.target == "Ascend" and not self.chip)
        return self.half == ms.float16 and flag

    @property
    def dtype(self) -> str:
        """The name of the type that it computes in."""
        return NAMES[self.half]

    @property
    def running_level(self) -> str:
        """The graph level in force: jit_level, or one below it where a graph was refused."""
        return ascend.jit_level() if self.target == "Ascend" and self.jit_level in ascend.LEVELS else self.jit_level

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
    """(device, why the better ones were passed over). UserError if a device asked for by name can't be used.

    A simulated Ascend needs no device file.
    """
    reasons = []
    for target in PREFERENCE if wanted == "auto" else (wanted,):
        simulated = target == "Ascend" and ascend.is_simulated()
        if target in NODES and not simulated and not glob.glob(NODES[target]):
            reasons.append(f"no {target} found")
            continue
        try:
            ms.set_device(target)
        except (RuntimeError, ValueError) as error:
            reasons.append(f"{target} can't be used: {str(error).splitlines()[0]}")
            continue
        return target, ", ".join(reasons)
    raise UserError(f"device_target is {wanted}, but {'; '.join(reasons)} (auto takes the best device there is)")


def choose_level(wanted: str, target: str) -> tuple[str, str]:
    """(graph level, what changed). UserError if the graph engine is wanted and this MindSpore has none."""
    if target != "Ascend":
        return ("O0" if wanted in ("auto", "O2") else wanted), "jit level O0 (O2 is Ascend's)" * (
            wanted in ("auto", "O2")
        )
    if wanted == "auto":
        there = ascend.has_graph_engine()
        return ("O2", "") if there else ("O1", f"jit level O1 (MindSpore {ms.__version__} has no graph engine)")
    if wanted == "O2" and not ascend.has_graph_engine():
        raise UserError(
            f"jit_level is O2, but MindSpore {ms.__version__} has no graph engine any more (jit_level: auto takes O1)"
        )
    return wanted, ""


def choose_half(wanted: str, target: str) -> str:
    """The name of the half-precision type for amp_type. UserError for one that the chip doesn't have."""
    generation = ascend.generation(chip()) if target == "Ascend" else 0
    if wanted == "auto":
        return "bfloat16" if generation in (ascend.A2, ascend.A3) else "float16"
    if wanted == "bfloat16" and generation == ascend.FIRST:
        raise UserError(
            f"amp_type is bfloat16, but {chip()} (Ascend's first generation) has no bfloat16: amp_type: float16, "
            "or auto"
        )
    return wanted


def _choose_precision(options: PrecisionOptions, target: str) -> tuple[str, str, str, str]:
    """(AMP level of training, that of validation, half-precision type, what changed)."""
    amp, val_amp = options.amp_level, options.val_amp_level or options.amp_level
    if (amp, val_amp) == ("O0", "O0"):
        return amp, val_amp, "float16", ""
    half = choose_half(options.amp_type, target)
    if target != "CPU":
        return amp, val_amp, half, ""
    faster = of(target).bfloat16_products
    if half == "bfloat16":
        if faster:
            return amp, val_amp, half, f"AMP {amp}: products in bfloat16, all else float32"
        if options.amp_on_cpu:
            raise UserError(
                f"amp_type is bfloat16 with amp_on_cpu, but on a CPU that needs {BFLOAT16_NEEDS}: amp_type: float16, "
                "or leave amp_on_cpu out for float32"
            )
        return "O0", "O0", half, f"AMP O0, float32 (on a CPU the recipe's {amp} bfloat16 needs {BFLOAT16_NEEDS})"
    if options.amp_on_cpu:
        return amp, val_amp, half, ""
    kind = "half precision" if options.amp_type == "auto" else options.amp_type
    advice = "amp_type: bfloat16 is faster here" if faster else "amp_on_cpu keeps it"
    return "O0", "O0", half, f"AMP O0, float32 (the recipe's {amp} {kind} is for NPUs and GPUs; {advice})"


def join_ranks(target: str) -> tuple[int, int, int]:
    """Join the launcher's other processes: (rank, ranks, ranks on this machine)."""
    communication.init()
    ranks = communication.get_group_size()
    fusion = ascend.comm_fusion() if target == "Ascend" else {}
    parallel = ms.ParallelMode.DATA_PARALLEL
    ms.set_auto_parallel_context(parallel_mode=parallel, gradients_mean=True, device_num=ranks, **fusion)
    return communication.get_rank(), ranks, communication.get_local_rank_size()


def set_up(runtime: RuntimeOptions, precision: PrecisionOptions) -> tuple[Device, str]:
    """Set MindSpore's context for this process; the device, and a line that says what the run got and what changed."""
    target, reasons = choose_target(runtime.device_target)
    jit_level, level_changed = choose_level(runtime.jit_level, target)
    amp, val_amp, half_name, amp_changed = _choose_precision(precision, target)
    half = HALF[half_name] if (amp, val_amp) != ("O0", "O0") else None
    changes = [reasons, level_changed, amp_changed]
    name = chip() if target == "Ascend" else ""
    if runtime.mode == 0:
        ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": jit_level})
    else:
        jit_level = "PyNative"
        ms.set_context(mode=ms.PYNATIVE_MODE)
    if jit_level == "O2" and "O0" in (amp, val_amp) and ascend.generation(name) == ascend.FIRST:
        ascend.keep_float32()
    (rank, ranks), neighbours = launched_ranks(), 1
    if not runtime.distribute:
        if ranks > 1:
            raise UserError(
                f"distribute is False, but the launcher started {ranks} processes (run python train.py without msrun, "
                "or leave distribute out)"
            )
    elif ranks > 1:
        rank, ranks, neighbours = join_ranks(target)
    else:
        changes.append("one process (no launcher: the run is alone)")
    got = f"{ranks} x {target}" if ranks > 1 else target
    if name:
        got += f" ({name}, {NAMES[half]}, jit level {jit_level})"
    chosen = Device(target, jit_level, amp, val_amp, half, rank, ranks, neighbours, name)
    return chosen, "; ".join([f"device: {got}", *filter(None, changes)])
