"""How networks are run and made: graphs or operator by operator, with random weights or without."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

import mindspore as ms
from mindspore.common.initializer import Normal


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


@contextlib.contextmanager
def no_random_weights() -> Iterator[None]:
    """Zeros where networks begin with a normal distribution, for those whose weights are set or don't matter: random
    numbers are two thirds of the time that it takes to make a network.
    """
    with mock.patch.object(Normal, "_initialize", lambda self, array: array.fill(0)):
        yield
