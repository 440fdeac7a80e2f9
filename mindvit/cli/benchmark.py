"""Measure networks, or the data pipeline, by the protocol of docs/performance.md.

mindvit benchmark 'crossvit_*' --mode train --batch_size 8
mindvit benchmark --mode data --config configs/crossvit/crossvit_9_ascend.yaml
msrun --worker_num 8 python -m mindvit benchmark crossvit_9 --mode train --batch_size 256

Every recipe key is an option, as of train.py.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Sequence

from mindvit import errors
from mindvit.benchmark.columns import SHOWN
from mindvit.errors import UserError

if TYPE_CHECKING:
    from mindvit.benchmark.network import Job
    from mindvit.recipe.schema import Recipe

BATCH = 8  # unless a recipe or the command line says another: what a laptop can do
MODES = ("forward", "train", "data")
TASKS = ("classification", "segmentation", "detection")
SHOWN_DATA = (
    "pipeline",
    "images",
    "kB",
    "resolution",
    "augmentation",
    "batch size",
    "made by",
    "workers",
    "img/s",
    "CPU-ms an image",
    "of the main process",
)
EXTRA = (
    (
        ("models",),
        {
            "nargs": "*",
            "metavar": "MODEL",
            "help": "name, alias or shell pattern, e.g. 'crossvit_*' (none: the recipe's)",
        },
    ),
    (
        ("--mode",),
        {
            "dest": "what",
            "choices": MODES,
            "default": "train",
            "help": "what is timed: evaluation's graph, the training step, or the data pipeline "
            "(on made-up images, all three; default: train)",
        },
    ),
    (
        ("--warmup",),
        {"type": int, "default": 10, "metavar": "N", "help": "steps before the clock starts (default: 10)"},
    ),
    (("--steps",), {"type": int, "default": 40, "metavar": "N", "help": "timed steps (default: 40)"}),
    (("--profile",), {"action": "store_true", "default": False, "help": "print the ten most expensive operators too"}),
    (
        ("--compile_cache",),
        {
            "dest": "caches",
            "default": None,
            "metavar": "DIR",
            "help": "compile twice, into an empty folder within DIR and from it, and tell both times",
        },
    ),
    (
        ("--out",),
        {
            "type": Path,
            "default": None,
            "metavar": "DIR",
            "help": "folder for CSV and JSON (default: the table is printed, and no file written)",
        },
    ),
)


def main(arguments: Sequence[str]) -> None:
    """Measure, print the table, keep it; UserError for anything that the user can mend, and for a network that
    failed.
    """
    from mindvit.recipe.commandline import COMMAND_LINE, parse

    recipe, given = parse(arguments, "Measure networks, or the data pipeline.", EXTRA, prog="mindvit benchmark")
    for name in ("warmup", "steps"):
        if given[name] < 1:
            raise UserError(f"{COMMAND_LINE}: --{name} is {given[name]}, but must be at least 1")
    if recipe.origins["batch_size"] == "default":
        recipe = recipe.replace(f"default of {Path(__file__).stem}", batch_size=BATCH)
    if given["what"] == "data":
        from mindvit.benchmark.data import measure_data

        keep(
            measure_data(recipe, warmup=given["warmup"], steps=given["steps"]),
            given["out"],
            "benchmark_data",
            SHOWN_DATA,
        )
        return
    rows = networks(recipe, given)
    if not rows:
        return
    keep(rows, given["out"], f"benchmark_{given['what']}", SHOWN)
    failed = [row for row in rows if row["error"]]
    if failed:
        raise Failed("; ".join(f"{row['model']}: {row['error']}" for row in failed))


class Failed(UserError):
    """Some networks could not be measured."""

    exit_code = 1


def networks(recipe: Recipe, given: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each network; none on the ranks that don't print."""
    from mindvit.benchmark.census import names
    from mindvit.benchmark.network import Job, measure
    from mindvit.recipe.commandline import options
    from mindvit.runtime.device import launched_ranks

    chosen = names(given["models"], TASKS) if given.get("models") else [recipe.model.model]
    rank, ranks = launched_ranks()
    if ranks > 1 and len(chosen) > 1:
        raise UserError(
            f"{len(chosen)} networks ({', '.join(chosen[:3])}, ...) under a launcher: its ranks meet only once, so "
            "give one at a time"
        )
    if ranks > 1 and given["caches"]:
        raise UserError("--compile_cache compares two starts of one process: leave it out under a launcher")
    jobs = []
    for name in chosen:
        one = recipe.replace("command line", model=name) if name != recipe.model.model else recipe
        jobs.append(
            Job(one.flat(), given["what"], dict(one.origins), given["warmup"], given["steps"], given["profile"])
        )
    if ranks > 1:
        with errors.hints_for(options(EXTRA)):
            rows = [measure(jobs[0])]
        return rows if rank == 0 else []
    return [in_child(job, given["caches"]) for job in jobs]


def in_child(job: Job, cache: str | None = None) -> dict[str, Any]:
    """The row of a process of its own; with a folder for compile caches, of the second of two, with both compile
    times.
    """
    if cache is None:
        return child(job)
    try:
        Path(cache).mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=f"{job.values['model']}-", dir=cache)
    except OSError as error:
        raise UserError(f"--compile_cache {cache} can't be written: {error.strerror}") from None
    cold = child(dataclasses.replace(job, compile_cache=folder, compile_only=True))
    if cold["error"]:
        return cold
    warm = child(dataclasses.replace(job, compile_cache=folder))
    return (
        warm if warm["error"] else {**warm, "graph compile": cold["graph compile"], "with cache": warm["graph compile"]}
    )


def child(job: Job) -> dict[str, Any]:
    """The row that a process of its own gives; if it fails, an empty one with the reason as 'error'."""
    from mindvit.benchmark.network import COLUMNS, as_json

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(as_json(job), encoding="utf-8")
        print(
            f"{job.values['model']}: {job.mode}, {job.warmup} + {job.steps} steps of {job.values['batch_size']} "
            "images ...",
            flush=True,
        )
        code = subprocess.run([sys.executable, "-m", "mindvit.benchmark.network", str(path)], check=False).returncode
        told = json.loads(path.read_text(encoding="utf-8"))
    reason = told.get("error") or (
        f"the process ended with {code}" + " (killed: too little memory?)" * (code == -9) if code else None
    )
    if reason:
        return {
            **dict.fromkeys(COLUMNS),
            "model": job.values["model"],
            "mode": job.mode,
            "batch size": job.values["batch_size"],
            "error": reason,
        }
    return dict(told)


def keep(rows: list[dict[str, Any]], folder: Optional[Path], name: str, shown: Sequence[str]) -> None:
    """Print the `shown` columns, with the reason where one failed, and keep all of them where there is a folder: CSV
    appended, JSON anew.
    """
    from mindvit.runtime import console

    columns = (*shown, "error") if any(row.get("error") for row in rows) else shown
    print("\n" + console.table(*({key: row[key] for key in columns} for row in rows)), flush=True)
    if folder is None:
        return
    try:
        for row in rows:
            console.append_csv(folder / f"{name}.csv", row)
        console.write_json(folder / f"{name}.json", rows)
    except OSError as error:
        raise UserError(f"--out {folder} can't be written: {error.strerror}") from None
    print(f"kept in {folder / name}.csv and .json")


if __name__ == "__main__":
    errors.run(main)
