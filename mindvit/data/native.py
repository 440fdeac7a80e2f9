"""Training's resizing and moving of pixels, two to four times as fast as Pillow's: native.cpp, built on first use.

Moved pixels are Pillow's to the last bit. Resized ones are, where Pillow too does the width first; for other shapes it may round the picture in
between the other way. Without a C++ compiler, or with MINDVIT_NATIVE=0, Pillow does it itself. Evaluation always takes Pillow.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np
from PIL import Image

SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-ffp-contract=off")
COMPILERS = ("c++", "g++", "clang++")
SWITCH = "MINDVIT_NATIVE"
Resampling = Image.Resampling
Box = tuple[int, int, int, int]


def resize(image: Image.Image, size: tuple[int, int], method: Resampling, box: Optional[Box] = None) -> Image.Image:
    """`image`, RGB, or what lies in `box` alone (left, top, right, bottom), as size (width, height) px."""
    part = image.crop(box) if box else image
    library = loaded()
    if library is None or method not in (Resampling.BICUBIC, Resampling.BILINEAR) or part.mode != "RGB":
        return part.resize(size, method)
    pixels, result = _array(part), np.empty((size[1], size[0], 3), np.uint8)
    library.resize_rgb(_address(pixels), *part.size, _address(result), *size, int(method == Resampling.BICUBIC))
    return Image.fromarray(result)


def transform(image: Image.Image, matrix: Sequence[float], method: Resampling, fill: tuple[int, int, int]) -> Image.Image:
    """`image`, RGB, whose place (x, y) takes the colour at (ax + by + c, dx + ey + f), or `fill` where there is none; matrix: a to f."""
    library = loaded()
    if library is None or method != Resampling.BICUBIC or image.mode != "RGB":
        return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=method, fillcolor=fill)
    pixels, numbers = _array(image), np.array(matrix, np.float64)
    result = np.empty_like(pixels)
    library.affine_rgb(_address(pixels), *image.size, _address(result), _address(numbers), _address(np.array(fill, np.uint8)))
    return Image.fromarray(result)


def rotate(image: Image.Image, degrees: float, method: Resampling, fill: tuple[int, int, int]) -> Image.Image:
    """`image` turned counterclockwise about its centre, in a frame of the same size."""
    if loaded() is None or method != Resampling.BICUBIC or degrees % 90 == 0:
        return image.rotate(degrees, resample=method, fillcolor=fill)
    angle = -math.radians(degrees % 360)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = image.width / 2, image.height / 2
    return transform(image, (cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y), method, fill)


def _array(image: Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(image))


def _address(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)  # keeps the array alive as long as the pointer


@functools.cache
def loaded() -> Optional[ctypes.CDLL]:
    """The compiled functions; None, once with a line on stderr, where they can't be had."""
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        library = ctypes.CDLL(str(built()))
    except (OSError, subprocess.SubprocessError) as error:
        print(f"note: pictures are resized by Pillow alone, which is slower: {reason(error)} ({SWITCH}=0 keeps this quiet)", file=sys.stderr, flush=True)
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.resize_rgb.argtypes, library.resize_rgb.restype = (pointer, number, number, pointer, number, number, number), None
    library.affine_rgb.argtypes, library.affine_rgb.restype = (pointer, number, number, pointer, pointer, pointer), None
    return library


def reason(error: Exception) -> str:
    """Why there is no library, in one line."""
    said = getattr(error, "stderr", None) or str(error)
    return (str(said).strip().splitlines() or [type(error).__name__])[0]


def built() -> Path:
    """The library of this source, compiler flags and processor; OSError or SubprocessError where it can't be built or kept."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    key = hashlib.sha256(SOURCE.read_bytes() + repr((FLAGS, platform.machine(), _processor())).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mindvit"
    library = folder / f"native-{key}.so"
    if library.exists():
        return library
    if compiler is None:
        raise OSError(f"no C++ compiler ({', '.join(COMPILERS)}) found")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:  # ranks that start together build it each, and the last one wins
        made = Path(unfinished) / "native.so"
        subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(made)], check=True, capture_output=True, text=True, timeout=300)
        made.replace(library)
    return library


def _processor() -> str:
    # -march=native: a home directory may be shared by different machines
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore").splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}))
