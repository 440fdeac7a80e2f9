"""What is particular to Ascend: its chips' generations, overflow, graph levels and runs without an NPU."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Callable

import mindspore as ms

from mindvit.runtime import console

FIRST, A2, A3 = 1, 2, 3  # generations: Atlas training series, Atlas A2, Atlas A3
# A2's names have a digit after the B; Ascend910B itself is the first generation's
NAMES = {
    FIRST: re.compile(r"Ascend910(Pro|Premium)?[AB]?"),
    A2: re.compile(r"Ascend910B\d\w*(-\d)?"),
    A3: re.compile(r"Ascend910_93\d\d"),
}
SUPPORT = {
    FIRST: "(first generation: best effort, MindSpore's makers test it no more)",
    A2: "(Atlas A2, supported)",
    A3: "(Atlas A3, supported)",
    0: "(a chip that mindvit doesn't know: not supported)",
}
LEVELS = ("O2", "O1", "O0")  # of graph compilation, the one to try first first
# what MindSpore says where a level can't take a graph; the graph engine's own files are named in its call stack
REFUSALS = {"O2": re.compile(r"\bGE\b|ge_backend"), "O1": re.compile(r"graph.?kernel|\bdvm\b", re.IGNORECASE)}
# gradients that travel in one all-reduce: MindSpore 2.10 counts a float32 four times (the 111 MB of crossformer_tiny
# made 13 at 32), so these are 25 MB
FUSED_MB = 100
GRAPH_ENGINE = "lib/libmindspore_ge_backend.so"


def generation(chip: str) -> int:
    """FIRST, A2 or A3 by what the driver calls a chip (Ascend910B3, ...); 0 for another chip or none."""
    return next((number for number, name in NAMES.items() if name.fullmatch(chip)), 0)


def support(chip: str) -> str:
    """What mindvit's support of a chip is, in a few words."""
    return SUPPORT[generation(chip)]


def keeps_overflow_flag(chip: str) -> bool:
    """Whether half precision overflows to its largest number and a flag: on the first generation, on the others by
    MS_ASCEND_CHECK_OVERFLOW_MODE.
    """
    told = os.environ.get("MS_ASCEND_CHECK_OVERFLOW_MODE")
    return generation(chip) == FIRST or (generation(chip) != 0 and told == "SATURATION_MODE")


def is_simulated() -> bool:
    """Whether MindSpore compiles for a device that need not be there (MS_SIMULATION_LEVEL)."""
    return bool(os.environ.get("MS_SIMULATION_LEVEL"))


def simulated_chip() -> str:
    """The chip that a simulation is for, by the environment; no driver is there to ask."""
    return os.environ.get("MINDVIT_CHIP", "") if is_simulated() else ""


def has_graph_engine() -> bool:
    """Whether this MindSpore still has the engine behind level O2; it says from 2.9 on that it will be removed."""
    found = importlib.util.find_spec("mindspore")
    places = found.submodule_search_locations if found else None
    return any((Path(place) / GRAPH_ENGINE).exists() for place in places or ())


def comm_fusion() -> dict[str, dict[str, dict[str, object]]]:
    """The option of MindSpore that lets several gradients travel in one all-reduce; without it each has its own."""
    return {"comm_fusion": {"allreduce": {"mode": "size", "config": FUSED_MB}}}


def keep_float32() -> None:
    """Let the graph engine compute float32 products in float32; on the first generation it takes float16 otherwise."""
    ms.device_context.ascend.op_precision.precision_mode("must_keep_origin_dtype")


def jit_level() -> str:
    """The level at which graphs are compiled now; empty where none was set."""
    return str((ms.context.get_jit_config() or {}).get("jit_level", ""))


def compile_graph(attempt: Callable[[], object]) -> None:
    """Compile a graph; where the level in force can't take it, at the next one below, which a line says.

    All graphs that follow are compiled at that level too.

    Args:
        attempt: Compiles the graph, and may be called again after it failed.

    Raises:
        RuntimeError: It fails for another reason, or at the last level.
    """
    while True:
        try:
            attempt()
            return
        except RuntimeError as error:
            level = jit_level()
            refused = ms.get_context("device_target") == "Ascend" and level in REFUSALS
            if not (refused and REFUSALS[level].search(str(error))):
                raise
            lower = LEVELS[LEVELS.index(level) + 1]
            console.log_info(
                f"note: jit level {lower}: {level} can't take this graph ({console.first_line(error)}); "
                f"jit_level: {lower} from the start is faster"
            )
            ms.set_context(jit_config={"jit_level": lower})
