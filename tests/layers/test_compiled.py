"""Cells that are called as graphs."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor

from mindvit.layers import compiled


class Double(compiled.Compiled):
    """Twice its input."""

    def construct(self, x: Tensor) -> Tensor:
        return x + x


def test_memory_is_given_back_once_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before every call it would cost milliseconds."""
    times = []
    monkeypatch.setattr(compiled, "give_back", lambda: times.append(1))
    double = Double()
    for size in (2, 2, 3, 2, 3):
        assert double(Tensor(np.ones(size, np.float32))).asnumpy().tolist() == [2.0] * size
    assert len(times) == 2
