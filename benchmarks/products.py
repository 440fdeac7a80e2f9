"""How fast oneDNN multiplies what CrossFormer's blocks multiply, beside two matrices of 2048 x 2048: no share of that
peak can be higher.

python benchmarks/products.py [MODEL [BATCH]], on one core
"""

from __future__ import annotations

import ctypes
import itertools
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Iterator, Sequence

sys.path.insert(0, str(Path(__file__).parent.parent))

import mindspore
import numpy as np

from mindvit import errors
from mindvit.models.crossformer import VARIANTS
from mindvit.recipe.commandline import Parser, positive

SIDE, PEAK = 56, 2048  # tokens a side of the first stage; a side of the matrices that give the peak
ROUNDS = 7  # calls, of which the middle one counts
TILE = 768  # rows that kernels multiply at once (csrc/parallel.h)


class Products:
    """oneDNN's dnnl_sgemm, of MindSpore's own library."""

    def __init__(self) -> None:
        library = next((Path(mindspore.__file__).parent / "lib").glob("libdnnl.so*"))
        self.product = ctypes.CDLL(str(library)).dnnl_sgemm
        whole, real = ctypes.c_int64, ctypes.c_float
        matrix: list[Any] = [ctypes.c_void_p, whole]
        self.product.argtypes = [ctypes.c_char] * 2 + [whole] * 3 + [real, *matrix, *matrix, real, *matrix]

    def seconds(self, way: str, m: int, n: int, k: int, copies: int = 1) -> float:
        """Of (m, k) (k, n); way: N or T, T where that matrix lies transposed, for both.

        copies: each call takes the next copy of the three matrices.
        """
        sets = [[np.ones(size, np.float32) for size in (m * k, k * n, m * n)] for _ in range(copies)]
        turns = itertools.cycle([[item.ctypes.data for item in matrices] for matrices in sets])
        strides = (m if way[0] == "T" else k), (k if way[1] == "T" else n)
        ways = [letter.encode() for letter in way]

        found = []
        for _ in range(ROUNDS):
            a, b, c = next(turns)
            start = time.perf_counter()
            self.product(*ways, m, n, k, 1.0, a, strides[0], b, strides[1], 0.0, c, n)
            found.append(time.perf_counter() - start)
        return statistics.median(found)


def of_a_step(model: str, batch: int) -> Iterator[tuple[str, str, int, int, int, int]]:
    """Kind, way and sizes of each product of the blocks, and how many of it a training step has."""
    channels, depths = VARIANTS[model][:2]
    for stage, depth in enumerate(depths):
        c, rows = channels << stage, batch * (SIDE >> stage) ** 2
        tiles = max(1, (rows + TILE // 2) // TILE)
        for inputs, outputs in ((c, 3 * c), (c, c), (c, 4 * c), (4 * c, c)):
            yield "forward", "NT", rows // tiles, outputs, inputs, depth * tiles
            yield "input's gradient", "NN", rows // tiles, inputs, outputs, depth * tiles
            yield "weight's gradient", "TN", min(inputs, outputs), max(inputs, outputs), rows, depth


def main(arguments: Sequence[str]) -> None:
    """Print a line for each product: shares with matrices in the cache, and with others at each call."""
    parser = Parser(prog="python benchmarks/products.py", description=str(__doc__))
    parser.add_argument("model", nargs="?", choices=VARIANTS, default="crossformer_tiny")
    parser.add_argument("batch", nargs="?", type=positive, default=8)
    args = parser.parse_args(arguments)
    model, batch = args.model, args.batch
    products = Products()
    done, near, far = 0.0, 0.0, 0.0  # operations, and how many the peak would do in that time
    for kind, way, m, n, k, count in of_a_step(model, batch):
        peak = 2 * PEAK**3 / products.seconds("NN", PEAK, PEAK, PEAK)  # just before: machines drift
        work = 2 * m * n * k
        shares = [work / products.seconds(way, m, n, k, copies) / peak for copies in (1, ROUNDS)]
        print(f"{kind:17} {m:4} x {n:4} x {k:5}, {count:2} times: {shares[0]:.2f}, {shares[1]:.2f}", flush=True)
        done, near, far = done + work * count, near + work * count / shares[0], far + work * count / shares[1]
    print(f"{model}, batch {batch}: {done / near:.2f} of the peak; with other matrices at each call {done / far:.2f}")


if __name__ == "__main__":
    errors.run(main)
