"""Detectors as files: what their detections are compared by, and the operators that ONNX has of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import onnxruntime
import pytest
from mindspore import Tensor, nn

from mindvit.inference.detector_export import deviation, export_detector
from mindvit.inference.export import Described, export_checked
from mindvit.inference.onnx.detection import PyramidRoIAlign, Suppression
from mindvit.layers.nms import NMS
from mindvit.layers.roi_align import RoIAlign, box_levels
from mindvit.models import create_model
from mindvit.runtime import platform


def found(*scores: float, shift: float = 0.0, label: int = 0) -> list[np.ndarray]:
    """Detections beside one another."""
    boxes, all_scores, labels = np.zeros((1, 9, 4)), np.zeros((1, 9)), np.zeros((1, 9), np.int32)
    for number, score in enumerate(scores):
        boxes[0, number] = 20 * number + shift, 0, 20 * number + 10 + shift, 10
        all_scores[0, number], labels[0, number] = score, label
    return [boxes, all_scores, labels]


def test_detections_are_compared_as_sets() -> None:
    assert deviation(found(0.9, 0.8), found(0.9, 0.8)) == 0
    one, other = found(0.9, 0.8), found(0.8, 0.9)
    other[0][0, :2] = other[0][0, 1::-1]
    assert deviation(one, other) == 0
    assert 0 < deviation(found(0.9, 0.8), found(0.9, 0.8, shift=1e-3)) < 1e-4
    assert deviation(found(0.9), found(0.9, shift=1)) == np.inf
    assert deviation(found(0.9), found(0.9, label=1)) == np.inf
    assert deviation(found(0.9), found()) > 0.5 and deviation(found(), found(0.9)) > 0.5
    assert deviation(found(), found()) == 0
    shares = [np.full((1, 9, 2, 2), value) for value in (0.5, 0.6)]
    assert deviation([*found(0.9), shares[0]], [*found(0.9), shares[1]]) == np.inf


def test_of_equal_scores_rounding_decides() -> None:
    """Then boxes aren't compared, and scores are."""
    assert deviation(found(0.5, 0.5), found(0.5, 0.5, shift=3)) == 0
    assert deviation(found(0.5, 0.5), found(0.5, 0.4)) == pytest.approx(0.1)
    assert deviation(found(0.9, 0.5, 0.5), found(0.9, 0.5, 0.5, shift=3)) == np.inf


class Cut(nn.Cell):
    """Suppression, and maps of what it leaves. operators: whether ONNX's stand in the graph."""

    def __init__(self, operators: bool):
        super().__init__()
        self.nms, self.cut = NMS(0.5, 6), RoIAlign(3, (4.0, 8.0))
        if operators:
            self.nms.fused_op = Suppression(0.5, 6, 2)
            self.cut.fused_op = PyramidRoIAlign(3, (4.0, 8.0), 0)

    def construct(self, boxes: Tensor, groups: Tensor, fine: Tensor, coarse: Tensor) -> tuple[Tensor, ...]:
        places, kept = self.nms(boxes, groups)
        return places, kept, self.cut((fine, coarse), boxes, box_levels(boxes * 8, 2))


def inputs() -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    corners, sides = rng.uniform(-4, 40, (1, 20, 2)), rng.uniform(0, 30, (1, 20, 2))
    groups = rng.integers(-1, 2, (1, 20))
    maps = [rng.standard_normal((1, 5, side, side + 2)) for side in (12, 6)]
    found = np.concatenate([corners, corners + sides], 2), groups, *maps
    return [item.astype(np.float32) for item in found]


def test_suppression_and_roi_align_in_onnxruntime(tmp_path: Path) -> None:
    with platform.use(platform.PORTABLE):
        plain, marked = Cut(False), Cut(True)
    given = inputs()
    expected = [item.asnumpy() for item in plain(*map(Tensor, given))]
    assert 2 < expected[1].sum() <= 6

    def compare(run: Any) -> float:
        return max(float(np.abs(one - other).max()) for one, other in zip(expected, run(*given)))

    names = Described(("boxes", "groups", "fine", "coarse"), ("places", "kept", "cut"))
    path = tmp_path / "a.onnx"
    assert export_checked(marked, [*map(Tensor, given)], "ONNX", path, compare, names) < 1e-5
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [item.name for item in session.get_outputs()] == ["places", "kept", "cut"]
    assert session.get_outputs()[0].type == "tensor(int32)" and ms.int32 == plain(*map(Tensor, given))[0].dtype


@pytest.mark.big
@pytest.mark.parametrize("form, name", [("ONNX", "a.onnx"), ("MINDIR", "a.mindir")])
def test_retinanet_in_both_forms(form: str, name: str, tmp_path: Path) -> None:
    """A network each: MindSpore writes the graph that it compiled of a network first, whatever its form."""
    small = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
    with platform.use(platform.PORTABLE):
        net = create_model("retinanet", 3, backbone="crossformer_tiny", backbone_config=small, channels=16)
        net.bbox_head.retina_cls.weight.set_data(1e5 * net.bbox_head.retina_cls.weight)  # scores that differ
        assert export_detector(net, (3, 64, 96), form, tmp_path / name).deviation < 1e-5
