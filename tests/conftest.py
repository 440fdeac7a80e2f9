"""One MindSpore context for all tests: compiled graphs on the CPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Iterator

import mindspore as ms
import pytest
from mindspore import nn

sys.path.insert(0, str(Path(__file__).parent.parent))

# Files that compile networks or start processes, with their seconds on a free core. Workers take whole files, so what takes longest begins first;
# `make test-fast` takes none of them.
SLOW = {
    "test_ranks.py": 300,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name in SLOW:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: -SLOW.get(item.path.name, 0))


@pytest.fixture(scope="session", autouse=True)
def graph_mode() -> None:
    ms.set_device("CPU")
    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": "O0"})


@pytest.fixture(scope="module")
def small_networks() -> Iterator[None]:
    """train_small's networks in the registry, for the tests of one file."""
    from train_small import register

    from mindvit.models import registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_entries", dict(registry._entries))
        patch.setattr(registry, "_aliases", dict(registry._aliases))
        register()
        yield


def pytest_unconfigure() -> None:
    # its destructor needs a module that the interpreter has taken down by the time the last cells go, and says so for each
    del nn.Cell.__del__
