"""Stand-ins for CANN's libraries: with them MindSpore's Ascend plug-in loads, selects operators and fuses without CANN
and without a card.

The x86 wheel of MindSpore holds the plug-in, which asks CANN for about 2,000 symbols. Here each function gives 0, each
constructor clears two words, each table is zeros, and the few classes whose objects the plug-in makes are in
classes.cpp. Everything of CANN says "success", so what CANN itself would refuse (types, shapes, versions) isn't seen.

    python tests/ascend/standin.py DIR      builds them (10 s; gcc, g++, nm, c++filt) and prints the environment
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Optional

HERE = Path(__file__).parent
TOOLS = ("gcc", "g++", "nm", "c++filt")
ASKING = (  # the wheel's libraries that need CANN, under mindspore/lib
    "plugin/libmindspore_ascend.so.2",
    "plugin/libmindspore_ops_ascend.so",
    "plugin/ascend/libmindspore_ascend_res_manager.so",
    "plugin/ascend/libmindspore_graph_ir.so",
    "plugin/ascend/libd_collective.so",
    "plugin/ascend/libhccl_plugin.so",
    "libmindspore_ge_backend.so",
)
OF_THE_SYSTEM = ("libstdc++.so.6", "libm.so.6", "libc.so.6", "libgcc_s.so.1", "libgomp.so.1", "ld-linux-x86-64.so.2",
                 "libpthread.so.0", "libdl.so.2", "librt.so.1")  # fmt: skip
SYSTEM_FOLDERS = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64")
EMPTY = ("ge_runner", "graph", "msprofiler", "platform", "c_sec", "nnopbase", "ascend_hal", "hccl")
CANN = "9.1.0"  # what MindSpore 2.10 is told that it finds


def mindspore_folder() -> Path:
    """Where MindSpore is installed; it isn't imported."""
    found = importlib.util.find_spec("mindspore")
    assert found is not None and found.submodule_search_locations
    return Path(next(iter(found.submodule_search_locations)))


def missing() -> Optional[str]:
    """Why there can be no stand-in here; None if there can."""
    absent = [name for name in ASKING if not (mindspore_folder() / "lib" / name).exists()]
    if absent:
        return f"this wheel of MindSpore has no {absent[0]}: the Ascend plug-in of 2.10 for x86-64 is needed"
    tools = [name for name in TOOLS if shutil.which(name) is None]
    return f"no {tools[0]} here" if tools else None


def _nm(file: Path, kind: str) -> set[str]:
    text = subprocess.run(["nm", "-D", kind, str(file)], capture_output=True, text=True).stdout
    rows = (line.split() for line in text.splitlines())
    return {row[-1].split("@")[0] for row in rows if row and (kind == "--defined-only" or row[-2] == "U")}


def _wanted() -> list[str]:
    """Symbols of CANN that the plug-in is linked against."""
    lib = mindspore_folder() / "lib"
    shmem = lib.glob("plugin/ascend/ms_kernels_symmetric_memory/shmem/*/lib/*.so")
    asked = set[str]().union(*(_nm(file, "--undefined-only") for file in (*(lib / name for name in ASKING), *shmem)))
    system = [next((Path(at) / name for at in SYSTEM_FOLDERS if (Path(at) / name).exists()), None)
              for name in OF_THE_SYSTEM]  # fmt: skip
    there = (*lib.rglob("*.so*"), *lib.parent.glob("_c_expression*.so"), *filter(None, system))
    have = set[str]().union(*(_nm(file, "--defined-only") for file in there))
    return sorted(name for name in asked - have if not name.startswith(("Py", "_Py")))


def _c_source(names: Iterable[str]) -> str:
    """C code that defines the (mangled) names."""
    names = list(names)
    plain = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True).stdout.splitlines()
    lines = []
    for number, (name, text) in enumerate(zip(names, plain)):
        scope = text.split("(")[0].split("::")
        if name.startswith(("_ZTV", "_ZTI", "_ZTS")):
            lines.append(f'char s{number}[1024] __asm__("{name}");')
        elif re.search("C[12]", name) and len(scope) > 1 and scope[-1] == scope[-2]:
            # objects that register something are one byte in size
            body = "" if re.search("(Func|Creator)Register", text) else "__builtin_memset(p, 0, 16);"
            lines.append(f'void s{number}(void *p) __asm__("{name}"); void s{number}(void *p) {{ {body} }}')
        else:
            lines.append(f'long s{number}(void) __asm__("{name}"); long s{number}(void) {{ return 0; }}')
    return "\n".join(lines)


