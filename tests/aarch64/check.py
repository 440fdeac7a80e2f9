"""Our C++ on the usual host of an NPU: both sources are compiled for aarch64, and the pixel functions are run by an
emulated processor and compared with this machine's, bit by bit.

    make test-aarch64

zig is the compiler and Unicorn the processor: both are wheels, so that nothing has to be installed beside Python.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from elftools.elf.elffile import ELFFile
from PIL import Image
from unicorn import UC_ARCH_ARM64, UC_MODE_ARM, Uc
from unicorn.arm64_const import (
    UC_ARM64_REG_CPACR_EL1,
    UC_ARM64_REG_LR,
    UC_ARM64_REG_PC,
    UC_ARM64_REG_SP,
    UC_ARM64_REG_X0,
)

from mindvit.data import native
from mindvit.kernels import build

HERE = Path(__file__).parent
ZIG = (sys.executable, "-m", "ziglang")
TARGET = ("-target", "aarch64-linux-gnu", "-std=c++17", "-c")
PAGE = 1 << 12
DATA, STACK, BACK = 0x40000000, 0x80000000, 0x90000000  # addresses: arguments, stack, where a function returns to
ROOM = 1 << 24  # bytes of arguments, and of stack
BICUBIC = Image.Resampling.BICUBIC
SIZES = (((50, 40), (24, 24)), ((33, 33), (47, 61)), ((1, 1), (5, 4)), ((203, 77), (1, 1)), ((300, 299), (64, 64)))
MATRICES = ((1, 0.27, 0, 0, 1, 0), (0.9, 0.2, -3, -0.2, 0.95, 8), (1, 0, 0, -0.3, 1, 0), (1, 0, 2.5, 0, 1, -4.25))
FILL = (1, 120, 250)


class Emulated:
    """A linked program on a processor without a system; each call starts with empty memory."""

    def __init__(self, program: Path):
        self.processor = Uc(UC_ARCH_ARM64, UC_MODE_ARM)
        self.processor.reg_write(UC_ARM64_REG_CPACR_EL1, 3 << 20)  # vector instructions are allowed
        with program.open("rb") as stream:
            file = ELFFile(stream)
            self.symbols = {item.name: item["st_value"] for item in file.get_section_by_name(".symtab").iter_symbols()}
            segments = [item for item in file.iter_segments() if item["p_type"] == "PT_LOAD"]
            first = min(item["p_vaddr"] for item in segments) // PAGE * PAGE
            last = max(item["p_vaddr"] + item["p_memsz"] for item in segments)
            self.processor.mem_map(first, -(-(last - first) // PAGE) * PAGE)
            for item in segments:
                self.processor.mem_write(item["p_vaddr"], item.data())
        for address in (DATA, STACK):
            self.processor.mem_map(address, ROOM)
        self.processor.mem_map(BACK, PAGE)

    def __call__(self, function: str, *arguments: object) -> list[np.ndarray]:
        """The arrays among the arguments, which are passed by address, as the function leaves them."""
        self._run("forget")
        arrays: list[tuple[int, np.ndarray]] = []
        free = DATA
        for number, argument in enumerate(arguments):
            value = argument
            if isinstance(argument, np.ndarray):
                arrays.append((free, argument))
                self.processor.mem_write(free, argument.tobytes())
                value = free
                free += -(-argument.nbytes // 64) * 64
            self.processor.reg_write(UC_ARM64_REG_X0 + number, value)
        self._run(function)
        found = (bytes(self.processor.mem_read(address, array.nbytes)) for address, array in arrays)
        return [np.frombuffer(data, array.dtype).reshape(array.shape) for data, (_, array) in zip(found, arrays)]

    def _run(self, function: str) -> None:
        self.processor.reg_write(UC_ARM64_REG_SP, STACK + ROOM - PAGE)
        self.processor.reg_write(UC_ARM64_REG_LR, BACK)
        self.processor.emu_start(self.symbols[function], BACK)
        assert self.processor.reg_read(UC_ARM64_REG_PC) == BACK


def compiled(source: Path, target: Path, *flags: str) -> Path:
    """An object file of a C++ source."""
    subprocess.run([*ZIG, "c++", *TARGET, *flags, "-o", str(target), str(source)], check=True)
    return target


def main() -> None:
    """Compile, compare, and print a hash of every result."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        compiled(build.SOURCE, place / "kernels.o", "-O1", "-Wno-psabi", "-Wno-pass-failed", *build.FLAGS)
        print(f"{build.SOURCE.name}: compiles")
        flags = ("-O3", "-Wno-psabi", "-fno-exceptions", "-fno-sanitize=all", *native.FLAGS)
        objects = [
            compiled(source, place / f"{source.stem}.o", *flags) for source in (native.SOURCE, HERE / "runtime.cpp")
        ]
        program = place / "native"
        subprocess.run([*ZIG, "ld.lld", "-static", "-e", "forget", "-o", program, *objects], check=True)
        emulated = Emulated(program)
    assert native.loaded() is not None, "this machine has no native functions to compare with"
    rng, wrong = np.random.default_rng(0), []

    def compare(what: str, found: np.ndarray, expected: Image.Image) -> None:
        same = np.array_equal(found, np.asarray(expected))
        wrong.extend([] if same else [what])
        print(f"{what}: {hashlib.sha256(found.tobytes()).hexdigest()[:16]} {'as here' if same else 'OTHERWISE HERE'}")

    for size, target in SIZES:
        pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
        for method in (BICUBIC, Image.Resampling.BILINEAR):
            result = np.zeros((target[1], target[0], 3), np.uint8)
            part = np.array((*target, 0, 0, *target), np.int32)
            found = emulated("resize_rgb", pixels, *size, result, part, int(method == BICUBIC))[1]
            compare(
                f"resize {size} -> {target} {method.name.lower()}",
                found,
                native.resize(Image.fromarray(pixels), target, method),
            )
    pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
    for matrix in MATRICES:
        arguments = (np.zeros_like(pixels), np.array(matrix, np.float64), np.array(FILL, np.uint8))
        found = emulated("affine_rgb", pixels, 50, 40, *arguments)[1]
        compare(f"affine {matrix}", found, native.transform(Image.fromarray(pixels), matrix, BICUBIC, FILL))
    if wrong:
        sys.exit(f"{len(wrong)} results differ on aarch64: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
