"""How long an image holds the lock of the process that trains, and images a second: threads and processes in turn.

python benchmarks/lock_held.py

Each measurement is a process of its own with `lock.c` before Python's functions. The lock is held for all the CPU time
that is not outside of it; calls within the interpreter itself, as for reading files, count as held.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, Optional, Sequence

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from side import answers_only  # noqa: E402

from mindvit import errors  # noqa: E402
from mindvit.errors import UserError  # noqa: E402

KINDS, WORKERS, PIPELINES = ("threads", "processes"), (1, 2, 4), ("train", "eval")
WARMUP, BATCHES = 6, 30
LIBRARY = "MINDVIT_LOCK_LIBRARY"
KEYS = ("img/s", "CPU-ms", "main CPU-ms", "lock-ms")


def one(kind: str, workers: int, pipeline: str, folder: Path, library: Path) -> dict[str, float]:
    """What a process of its own measures; UserError if it fails."""
    ran = subprocess.run(
        [sys.executable, __file__, "--one", kind, str(workers), pipeline, str(folder), str(BATCHES)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LD_PRELOAD": str(library), LIBRARY: str(library)},
    )
    if ran.returncode:
        raise UserError(f"{workers} {kind} failed: {(ran.stderr.strip().splitlines() or ['no word'])[-1]}")
    return dict(json.loads(ran.stdout))


def measured(kind: str, workers: int, pipeline: str, folder: Path, batches: int) -> dict[str, float]:
    """Images a second and milliseconds an image of crossvit_9's pipeline over so many batches."""
    import dataclasses

    from side_data import RECIPE as recipe_file
    from side_data import ROOT

    from mindvit.benchmark.data import BATCH, cpu_of, pipelines, timed
    from mindvit.data.datasets.folder import FolderDataset
    from mindvit.data.workers import Processes, Workers
    from mindvit.engine.setup import setup
    from mindvit.recipe.commandline import parse
    from mindvit.tasks import task_of

    library = ctypes.CDLL(os.environ[LIBRARY])
    library.outside_the_lock.restype = ctypes.c_longlong
    os.environ.pop("LD_PRELOAD")  # workers have locks of their own
    who: Workers = Processes(workers) if kind == "processes" else workers
    recipe, _ = parse(["--config", str(ROOT / recipe_file), "--batch_size", str(BATCH)], "")
    dataset = FolderDataset(folder / "train")
    ctx = dataclasses.replace(setup(recipe, dataset), workers=who)
    made = pipelines(ctx, task_of(recipe), dataset, dataset)[pipeline]

    def seconds() -> np.ndarray:
        every, here = cpu_of(who)
        return np.array([every, here, here - library.outside_the_lock() / 1e9])

    rate, spent = timed(made, WARMUP, batches, cpu=seconds)
    return dict(zip(KEYS, (rate, *map(float, spent))))


def main(arguments: Sequence[str]) -> None:
    """Measure in turn, print the table, keep it."""
    parser = argparse.ArgumentParser(description="Measure how long an image holds the training process's lock.")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each (default: 5)")
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="class folders in DIR/train (none: made-up JPEGs)")
    parser.add_argument("--one", nargs=5, metavar=("KIND", "WORKERS", "PIPELINE", "DIR", "BATCHES"), help="only this")
    given = parser.parse_args(arguments)
    if given.one:
        answers = answers_only()
        kind, workers, pipeline, folder, batches = given.one
        found = measured(kind, int(workers), pipeline, Path(folder), int(batches))
        print(json.dumps(found), file=answers, flush=True)
        return
    if given.rounds < 1:
        raise UserError(f"--rounds is {given.rounds}, but must be at least 1")
    keep(*rows(given.folder, given.rounds), given.out)


def rows(folder: Optional[Path], rounds: int) -> tuple[list[dict[str, Any]], str]:
    """The table, and what it stands for."""
    from mindvit.benchmark.data import BATCH, IMAGES, QUALITY, SIZE, made_up_folder
    from mindvit.runtime import device

    cases = [(pipeline, kind, workers) for pipeline in PIPELINES for kind in KINDS for workers in WORKERS]
    found: dict[tuple[str, str, int], list[dict[str, float]]] = {case: [] for case in cases}
    place = folder or made_up_folder()
    with tempfile.TemporaryDirectory() as unfinished:
        library = Path(unfinished) / "lock.so"
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, HERE / "lock.c", "-ldl"], check=True)
        for _ in range(rounds):
            for pipeline, kind, workers in cases:
                found[pipeline, kind, workers].append(one(kind, workers, pipeline, place, library))
    table = [
        {
            "pipeline": pipeline,
            "made by": kind,
            "workers": workers,
            **{key: f"{median(item[key] for item in items):.{0 if key == 'img/s' else 2}f}" for key in KEYS},
        }
        for (pipeline, kind, workers), items in found.items()
    ]
    what = str(folder) if folder else f"{IMAGES} made-up JPEGs of {SIZE[0]}x{SIZE[1]} px, quality {QUALITY}"
    return table, (
        "Milliseconds an image: CPU time of all processes, of the one that trains, and of it with Python's lock held. "
        f"{what}, to 240 px with the recipe of crossvit_9 in batches of {BATCH}; {rounds} rounds of {BATCHES} batches "
        f"in turn, medians; {device.machine()}; {datetime.date.today().isoformat()}."
    )


def keep(table: list[dict[str, Any]], told: str, out: Path) -> None:
    """Print the table and write it to out/lock_held.md and .json."""
    from mindvit.runtime import console, files

    text = f"{console.table(*table)}\n\n{told}\n"
    print(text)
    out.mkdir(parents=True, exist_ok=True)
    files.write_text(out / "lock_held.md", text)
    console.write_json(out / "lock_held.json", {"told": told, "rows": table})


if __name__ == "__main__":
    errors.run(main)
