"""mindvit beside its peers on this machine: the same networks, batch, loss and optimiser, in one number type, in turn,
in one run.

python benchmarks/compare.py --torch_python VENV/bin/python [--models crossvit_9 xcit_tiny_12_p16_224] [--isa avx2]
[--dtype bfloat16] [--rounds 5]
python benchmarks/compare.py --data [--folder DIR]

Every side is a process of its own, stopped while another has its turn. A ratio is how many times as many images a
second mindvit makes as a peer. mindcv must be installed beside mindvit; PyTorch, timm, torchvision and transformers in
an environment of their own (--torch_python).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Iterator, Mapping, Optional, Sequence

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import conditions  # noqa: E402

from mindvit import errors  # noqa: E402
from mindvit.errors import UserError  # noqa: E402
from mindvit.recipe.commandline import Parser  # noqa: E402
from mindvit.runtime import console  # noqa: E402

MODELS = ("crossvit_9", "xcit_tiny_12_p16_224", "cvt_13_224", "crossformer_tiny")
PEERS = {
    "float32": ("mindcv", "torch eager", "torch.compile"),
    "bfloat16": ("mindvit float32", "torch eager", "torch.compile"),  # PyTorch's autocast
}
ONNX = "onnxruntime"  # our own exported file, forward alone, where it is asked for
MODES = ("train", "forward")
SEGMENTORS = re.compile("(semantic_fpn|upernet)_crossformer_(small|base|large)")  # torch_crossformer.py's
IN_MINDCV = ("crossvit_9", "crossvit_15", "crossvit_18", "xcit_tiny_12_p16_224")  # mindcv 0.3's
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


class SideFailed(Exception):
    """A side's process has ended; the text is the last thing it said."""


def torch_name(model: str) -> Optional[str]:
    """timm's, or for CvT transformers', name of a network, or torch_crossformer.py's; None where none has it."""
    if SEGMENTORS.fullmatch(model) or model.startswith("crossformer_"):
        return model
    if model.startswith("crossvit_"):
        return model.replace("_384", "_408") if model.endswith("_384") else f"{model}_240"
    if model.startswith("xcit_"):
        return model.replace("_distill", "")
    return re.sub("_224$", "", model) if model in ("cvt_13_224", "cvt_21_224") else None


def command(
    side: str, model: str, batch: int, size: int, torch_python: Optional[str], kind: str = "float32"
) -> Optional[list[str]]:
    """How a side's process is started; None where it has no such network."""
    if side.startswith("mindvit"):
        own = kind if side == "mindvit" else "float32"
        return [sys.executable, str(HERE / "side_mindvit.py"), model, str(batch), own]
    if side == ONNX:
        return [sys.executable, str(HERE / "side_onnxruntime.py"), model, str(batch)]
    if side == "mindcv":
        return (
            [sys.executable, str(HERE / "side_mindcv.py"), model, str(batch), str(size)] if model in IN_MINDCV else None
        )
    name = torch_name(model)
    if name is None or torch_python is None:
        return None
    return [
        torch_python,
        str(HERE / "side_torch.py"),
        name,
        str(batch),
        str(size),
        "eager" if side == "torch eager" else "compile",
        kind,
    ]


class Side:
    """A side's process, asleep but while it answers."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]):
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115  (as long as the process)
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, text=True, env=dict(environment)
        )
        try:
            self.about = self.answer()
        except BaseException:
            self.close()
            raise
        self.sleep()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Wake it, ask, wait for the answer, let it sleep; SideFailed if it ends instead."""
        assert self.process.stdin
        self.process.send_signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self.answer()
        self.sleep()
        return answer

    def answer(self) -> dict[str, Any]:
        """The next line that it writes."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.said.seek(0)
            last = [text.strip() for text in self.said if text.strip()][-1:]
            raise SideFailed(f"ended with {code}: {last[0] if last else 'no word'}")
        return dict(json.loads(line))

    def sleep(self) -> None:
        """Take no time from the others."""
        self.process.send_signal(signal.SIGSTOP)

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
        self.said.close()


@dataclass
class Figures:
    """What one side gave for one network and mode: seconds of every timed step by round, and of compiling."""

    what: str = ""
    compile: float = 0.0
    rounds: list[list[float]] = field(default_factory=list)
    error: Optional[str] = None
    peak: Optional[float] = None  # GiB of memory that the process had at most

    @property
    def ms(self) -> Optional[float]:
        """Median step over all rounds, milliseconds; None if the side failed."""
        steps = [seconds for part in self.rounds for seconds in part]
        return 1000 * median(steps) if steps and not self.error else None


def ratio(ours: Figures, theirs: Optional[Figures]) -> Optional[float]:
    """How many times as fast we are; None where a side is missing."""
    if theirs is None or ours.ms is None or theirs.ms is None:
        return None
    return theirs.ms / ours.ms


@contextlib.contextmanager
def started(
    commands: Mapping[str, Sequence[str]], environment: Mapping[str, str], found: Mapping[str, Figures]
) -> Iterator[dict[str, Side]]:
    """The sides that start; why another didn't is noted in its figures."""
    sides: dict[str, Side] = {}
    try:
        for name, arguments in commands.items():
            try:
                sides[name] = Side(arguments, environment)
                found[name].what = sides[name].about["what"]
            except (SideFailed, OSError) as error:
                found[name].error = str(error)
        yield sides
    finally:
        for side in sides.values():
            side.close()


