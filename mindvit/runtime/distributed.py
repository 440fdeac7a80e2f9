"""What ranks say to each other outside the training step: the same initial weights, and sums of counts."""

from __future__ import annotations

import zlib
from typing import Iterable

import numpy as np
from mindspore import ParameterTuple, Tensor, nn, ops

AT_ONCE = 1 << 20  # bytes of a rank that are sent together
DIGIT, DIGITS = 12, 5  # bits of the digits in which counts are summed as float32, and how many


class _Sum(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.all_reduce = ops.AllReduce()

    def construct(self, x: Tensor) -> Tensor:
        return self.all_reduce(x)


class _FromFirst(nn.Cell):
    def __init__(self, parameters: ParameterTuple):
        super().__init__(auto_prefix=False)
        self.parameters_to_send = parameters
        self.broadcast = ops.Broadcast(0)

    def construct(self) -> Tensor:
        received = self.broadcast(self.parameters_to_send)
        for parameter, value in zip(self.parameters_to_send, received):
            ops.assign(parameter, value)
        return received[0].reshape(-1)[0]


def total(values: Iterable[float], ranks: int) -> np.ndarray:
    """Each value summed over all ranks, float64. Whole numbers are exact up to 2^24."""
    if ranks == 1:
        return np.array(list(values), np.float64)
    return _Sum()(Tensor(np.array(list(values), np.float32))).asnumpy().astype(np.float64)


def total_counts(counts: np.ndarray, ranks: int) -> np.ndarray:
    """Counts, int64 below 2^60, summed exactly over at most 4096 ranks, in the same shape."""
    if ranks == 1:
        return counts
    digits = [(counts.ravel() >> DIGIT * place) & ((1 << DIGIT) - 1) for place in range(DIGITS)]
    sums = total(np.concatenate(digits).astype(np.float64), ranks).astype(np.int64).reshape(DIGITS, -1)
    return sum(part << DIGIT * place for place, part in enumerate(sums)).reshape(counts.shape)


def gather(data: bytes, ranks: int, rank: int) -> list[bytes]:
    """The bytes of every rank, on every rank; called on every rank."""
    if ranks == 1:
        return [data]
    sizes = total_counts(np.eye(1, ranks, rank, dtype=np.int64)[0] * len(data), ranks)
    longest = int(sizes.max())
    rows = np.zeros((ranks, longest), np.uint8)
    for start in range(0, longest, AT_ONCE):
        part = np.frombuffer(data[start : start + AT_ONCE], np.uint8)
        block = np.zeros((ranks, min(AT_ONCE, longest - start)), np.float32)
        block[rank, : len(part)] = part
        rows[:, start : start + block.shape[1]] = total(block.ravel(), ranks).reshape(block.shape)
    return [row[:size].tobytes() for row, size in zip(rows, sizes)]


def checksum(net: nn.Cell) -> int:
    """CRC-32 of all parameters' bytes, in order."""
    value = 0
    for parameter in net.get_parameters():
        value = zlib.crc32(np.ascontiguousarray(parameter.asnumpy()).tobytes(), value)
    return value


def same_weights(net: nn.Cell, ranks: int) -> None:
    """Give every rank the weights of rank 0, and make sure of it. RuntimeError if they differ all the same."""
    if ranks == 1:
        return
    _FromFirst(ParameterTuple(list(net.get_parameters())))()
    if not agree(net, ranks):
        raise RuntimeError(
            "the ranks' initial weights differ after the broadcast: training would average different networks"
        )


def agree(net: nn.Cell, ranks: int) -> bool:
    """Whether all ranks hold the same parameters, by their checksums."""
    if ranks == 1:
        return True
    crc = checksum(net)
    halves = np.array([crc >> 16, crc & 0xFFFF], np.float64)
    return np.array_equal(total(halves, ranks), halves * ranks)
