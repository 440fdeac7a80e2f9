"""Print what a bug report needs: versions, devices, compiler, kernels, caches, environment variables.

mindvit doctor

MindSpore is asked in a process of its own, so that a missing or broken one is a line of the report.
"""

from __future__ import annotations

import contextlib
import glob
import io
import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Callable, Iterator, Optional, Sequence

import mindvit
from mindvit import environment, errors
from mindvit.cli import npu
from mindvit.errors import UserError
from mindvit.hub import cache as weights
from mindvit.kernels import compiler
from mindvit.recipe.names import configs_folder
from mindvit.version import __version__

REQUIRED = ("mindspore", "numpy", *environment.OTHERS)
OPTIONAL = ("mindcv", "matplotlib", "onnx", "onnxruntime", "huggingface_hub", "tensorboardX", "setuptools")
DEVICE_FILES = ("/dev/davinci[0-9]*", "/dev/nvidia[0-9]*")
DRIVER_FILES = (
    "/usr/local/Ascend/driver/version.info",
    "/usr/local/Ascend/ascend-toolkit/latest/version.cfg",
    "/proc/driver/nvidia/version",
)
DRIVER_COMMANDS = (
    ("npu-smi", "info", "-l"),
    ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"),
)
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve")
VARIABLES = (
    "MINDVIT_",
    "LD_LIBRARY_PATH",
    "ONEDNN_",
    "DNNL_",
    "OMP_",
    "ASCEND_",
    "HCCL_",
    "MS_",
    "RANK_",
    "DEVICE_ID",
    "GLOG_v",
    "CUDA_VISIBLE_DEVICES",
    "XDG_CACHE_HOME",
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "CXX",
    "PYTHONPATH",
)
PROBE = "import sys; sys.path.append(sys.argv[1]); from mindvit.cli.doctor import probe; probe()"
PROBE_SECONDS = 600  # kernels are compiled on first use
WIDTH = 15

Facts = Iterator[tuple[str, str]]


def main(arguments: Sequence[str]) -> None:
    """Print the report, a fact a line; wrong versions and what to do about them come last, under 'problems'."""
    from argparse import ArgumentParser

    parser = ArgumentParser(
        prog="mindvit doctor",
        description="Print what a bug report needs: versions, devices, compiler, kernels, caches, environment "
        "variables. Nothing is sent anywhere.",
    )
    _, rest = parser.parse_known_args(arguments)
    if rest:
        raise UserError(f"command line: unknown argument {rest[0]!r} (mindvit doctor takes none)")
    for facts in (versions(), machine(), computing(), files(), variables(), problems()):
        for name, text in facts:
            print(f"{name:{WIDTH}} " + text.replace("\n", "\n" + " " * (WIDTH + 1)), flush=True)


def versions() -> Facts:
    """Of mindvit, Python and libraries."""
    package = Path(mindvit.__file__).parent
    yield "mindvit", f"{__version__}, {revision(package.parent)}, in {package}"
    yield "Python", f"{platform.python_version()} ({platform.python_implementation()}), {sys.executable}"
    found = {name: version_of(name) for name in (*REQUIRED, *OPTIONAL)}
    yield "libraries", ", ".join(f"{name} {version}" for name, version in found.items() if version)
    yield "not installed", ", ".join(name for name, version in found.items() if version is None) or "-"