def in_turn(sides: Mapping[str, Side], mode: str, found: Mapping[str, Figures], *, rounds: int, steps: int) -> None:
    """Compile each, then `rounds` times `steps` steps of each in turn; a side that fails is left out from there on."""
    for number in range(rounds + 1):
        for name, side in sides.items():
            if found[name].error:
                continue
            try:
                answer = side.ask(mode=mode, steps=steps if number else 0)
            except SideFailed as error:
                found[name].error = str(error)
                continue
            if number:
                found[name].rounds.append(answer["seconds"])
                found[name].peak = answer["peak"]
            else:
                found[name].compile = answer["compile"]
    console.log_info(
        f"  {mode}: " + ", ".join(f"{name} {item.error or f'{item.ms:.0f} ms'}" for name, item in found.items())
    )


def compare(model: str, mode: str, given: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, Figures]:
    """All sides' figures for one network and mode."""
    from mindvit.models import network_info

    size = network_info(model).input_size
    commands = {
        name: command(name, model, given.batch_size, size, given.torch_python, given.dtype)
        for name in ("mindvit", *given.peers)
    }
    here = {name: arguments for name, arguments in commands.items() if arguments}
    found = {name: Figures() for name in here}
    with started(here, environment, found) as sides:
        in_turn(sides, mode, found, rounds=given.rounds, steps=given.steps)
    return found


def two_digits(rate: float) -> float:
    """Images a second with one decimal, or two where they are few."""
    return round(rate, 1 if rate >= 10 else 2)


def speed(side: str, item: Optional[Figures], batch: int) -> dict[str, Optional[float]]:
    """A column: milliseconds of a single image, images a second of more; None where the side is missing."""
    ms = item.ms if item else None
    if batch == 1:
        return {f"{side} ms": ms and round(ms, 2)}
    return {f"{side} img/s": ms and two_digits(batch / ms * 1000)}


def rows(
    model: str,
    mode: str,
    found: Mapping[str, Figures],
    batch: int,
    multiply_adds: int,
    peers: Sequence[str] = PEERS["float32"],
) -> dict[str, Any]:
    """One line of the table: images a second of each side, or milliseconds of a single image, and the ratios."""
    from mindvit.benchmark.timing import flops

    ours = found["mindvit"]
    rate = batch / ours.ms * 1000 if ours.ms else None
    row: dict[str, Any] = {
        "model": model,
        "mode": mode,
        "multiply-adds (G)": round(multiply_adds / 1e9, 2),
        **speed("mindvit", ours, batch),
        "GFLOP/s": rate and round(flops(multiply_adds, rate, mode) / 1e9),
        "compile, s": round(ours.compile, 1),
    }
    for peer in peers:
        row.update(speed(peer, found.get(peer), batch))
    for peer in peers:
        times = ratio(ours, found.get(peer))
        row[f"x {peer}"] = None if times is None else f"{times:.2f}x"
    if "mindcv" in peers:
        theirs = found.get("mindcv")
        row["mindcv compile, s"] = round(theirs.compile, 1) if theirs and theirs.ms else None
    for side in ("mindvit", "torch eager"):
        peak = found[side].peak if side in found else None
        row[f"{side} GiB"] = peak and round(peak, 1)
    return row


def multiply_adds(model: str, mode: str) -> int:
    """Of one image of the network's own size."""
    from mindvit.benchmark.network import segmentor_multiply_adds
    from mindvit.models import create_model, model_info, network_info
    from mindvit.runtime import platform

    if not SEGMENTORS.fullmatch(model):
        return model_info(model).macs
    side = network_info(model).input_size
    return segmentor_multiply_adds(create_model(model, for_platform=platform.PORTABLE), (side, side), mode)


def isa_environment(isa: str) -> dict[str, str]:
    """The children's environment; UserError for AVX-512 where there is none."""
    from mindvit.runtime import device

    if isa == "avx512" and "AVX-512" not in device.machine():
        raise UserError(f"--isa avx512, but this machine has none ({device.machine()}): leave it out")
    return {**os.environ, **(AVX2 if isa == "avx2" else {}), "PYTHONUNBUFFERED": "1"}


