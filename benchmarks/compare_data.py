"""The data pipelines of mindvit and mindcv on the same images, in turn: compare.py --data."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, Mapping, Optional, Sequence

from mindvit.errors import UserError
from mindvit.runtime import console

HERE = Path(__file__).parent
SIDES, SPLITS, WORKERS = ("mindvit", "mindcv"), ("train", "eval"), (1, 2)
BATCHES = 20


@contextlib.contextmanager
def held_to(count: int) -> Iterator[None]:
    """Processes that start meanwhile have `count` of this one's cores, or all where it has fewer."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def one(who: str, split: str, folder: Path, workers: int) -> dict[str, float]:
    """What a process of its own measures on as many cores as it has workers; UserError if it fails."""
    command = [sys.executable, str(HERE / "side_data.py"), who, split, str(folder), str(workers), str(BATCHES)]
    with held_to(workers):
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise UserError(f"{who}'s {split} pipeline failed: {(ran.stderr.strip().splitlines() or ['no word'])[-1]}")
    return dict(json.loads(ran.stdout))


def row(split: str, workers: int, found: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """One line of the table, from each side's rounds: medians."""
    line: dict[str, Any] = {"pipeline": split, "workers": workers}
    for key, digits in (("img/s", 0), ("CPU-ms", 2)):
        for who in SIDES:
            line[f"{who} {key}"] = f"{median(item[key] for item in found[who]):.{digits}f}"
    line["x mindcv"] = (
        f"{median(item['img/s'] for item in found['mindvit']) / median(item['img/s'] for item in found['mindcv']):.2f}x"
    )
    return line


def pipelines(folder: Optional[Path], rounds: int) -> tuple[list[dict[str, Any]], str, list[dict[str, Any]]]:
    """(table, what it stands for, all figures), over class folders in `folder`/train, or made-up JPEGs."""
    from mindvit.benchmark.data import IMAGES, QUALITY, SIZE, made_up_folder
    from mindvit.runtime import device

    if folder is not None and not (folder / "train").is_dir():
        raise UserError(
            f"--folder {folder} has no train/: give a folder whose train/ has a folder of images for each class"
        )
    place = folder or made_up_folder()
    table, details = [], []
    for split in SPLITS:
        for workers in WORKERS:
            found: dict[str, list[dict[str, float]]] = {who: [] for who in SIDES}
            for _ in range(rounds):
                for who in SIDES:
                    found[who].append(one(who, split, place, workers))
            table.append(row(split, workers, found))
            details.append({**table[-1], "rounds": found})
            console.log_info(", ".join(f"{key} {value}" for key, value in table[-1].items()))
    what = str(folder) if folder else f"{IMAGES} made-up JPEGs of {SIZE[0]}x{SIZE[1]} px, quality {QUALITY}"
    told = (
        f"{what}, to 240 px with the recipe of crossvit_9; mindvit up to the uint8 batch, mindcv up to its float32 "
        f"batch with mixing; each on as many cores as workers; {rounds} rounds of "
        f"{BATCHES} batches in turn, medians; {device.machine()}; {datetime.date.today().isoformat()}."
    )
    return table, told, details
