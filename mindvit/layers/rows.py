"""Rows of tables, chosen for each image of a batch."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, ops


def take_rows(table: Tensor, index: Tensor) -> Tensor:
    """(B, N, ...), (B, K) int32 -> (B, K, ...): the rows that each image's index names."""
    batch, rows = table.shape[:2]
    flat = index + (ops.arange(batch) * rows).astype(ms.int32).expand_dims(1)
    return ops.gather(table.reshape((batch * rows,) + table.shape[2:]), flat.reshape(-1), 0).reshape(
        index.shape + table.shape[2:]
    )
