"""One MindSpore context for all tests: compiled graphs on the CPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Iterator

import mindspore as ms
import pytest
from mindspore import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

# Files that compile networks or start processes, with about how many seconds they take on a free core. Workers take
# whole files, so what takes longest begins first; `make test-fast` takes none of them.
SLOW = {
    "test_ranks.py": 280,
    "test_segmentation.py": 100,
    "test_detection_runs.py": 90,
    "test_segmentation_runs.py": 90,
    "test_segmentors.py": 90,
    "test_detection.py": 120,
    "test_detectors.py": 90,
    "test_trainer.py": 80,
    "test_resume.py": 70,
    "test_distillation.py": 70,
    "test_attention.py": 60,
    "test_census.py": 60,
    "test_docs.py": 60,
    "test_models.py": 60,
    "test_kernels.py": 60,
    "test_graphs_for_ascend.py": 150,
    "test_step.py": 60,
    "test_compile_cache.py": 60,
    "test_export.py": 50,
    "test_cvt.py": 40,
    "test_crossformer.py": 40,
    "test_xcit.py": 40,
    "test_faults.py": 40,
    "test_weights.py": 35,
    "test_layers.py": 30,
    "test_dense_layers.py": 30,
    "test_detection_layers.py": 30,
    "test_detection_targets.py": 10,
    "test_benchmark.py": 30,
    "test_predictor.py": 30,
    "test_convert.py": 25,
    "test_compare.py": 20,
    "test_train_folder.py": 20,
    "test_mindcv.py": 20,
    "test_validate.py": 15,
    "test_optimizers.py": 15,
    "test_ascend.py": 15,
    "test_notebook.py": 10,
    "test_stop.py": 60,
    "test_workers.py": 25,
    "test_task_data.py": 5,
    "test_sizes.py": 60,
    "test_checkpoint_info.py": 60,
    "test_classes.py": 40,
    "test_odd_names.py": 40,
    "test_sets.py": 30,
    "test_locks.py": 20,
    "test_prefixes.py": 15,
    "test_cli.py": 15,
    "test_cache.py": 5,
    "test_publish.py": 20,
    "test_gradcam.py": 10,
    "test_serve.py": 10,
    "test_download.py": 5,
    "test_named.py": 50,
    "test_huggingface.py": 5,
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


@pytest.fixture
def operator_by_operator(graph_mode: None) -> Iterator[None]:
    """For tests whose subject isn't the graph."""
    from modes import uncompiled

    with uncompiled():
        yield


@pytest.fixture
def no_random_weights() -> Iterator[None]:
    """For tests that only count or name weights."""
    import modes

    with modes.no_random_weights():
        yield


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
    # its destructor needs a module that the interpreter has taken down by the time the last cells go, and says so for
    # each
    del nn.Cell.__del__