def _looked_up() -> dict[str, list[str]]:
    """Library -> functions that MindSpore looks up in it at run time."""
    found: dict[str, list[str]] = {}
    for word in (HERE / "cann_functions.txt").read_text("ascii").split():
        if word.startswith("["):
            names = found[word.strip("[]")] = []
        else:
            names.append(word)
    return found


def _compile(source: str, output: Path, *flags: str) -> Path:
    command = ["gcc", "-O1", "-fPIC", "-w", "-fno-builtin", "-xc", "-", "-o", str(output), *flags]
    subprocess.run(command, input=source, text=True, check=True)
    return output


def build(folder: Path) -> dict[str, str]:
    """Build the stand-ins in `folder`, which is made.

    Returns:
        The environment variables with which a Python finds them; MS_SIMULATION_LEVEL and ranks are the caller's.

    Raises:
        subprocess.CalledProcessError: a compiler fails.
    """
    lib = folder / "latest" / "lib64"
    for place in (lib, folder / "latest" / "opp", folder / "py" / "hccl"):
        place.mkdir(parents=True, exist_ok=True)
    classes = folder / "classes.o"
    old_abi = ["-D_GLIBCXX_USE_CXX11_ABI=0", "-std=c++17", "-O1", "-fPIC"]
    subprocess.run(["g++", *old_abi, "-c", str(HERE / "classes.cpp"), "-o", str(classes)], check=True)
    listing = subprocess.run(["nm", "--defined-only", str(classes)], capture_output=True, text=True, check=True).stdout
    own = {line.split()[-1] for line in listing.splitlines()}
    functions = _looked_up()
    zeros = {at: "\n".join(f"long {name}(void) {{ return 0; }}" for name in names) for at, names in functions.items()}
    linked = _compile(_c_source(name for name in _wanted() if name not in own), folder / "linked.o", "-c")
    main = "libascendcl"
    looked_up = _compile(zeros.pop(main), folder / "looked_up.o", "-c")
    objects = [str(item) for item in (linked, looked_up, classes)]
    subprocess.run(["g++", "-shared", *objects, "-o", f"{lib}/{main}.so", f"-Wl,-soname,{main}.so"], check=True)
    needs_main = ("-Wl,--no-as-needed", f"-L{lib}", "-lascendcl")
    for name, source in {**{f"lib{name}": "" for name in EMPTY}, **zeros}.items():
        needs = needs_main if not source or name == "libruntime" else ()
        _compile(source, lib / f"{name}.so", "-shared", f"-Wl,-soname,{name}.so", *needs)
    (folder / "py" / "hccl" / "__init__.py").touch()
    (folder / "py" / "hccl" / "sys_version.py").write_text(f'__sys_version__ = "{CANN}"\n', "ascii")
    return environment(folder, os.environ)


def environment(folder: Path, given: Mapping[str, str]) -> dict[str, str]:
    """What the variables are with which a Python finds the stand-ins in `folder`."""
    latest = folder / "latest"
    paths = {"LD_LIBRARY_PATH": latest / "lib64", "PYTHONPATH": folder / "py"}
    return {
        **{name: ":".join(filter(None, (str(path), given.get(name)))) for name, path in paths.items()},
        "ASCEND_HOME_PATH": str(latest),
        "ASCEND_TOOLKIT_HOME": str(latest),
        "ASCEND_OPP_PATH": str(latest / "opp"),
        "MS_SUBMODULE_LOG_v": "{DEVICE:1,GE_ADPT:1}",  # what operator selection and graph engine find
    }


if __name__ == "__main__":
    if missing():
        sys.exit(missing())
    for key, value in build(Path(sys.argv[1]).resolve()).items():
        print(f"export {key}='{value}'")
