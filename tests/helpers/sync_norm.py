"""A rank of test_dense_layers: BatchNorm over two ranks with half of the maps each, beside one rank with all of them.

python sync_norm.py OUT: writes OUT/<rank>.npz with the worst deviations of the rank.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.communication import get_rank, init

sys.path[:0] = [str(Path(__file__).parents[2])]

from mindvit.layers.masked_batch_norm import MaskedBatchNorm  # noqa: E402
from mindvit.layers.norm import BatchNorm  # noqa: E402
from mindvit.layers.sync_batch_norm import synchronize_batch_norm  # noqa: E402


class Weighed(nn.Cell):
    """A cell's output times another tensor, summed; others: the cell's inputs beside x."""

    def __init__(self, cell: nn.Cell, upstream: Tensor, *others: Tensor):
        super().__init__(auto_prefix=False)
        self.cell, self.upstream, self.others = cell, upstream, others

    def construct(self, x: Tensor) -> Tensor:
        return (self.cell(x, *self.others) * self.upstream).sum()


def deviations(kind: type[BatchNorm], counts: Optional[np.ndarray] = None) -> list[float]:
    """The worst of outputs' weighed gradient, weights' gradients and running values, where `counts` of the maps count.

    Four maps of 3 x 5 px with 3 channels, of which each of two ranks has two.
    """
    rank, rng = get_rank(), np.random.default_rng(0)
    x, upstream = (rng.standard_normal((4, 3, 5, 3)).astype(np.float32) + 2 for _ in range(2))
    if counts is not None:
        upstream *= counts[:, None, None, None]  # what doesn't count has no loss
    if BatchNorm(3).fused_op is None:
        x, upstream = (item.transpose(0, 3, 1, 2) for item in (x, upstream))
    found = {}
    for name, rows in (("whole", slice(0, 4)), ("part", slice(2 * rank, 2 * rank + 2))):
        cell = kind(3).set_train(True)
        cell.weight.set_data(Tensor([0.5, 1.0, 2.0], ms.float32))
        if name == "part":
            synchronize_batch_norm(cell, 2)
        weights = ms.ParameterTuple(cell.trainable_params())
        others = () if counts is None else (Tensor(counts[rows]),)
        weighed = Weighed(cell, Tensor(np.ascontiguousarray(upstream[rows])), *others)
        _, (dx, dw) = ops.value_and_grad(weighed, (0,), weights)(Tensor(np.ascontiguousarray(x[rows])))
        summed = [ops.AllReduce()(item) if name == "part" else item for item in dw]
        found[name] = [dx.asnumpy(), *(item.asnumpy() for item in (*summed, cell.running_mean, cell.running_var))]
    found["whole"][0] = found["whole"][0][2 * rank : 2 * rank + 2]
    return [float(np.abs(ours - right).max()) for ours, right in zip(found["part"], found["whole"])]


def main() -> None:
    """Plain maps, and maps of boxes of which the last is padding."""
    ms.set_device("CPU")
    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": "O0"})
    init()
    worst = [*deviations(BatchNorm), *deviations(MaskedBatchNorm, np.array([1, 1, 1, 0], np.float32))]
    np.savez(Path(sys.argv[1]) / f"{get_rank()}.npz", deviations=worst)


if __name__ == "__main__":
    main()
