"""Graphs or operator by operator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import mindspore as ms


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Operator by operator: compiling takes most of a small test's time. That graphs give the same is shown by
    test_models.py and the goldens.
    """
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        yield
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)
