"""Several processes, as msrun starts them: every family, two 'nodes', a rank that dies, a run that is killed again
and again.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import train_small
from image_files import make_data_dir
from launcher import free_port, msrun
from small import SIDE, SMALL

from mindvit.weights import read_weights

TESTS = Path(__file__).parents[1]
OPTIONS = ["--device_target", "CPU", "--warmup_epochs", "0", "--batch_size", "4", "--log_interval", "1"]
# everything that a run remembers
LIVELY = [
    "--model",
    "nano",
    "--epoch_size",
    "12",
    "--mixup",
    "0.8",
    "--cutmix",
    "1.0",
    "--re_prob",
    "0.5",
    "--drop_path_rate",
    "0.2",
    "--aug_repeats",
    "3",
    "--ema",
    "--ema_decay",
    "0.9",
    "--gradient_accumulation_steps",
    "2",
    "--amp_on_cpu",
    "--amp_level",
    "O2",
    "--ckpt_save_steps",
    "1",
    "--val_interval",
    "4",
    "--clip_grad",
]
KILLS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 images to train and 10 to validate."""
    return make_data_dir(tmp_path_factory.mktemp("images"), classes=2, train=24, val=5, modes=("jpeg_rgb",))


def start(folder: Path, out: Path, *more: str, launcher: tuple[str, ...] = (), **environment: str) -> subprocess.Popen:
    """train.py with the small networks."""
    python = str(Path(sys.executable).parent)
    out.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [
            *launcher,
            "python",
            *train_small.command(folder, out, *OPTIONS, *more),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "PATH": f"{python}{os.pathsep}{os.environ['PATH']}", **environment},
    )


def finish(process: subprocess.Popen, seconds: float = 300) -> str:
    """Its output, once it has ended well."""
    text, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, text[-3000:]
    return text


def workers(logs: Path) -> str:
    return "\n".join(path.read_text(errors="replace") for path in sorted(logs.glob("worker_*.log")))


@pytest.mark.parametrize("family", SMALL)
def test_every_family_trains_on_two_ranks(folder: Path, tmp_path: Path, family: str) -> None:
    logs = tmp_path / "logs"
    process = start(
        folder, tmp_path / "out", "--model", f"small_{family}", "--epoch_size", "1", launcher=msrun(2, logs)
    )
    text, _ = process.communicate(timeout=400)
    assert process.returncode == 0, workers(logs)[
        -3000:
    ]  # the run itself makes sure that both ranks end with the same weights
    row = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (row["ranks"], row["device"], row["image_size"]) == (2, "CPU", SIDE[family])
    arrays, meta = read_weights(tmp_path / "out" / f"small_{family}-1.ckpt")
    assert (
        meta["step"] == 6
        and meta["score"]["count"] == 10
        and all(np.isfinite(value).all() for value in arrays.values())
    )


def test_two_nodes_on_one_machine(folder: Path, tmp_path: Path) -> None:
    """The first as msrun starts it, the second by what msrun would set there: on the scheduler's own machine it would
    start a second scheduler.
    """
    port, arguments = str(free_port()), (folder, tmp_path / "out", "--model", "nano", "--epoch_size", "1")
    first = start(
        *arguments,
        launcher=(
            "msrun",
            "--worker_num",
            "2",
            "--local_worker_num",
            "1",
            "--node_rank",
            "0",
            "--master_addr",
            "127.0.0.1",
            "--master_port",
            port,
            "--join",
            "True",
            "--log_dir",
            str(tmp_path / "logs"),
        ),
    )
    second = start(
        *arguments,
        MS_ROLE="MS_WORKER",
        MS_WORKER_NUM="2",
        MS_SCHED_HOST="127.0.0.1",
        MS_SCHED_PORT=port,
        MS_NODE_ID="1",
        RANK_ID="1",
    )
    quiet = finish(second)
    first.communicate(timeout=200)
    logs = workers(tmp_path / "logs")
    assert first.returncode == 0, logs[-3000:]
    assert "device: 2 x CPU" in logs and "| nano" in logs and "| nano" not in quiet  # one of them speaks and saves
    assert read_weights(tmp_path / "out" / "nano-1.ckpt")[1]["score"]["count"] == 10


