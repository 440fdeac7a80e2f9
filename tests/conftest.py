"""One MindSpore context for all tests: compiled graphs on the CPU."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import mindspore as ms
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))


@pytest.fixture(scope="session", autouse=True)
def graph_mode() -> None:
    ms.set_device("CPU")
    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": "O0"})


def pytest_sessionfinish() -> None:
    gc.collect()  # cells that outlive the interpreter's modules complain at exit
