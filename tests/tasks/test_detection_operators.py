"""Whether a device's own operators for boxes are taken: on CPUs, whose ROIAlign rounds adaptive samples down."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor, ops

from mindvit.layers import nms
from mindvit.layers.nms import Suppression
from mindvit.layers.roi_align import RoIAlign
from mindvit.runtime import platform
from mindvit.tasks.detection import operators


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The framework's operators that are made, with their arguments."""
    found: list[tuple[Any, ...]] = []
    for name in ("NMSWithMask", "ROIAlign"):
        made = getattr(ops, name)

        def make(*arguments: Any, made: Any = made, name: str = name) -> Any:
            found.append((name, *arguments))
            return made(*arguments)

        monkeypatch.setattr(ops, name, make)
    return found


def test_what_is_right_is_taken_and_the_rest_said_in_a_line(calls: list[tuple[Any, ...]]) -> None:
    said: list[str] = []
    chosen = operators.tested(platform.PORTABLE, said.append)
    assert (chosen.nms_operator, chosen.roi_align_operator) == (True, None)
    assert said == ["boxes that overlap: NMSWithMask; boxes' maps: plain operators (ROIAlign is wrong here)"]
    # without the mode that has another box's gradient, if samples are not adaptive
    assert operators.right_roi_align(ratio=2)[0] == (1, 0.0, -1.0)
    calls.clear()
    with platform.use(replace(chosen, roi_align_operator=(1, 0.0, -1.0))):
        Suppression(0.7), RoIAlign(7, [4.0, 8.0])
    assert calls == [("NMSWithMask", 0.7), ("ROIAlign", 7, 7, 1.0, 0, 1), ("ROIAlign", 7, 7, 1.0, 0, 1)]


def test_where_our_kernels_are_nothing_is_tried(calls: list[tuple[Any, ...]]) -> None:
    chosen = platform.Platform(kernels=True)
    said: list[str] = []
    assert operators.tested(chosen, said.append) == chosen
    assert not calls and not said


def test_operators_that_a_device_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Any:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(operators, "_Maps", refuse)
    monkeypatch.setattr(operators, "Suppression", refuse)
    chosen = operators.tested(platform.PORTABLE, lambda _: None)
    assert (chosen.nms_operator, chosen.roi_align_operator) == (False, None)


def test_boxes_of_every_level_by_the_operator() -> None:
    rng = np.random.default_rng(0)
    maps = [rng.standard_normal((2, 3, 16 // side, 24 // side)).astype(np.float32) for side in (1, 2)]
    boxes = np.tile(operators.BOXES[[0, 2, 4]] * 1.5, (2, 1, 1)).astype(np.float32)
    levels = np.array([[0, 1, 1], [1, 0, 1]], np.float32)
    found = []
    for variant in (None, (1, 0.0, -1.0)):
        with platform.use(replace(platform.PORTABLE, roi_align_operator=variant)):
            align = RoIAlign(7, [1.0, 2.0], 2)
        found.append(align(tuple(map(Tensor, maps)), Tensor(boxes), Tensor(levels)).asnumpy())
    assert np.abs(found[0]).max() > 0.1
    assert np.allclose(found[0], found[1], atol=1e-5)


def test_more_boxes_than_the_operator_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nms, "MOST", 4)
    monkeypatch.setattr(ops, "NMSWithMask", lambda threshold: None)
    with platform.use(replace(platform.PORTABLE, nms_operator=True)):
        cell = Suppression(0.5)
    boxes = np.tile(np.array([0, 0, 4, 4], np.float32), (1, 5, 1))
    assert cell(Tensor(boxes), ops.zeros((1, 5))).asnumpy().sum() == 1