def networks(given: argparse.Namespace) -> None:
    """Compare networks, print and keep the table."""
    from mindvit.benchmark.census import names
    from mindvit.runtime import device

    environment = isa_environment(given.isa)
    models = names(given.models, ("classification", "segmentation"))
    table, details, failed = [], [], []
    if not given.any_load:
        conditions.check("--any_load to measure all the same")
    for model in models:
        for mode in given.modes:
            console.log_info(
                f"{model}, {mode}: {given.rounds} rounds of {given.steps} steps of {given.batch_size} images ..."
            )
            now = conditions.measure()
            found = compare(model, mode, given, environment)
            row = rows(model, mode, found, given.batch_size, multiply_adds(model, mode), given.peers)
            table.append({**row, "machine": str(now)})
            details.append(
                {
                    **table[-1],
                    "sides": {
                        name: {"what": item.what, "compile": item.compile, "error": item.error, "rounds": item.rounds}
                        for name, item in found.items()
                    },
                }
            )
            failed += [f"{model} {mode} {name}: {item.error}" for name, item in found.items() if item.error]
    whats = sorted({item["what"] for detail in details for item in detail["sides"].values() if item["what"]})
    told = (
        f"Batch {given.batch_size}, {given.dtype}, {given.rounds} rounds of {given.steps} steps in turn, medians; "
        f"{device.machine()}, "
        f"{'held to AVX2' if given.isa == 'avx2' else 'all instructions'}, machine: GFLOP/s of a product of "
        "NumPy's / GB/s of a copy / cores that others kept busy, before the row; "
        f"{'; '.join(whats)}; {datetime.date.today().isoformat()}."
    )
    keep(table, told, details, given.out, f"compare_{given.isa if given.dtype == 'float32' else given.dtype}")
    if failed:
        raise UserError(f"some sides failed: {'; '.join(failed)}")


def keep(table: Sequence[Mapping[str, Any]], told: str, details: Any, folder: Path, name: str) -> None:
    """Print a table and what it stands for; keep both in Markdown, and all figures in JSON."""
    text = f"{console.table(*table)}\n\n{told}\n"
    print(f"\n{text}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
        console.write_json(folder / f"{name}.json", {"told": told, "rows": details})
    except OSError as error:
        raise UserError(f"--out {folder} can't be written: {error.strerror}") from None
    print(f"kept in {folder / name}.md and .json")


def main(arguments: Sequence[str]) -> None:
    """Compare; UserError for anything that the user can mend."""
    parser = Parser(prog="python benchmarks/compare.py", description="mindvit beside its peers on this machine.")
    parser.add_argument(
        "--models",
        nargs="+",
        default=MODELS,
        metavar="MODEL",
        help=f"names or shell patterns (default: {' '.join(MODELS)})",
    )
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES, help="default: both")
    every = sorted({ONNX, *(peer for peers in PEERS.values() for peer in peers)})
    parser.add_argument("--peers", nargs="+", choices=every, help="default: all that the number type has")
    parser.add_argument("--dtype", default="float32", choices=tuple(PEERS), help="default: float32")
    parser.add_argument("--batch_size", type=int, default=8, metavar="N", help="default: 8")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each side (default: 5)")
    parser.add_argument("--steps", type=int, default=8, metavar="N", help="timed steps a turn (default: 8)")
    parser.add_argument(
        "--isa", choices=("native", "avx512", "avx2"), default="native", help="avx2: hold both frameworks to AVX2"
    )
    parser.add_argument(
        "--torch_python",
        metavar="FILE",
        help="interpreter with torch, timm, torchvision, transformers (none: no PyTorch)",
    )
    parser.add_argument("--any_load", action="store_true", help="measure beside other programs that use the cores too")
    parser.add_argument("--data", action="store_true", help="compare the data pipelines instead, with mindcv's")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="--data: class folders of images (none: made-up JPEGs)"
    )
    parser.add_argument("--out", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    given = parser.parse_args(arguments)
    given.peers = given.peers or PEERS[given.dtype]
    for name in ("batch_size", "rounds", "steps"):
        if getattr(given, name) < 1:
            raise UserError(f"--{name} is {getattr(given, name)}, but must be at least 1")
    if given.torch_python and not os.access(given.torch_python, os.X_OK):
        raise UserError(
            f"--torch_python {given.torch_python} is no program: give a Python that has torch, timm, torchvision and "
            "transformers"
        )
    if given.data:
        from compare_data import pipelines

        keep(*pipelines(given.folder, given.rounds), given.out, "compare_data")
        return
    networks(given)


if __name__ == "__main__":
    errors.run(main)
