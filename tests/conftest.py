"""One MindSpore context for all tests: compiled graphs on the CPU."""

from __future__ import annotations

import sys
from pathlib import Path

import mindspore as ms
import pytest
from mindspore import nn

sys.path.insert(0, str(Path(__file__).parent.parent))


@pytest.fixture(scope="session", autouse=True)
def graph_mode() -> None:
    ms.set_device("CPU")
    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": "O0"})


def pytest_unconfigure() -> None:
    # its destructor needs a module that the interpreter has taken down by the time the last cells go, and says so for each
    del nn.Cell.__del__
