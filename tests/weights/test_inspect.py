"""What weights say of their network, in every project's names and layouts."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import lists

from mindvit.weights.inspect import num_classes_of
from mindvit.weights.readers import WeightsFile

LISTS = lists()
CLASSIFIERS = [file for file in LISTS if not file.startswith("mm/") and not file.endswith("_backbone")]


def source(shapes: dict[str, tuple[int, ...]]) -> WeightsFile:
    return WeightsFile({name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}, {}, "")


def with_classes(shapes: dict[str, tuple[int, ...]], classes: int) -> dict[str, tuple[int, ...]]:
    """The same file with another head."""
    is_head = [name for name in shapes if name.startswith(("head", "classifier"))]
    return {**shapes, **{name: tuple(classes if size == 1000 else size for size in shapes[name]) for name in is_head}}


@pytest.mark.parametrize("file", CLASSIFIERS)
def test_the_head_is_counted_in_the_file_s_own_layout(file: str) -> None:
    assert num_classes_of(source(LISTS[file])) == 1000
    for classes in (7, 21841):
        assert num_classes_of(source(with_classes(LISTS[file], classes))) == classes


def test_without_a_head_there_is_no_number() -> None:
    for file in LISTS:
        if file not in CLASSIFIERS:
            assert (
                num_classes_of(source({name: shape for name, shape in LISTS[file].items() if "head." not in name}))
                is None
            )
    assert num_classes_of(source({"weight": (3, 3)})) is None
    assert (
        num_classes_of(source({"head.weight": (9, 16), "first.weight": (4, 4)})) == 9
    )  # a network that no table knows
