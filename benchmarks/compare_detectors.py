"""Detectors beside the same networks in PyTorch, on this machine: one image, float32, in turn, in one run.

python benchmarks/compare_detectors.py --torch_python VENV/bin/python [--models retinanet_crossformer_small ...]
[--modes train forward] [--size 800 1344] [--rounds 3] [--apart] [--out DIR]

--apart: each side ends before the next one starts, for networks of which both don't fit into the machine's memory.

--modes nms roi_align roi_align_grad are of boxes alone: 8,819 in five groups; maps of 512; with the gradient too.

PyTorch and torchvision are in an environment of their own. GFLOP/s are of the multiply-adds that the network's entry
counts at 800 x 1280 px, times the size's area over that, three times for a training step; 'peak' is that of NumPy's
product of two 2048 x 2048 matrices just before. --out: a folder for compare.md, to which rows are added.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
from pathlib import Path
from typing import Optional, Sequence

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import conditions  # noqa: E402
from compare import Figures, in_turn, ratio, started  # noqa: E402

from mindvit.runtime import console  # noqa: E402

TIMES = {"train": 3, "forward": 1}  # how often a step does the network's multiply-adds
MODELS = ("retinanet_crossformer_small", "mask_rcnn_crossformer_small")


def told(name: str, item: Figures) -> dict[str, str]:
    """A side's columns."""
    if item.ms is None:
        return {f"{name} ms": str(item.error), f"{name} GiB": ""}
    return {f"{name} ms": f"{item.ms:.1f}", f"{name} GiB": f"{item.peak:.1f}"}


def speed(model: str, mode: str, size: Sequence[str], ms: Optional[float], peak: float) -> dict[str, str]:
    """What mindvit reaches of the network's multiply-adds, and the share of the machine's peak, GFLOP/s."""
    from mindvit.models import dense_info

    if ms is None or mode not in TIMES:
        return {}
    info = dense_info(model)
    area = int(size[0]) * int(size[1]) / (info.macs_size[0] * info.macs_size[1])
    reached = 2e-9 * info.macs * area * TIMES[mode] / (ms / 1000)
    return {"GFLOP/s": f"{reached:.0f}", "peak": f"{peak:.0f}", "share": f"{reached / peak:.2f}"}


def keep(folder: Path, rows: Sequence[dict[str, str]], what: str) -> None:
    """Add a table of rows to a folder's compare.md."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "compare.md").open("a", encoding="utf-8") as file:
        machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
        file.write(f"{console.table(*rows)}\n\n{what}; one image, float32, {machine}; {datetime.date.today()}.\n\n")


def main() -> None:
    """Print a row for each network and mode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch_python", required=True)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--modes", nargs="+", default=("train", "forward"))
    parser.add_argument("--size", nargs=2, default=("800", "1344"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    sides = {"mindvit": (sys.executable, "side_detector.py"), "torch": (given.torch_python, "side_torch_detector.py")}
    rows = []
    for model in given.models:
        for mode in given.modes:
            found = {name: Figures() for name in sides}
            commands = {name: [python, str(HERE / file), model, *given.size] for name, (python, file) in sides.items()}
            machine = conditions.measure()
            for group in [{name: command} for name, command in commands.items()] if given.apart else [commands]:
                with started(group, os.environ, found) as running:
                    own = {name: found[name] for name in group}
                    in_turn(running, mode, own, rounds=given.rounds, steps=given.steps)
            row = {"model": model, "mode": mode, "size": " x ".join(given.size)}
            for name, item in found.items():
                row |= told(name, item)
            row |= {"x": f"{ratio(found['mindvit'], found['torch']) or float('nan'):.2f}"}
            row |= speed(model, mode, given.size, found["mindvit"].ms, machine.peak)
            rows.append(row)
            print(console.table(row), flush=True)
    if given.out:
        keep(given.out, rows, " beside ".join(item.what or name for name, item in found.items()))


if __name__ == "__main__":
    main()
