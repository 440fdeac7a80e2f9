"""C++ of our own, built on first use with the system's compiler, once for a source, its flags and a processor."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Optional, Sequence

COMPILERS = ("g++", "clang++", "c++")
INCLUDE = re.compile(r'^#include "(.+)"$', re.MULTILINE)
IS_X86 = platform.machine() in ("x86_64", "AMD64")
NATIVE = "-march=native" if IS_X86 else "-mcpu=native"  # all that this processor has, in GCC's words
FLAGS = ("-O3", NATIVE, "-std=c++17", "-shared", "-fPIC")


def library(source: Path, flags: Sequence[str], switch: str, loss: str) -> Optional[Path]:
    """The library built of `source`; None where it is switched off (`switch`=0 in the environment) or, with a line on
    stderr, can't be had.

    loss: what is slower or missing without it, for that line.
    """
    if os.environ.get(switch) == "0":
        return None
    try:
        return build(source, flags)
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", None) or error).strip().splitlines()
        print(
            f"note: {loss}: {said[0] if said else type(error).__name__} ({switch}=0 keeps this quiet)",
            file=sys.stderr,
            flush=True,
        )
        return None


def program() -> Optional[str]:
    """The compiler: $CXX, if set, or the first of COMPILERS that is there; None where there is none."""
    return os.environ.get("CXX") or next(filter(None, map(shutil.which, COMPILERS)), None)


def folder() -> Path:
    """Where what was built is kept: $XDG_CACHE_HOME/mindvit or ~/.cache/mindvit."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mindvit"


def build(source: Path, flags: Sequence[str]) -> Path:
    """The library, in `folder`; OSError or SubprocessError where it can't be built or kept."""
    compiler = program()
    contents = [file.read_bytes() for file in sources(source)]
    key = hashlib.sha256(repr((contents, compiler, FLAGS, tuple(flags), _processor())).encode()).hexdigest()[:16]
    path = folder() / f"{source.stem}-{key}.so"
    if path.exists():
        return path
    if compiler is None:
        raise OSError(f"no C++ compiler ({', '.join(COMPILERS)}) found")
    path.parent.mkdir(parents=True, exist_ok=True)
    # ranks that start together build it each, and the last one wins
    with tempfile.TemporaryDirectory(dir=path.parent) as unfinished:
        made = Path(unfinished) / path.name
        command = [compiler, *FLAGS, *flags, "-o", str(made), str(source), "-ldl"]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        made.replace(path)
    return path


def sources(source: Path) -> list[Path]:
    """A C++ source and every file of ours that it includes, each once."""
    found = [source]
    for file in found:  # which grows
        names = INCLUDE.findall(file.read_text(encoding="utf-8"))
        found += [path for path in (file.with_name(name) for name in dict.fromkeys(names)) if path not in found]
    return found


def _processor() -> str:
    # NATIVE: a home directory may be shared by different machines
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore").splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}))