def version_of(package: str) -> Optional[str]:
    """The installed version; None where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def revision(root: Path) -> str:
    """The git revision of a checkout."""
    if not (root / ".git").exists():
        return "an installed package"
    commit, changes = (
        output_of("git", "-C", str(root), *words)
        for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain"))
    )
    return f"git revision {commit or 'unknown'}{' with changes' if changes else ''}"


def output_of(*command: str) -> str:
    """What a program prints, or an empty string where there is no such program or it fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def machine() -> Facts:
    """Operating system, processor, devices and their drivers, compiler."""
    yield "system", f"{platform.platform()}, {' '.join(platform.libc_ver()).strip() or 'libc unknown'}"
    info = text_of("/proc/cpuinfo")
    names = sorted({line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")})
    flags = set(
        " ".join(line.partition(":")[2] for line in info.splitlines() if line.startswith(("flags", "Features"))).split()
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "CPU", f"{cores} of {os.cpu_count()} cores, {', '.join(names) or platform.machine()}"
    yield (
        "instructions",
        ", ".join(name for name in INSTRUCTIONS if name in flags) or f"none of {', '.join(INSTRUCTIONS)}",
    )
    sizes = [int(line.split()[1]) for line in text_of("/proc/meminfo").splitlines() if line.startswith("MemTotal")]
    yield "memory", f"{sizes[0] / 2**20:.1f} GiB" if sizes else "unknown"
    devices = [path for pattern in DEVICE_FILES for path in sorted(glob.glob(pattern))]
    yield "device files", ", ".join(devices) or f"none ({', '.join(DEVICE_FILES)})"
    drivers = [text_of(path).strip() for path in DRIVER_FILES] + [output_of(*command) for command in DRIVER_COMMANDS]
    yield "drivers", "\n".join(filter(None, drivers)) or "none found"
    yield "Ascend", npu.describe()
    program = compiler.program()
    said = output_of(program, "--version") if program else ""
    yield (
        "C++ compiler",
        f"{program}: {said.splitlines()[0] if said else 'does not run'}"
        if program
        else f"none of {', '.join(compiler.COMPILERS)}",
    )


def text_of(path: str) -> str:
    """A file's text, or an empty string where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def computing() -> Facts:
    """What MindSpore finds, and the kernels that were built, asked in a process of its own."""
    # appended, not in PYTHONPATH: what lies beside an installed package must not come before Python's own modules
    command = [sys.executable, "-c", PROBE, str(Path(mindvit.__file__).parent.parent)]
    ended = ""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PROBE_SECONDS, check=False
        )
        printed, code = done.stdout, done.returncode
        if code:
            said = done.stderr.strip().splitlines() or ["no message"]
            ended = f"the process that asks MindSpore ended with {code}: {said[-1]}"
    except subprocess.TimeoutExpired as error:
        printed, ended = (
            (error.stdout or b"").decode(errors="replace"),
            f"MindSpore did not answer in {PROBE_SECONDS} s",
        )
    facts = [json.loads(line) for line in printed.splitlines() if line.startswith('{"fact"')]
    yield from ((fact["fact"], fact["text"]) for fact in facts)
    if ended:
        yield "MindSpore", ended


def probe() -> None:
    """What needs MindSpore, a JSON object a line, printed at once: the next question may end the process."""
    environment.quiet_log()
    for name, question in (("image kernels", image_kernels), ("device", device_found), ("CPU kernels", cpu_kernels)):
        try:
            text = question()
        except Exception as error:  # of any kind: a broken library is what this is about
            text = f"can't be used: {type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
        print(json.dumps({"fact": name, "text": text}), flush=True)


def image_kernels() -> str:
    """Whether data.native is built."""
    from mindvit.data import native

    def load() -> Optional[str]:
        library = native.loaded()
        return None if library is None else library._name

    return state_of(native.SWITCH, load)


def cpu_kernels() -> str:
    """Whether kernels is built."""
    from mindvit.kernels import build

    return state_of(build.SWITCH, build.library)


def state_of(switch: str, load: Callable[[], Optional[str]]) -> str:
    """Where a library lies that `load` builds, or why there is none.

    switch: the environment variable that is 0 to do without it.
    """
    if os.environ.get(switch) == "0":
        return f"off ({switch}=0)"
    with contextlib.redirect_stderr(io.StringIO()) as said:
        path = load()
    return f"built: {path}" if path else f"not built: {said.getvalue().strip()}"


def device_found() -> str:
    """The device that a run with device_target: auto gets."""
    from mindvit.runtime import ascend, device

    target, reasons = device.choose_target("auto")
    support = ascend.support(device.chip()) if target == "Ascend" else ""
    return " ".join(filter(None, (target, device.chip(), support, f"({reasons})" if reasons else "")))


def files() -> Facts:
    """Caches and recipes."""
    yield "cache", _filled(compiler.folder())
    yield "weights", _filled(weights.folder())
    yield "recipes", str(configs_folder())


def _filled(folder: Path) -> str:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return f"{folder}: {len(sizes)} files, {sum(sizes) / 2**20:.1f} MiB" if sizes else f"{folder}: empty"


def variables() -> Facts:
    """The environment variables that change what mindvit or MindSpore does."""
    yield (
        "environment",
        "\n".join(f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(VARIABLES)) or "-",
    )


def problems() -> Facts:
    """What is wrong with the versions, and what to do."""
    yield "problems", "\n".join(environment.problems()) or "none"


if __name__ == "__main__":
    errors.run(main, checked=False)
