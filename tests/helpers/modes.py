"""Graphs or operator by operator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import mindspore as ms


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Operator by operator: compiling takes most of a small test's time. That graphs give the same is shown by
    test_models.py and the goldens. MindSpore 2.7 compiles all the same: operator by operator it lacks the gradient of
    a transpose on CPUs (TransposeExtView).
    """
    if ms.__version__.startswith("2.7."):
        yield
        return
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)