def wait_for(path: Path, text: str, seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not (path.exists() and text in path.read_text(errors="replace")):
        assert time.monotonic() < end, f"{path} lacks {text!r}"
        time.sleep(0.1)


def processes(word: str) -> list[int]:
    """Those whose command has `word` in it."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            if entry.name.isdigit() and word in (entry / "cmdline").read_text(errors="replace"):
                found.append(int(entry.name))
    return found


def test_a_rank_that_dies_ends_the_others(folder: Path, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    process = start(
        folder,
        tmp_path / "out",
        "--model",
        "nano",
        "--epoch_size",
        "100000",
        launcher=msrun(2, logs),
        MS_NODE_TIMEOUT="5",
    )
    wait_for(logs / "worker_0.log", "step 10/")
    ranks = {}
    for number in processes(str(tmp_path / "out")):
        facts = dict(
            item.split("=", 1)
            for item in Path(f"/proc/{number}/environ").read_text(errors="replace").split("\0")
            if "=" in item
        )
        if facts.get("MS_ROLE") == "MS_WORKER":
            ranks[facts["MS_NODE_ID"]] = number
    os.kill(ranks["1"], signal.SIGKILL)
    killed = time.monotonic()
    while ranks["0"] in processes(str(tmp_path / "out")):
        assert time.monotonic() < killed + 20, "rank 0 goes on alone"
        time.sleep(0.1)
    text, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and "exited with exception" in text and str(logs) in text and "RANK_ID=1" in text


def written(out: Path) -> dict[Path, int]:
    """The run's checkpoints and when each was written; one that is replaced at this moment is left out."""
    found = {}
    for path in out.glob("nano-*.ckpt"):
        with contextlib.suppress(FileNotFoundError):
            found[path] = path.stat().st_mtime_ns
    return found


def killed_and_restarted(folder: Path, out: Path, count: int, logs: Path, ranks: int, chance: random.Random) -> int:
    """Start a run over and over, with worker processes, killing all its processes `count` times at a random moment of
    its steps; how many starts went on from a checkpoint.
    """
    resumed = 0
    for number in range(count + 1):
        place = logs / str(number)
        launcher = msrun(ranks, place) if ranks > 1 else ()
        process = start(folder, out, *LIVELY, "--python_multiprocessing", "True", launcher=launcher)
        if number == count:
            text = finish(process)
        else:
            before, end = written(out), time.monotonic() + 200
            while written(out) == before and process.poll() is None and time.monotonic() < end:
                time.sleep(0.02)
            time.sleep(
                chance.uniform(0, 0.1)
            )  # all 72 steps take 2 s on a fast machine: every one of the kills must meet a run that is not at its end
            assert process.poll() is None, f"the run ended before kill {number + 1}: {process.communicate()[0][-1000:]}"
            os.killpg(process.pid, signal.SIGKILL)
            text = process.communicate()[0]
            for left in processes(str(out)):  # msrun's workers have sessions of their own
                os.kill(left, signal.SIGKILL)
        resumed += "resuming from" in (workers(place) if ranks > 1 else text)
    return resumed


@pytest.mark.parametrize(
    "ranks, kills",
    [(1, 1), pytest.param(1, KILLS, marks=pytest.mark.big), pytest.param(2, KILLS, marks=pytest.mark.big)],
)
def test_kill_9_at_random_moments_leaves_no_trace(folder: Path, tmp_path: Path, ranks: int, kills: int) -> None:
    finish(start(folder, tmp_path / "whole", *LIVELY, launcher=msrun(ranks, tmp_path / "logs") if ranks > 1 else ()))
    resumed = killed_and_restarted(folder, tmp_path / "killed", kills, tmp_path / "more", ranks, random.Random(ranks))
    assert resumed == kills
    (one, mine), (two, others) = (read_weights(tmp_path / out / "nano-12.ckpt") for out in ("whole", "killed"))
    assert list(one) == list(two) and all(np.array_equal(one[name], two[name]) for name in one)
    assert mine["best"] == others["best"] and mine["score"] == others["score"]
