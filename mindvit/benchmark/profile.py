"""Where a step's time goes: the operators that MindSpore's profiler counts, our kernels by the cell they are in."""

from __future__ import annotations

import csv
import tempfile
import warnings
from pathlib import Path
from typing import Callable, Sequence

import mindspore as ms
from mindspore import Tensor

from mindvit.errors import UserError
from mindvit.runtime import console

PROFILED_STEPS = 5
# Where a profile lies, by device: files, and the columns of an operator's kind, its calls and its time (with the factor
# that makes milliseconds).
PROFILES = {
    "CPU": ("cpu_op_detail_info_*.csv", "op_type", "op_occurrences", "op_total_time(ms)", 1.0),
    "GPU": ("gpu_op_type_info_*.csv", "op_type", "type_occurrences", "total_time(us)", 1e-3),
    "Ascend": ("op_statistic*.csv", "OP Type", "Count", "Total Time(us)", 1e-3),
}


def profile(step: Callable[[], Tensor], target: str) -> list[tuple[str, float, float]]:
    """(operator, calls a step, ms a step), the most expensive first, over a few steps under MindSpore's profiler;
    UserError if it leaves no figures.
    """
    with tempfile.TemporaryDirectory() as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # op_time is old, and what it asks for instead is NPU activity
            profiler = ms.Profiler(output_path=folder, op_time=True)
        for _ in range(PROFILED_STEPS):
            step().asnumpy()
        profiler.analyse()
        return read_profile(Path(folder), target, PROFILED_STEPS)


def read_profile(folder: Path, target: str, steps: int) -> list[tuple[str, float, float]]:
    """The same from the files that the profiler wrote."""
    pattern, kind, calls, spent, factor = PROFILES[target]
    found: dict[str, tuple[float, float]] = {}
    for path in folder.rglob(pattern):
        with path.open(newline="", encoding="utf-8") as stream:
            for line in csv.DictReader(stream):
                name = own_kernel(line["full_op_name"]) if line[kind] == "Custom" else line[kind]
                count, total = found.get(name, (0.0, 0.0))
                found[name] = count + float(line[calls]), total + float(line[spent]) * factor
    if not found:
        raise UserError(f"MindSpore's profiler wrote no {pattern}: --profile has no figures on this {target}")
    return sorted(
        ((name, count / steps, total / steps) for name, (count, total) in found.items()), key=lambda item: -item[2]
    )


def own_kernel(name: str) -> str:
    """Which of our own kernels an operator of that full name is: the cell of mindvit.kernels that it is in, forward
    or backward.
    """
    _, dash, cell = name.split("/")[-2].rpartition("-")
    return f"{cell if dash else 'others'} (ours)"


def profile_table(operators: Sequence[tuple[str, float, float]], most: int = 10) -> str:
    """The most expensive operators, with their shares of all operators' time."""
    whole = sum(spent for _, _, spent in operators)
    rows = [
        {
            "operator": name,
            "calls a step": f"{count:g}",
            "ms a step": f"{spent:.2f}",
            "share": f"{100 * spent / whole:.1f} %",
        }
        for name, count, spent in operators[:most]
    ]
    return (
        console.table(*rows)
        + f"\n{whole:.1f} ms a step in {sum(count for _, count, _ in operators):g} operators of {len(operators)} kinds"
    )
