"""Detectors as MindIR and ONNX files, suppression inside, compared with the network by what they find."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ContextManager, Mapping, Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindvit.inference.export import TOLERANCE, Described, Exported, Run, check, export_checked
from mindvit.models.detection.detector import SCORE, Detector

INPUTS, OUTPUTS = ("image", "size", "score_thr"), ("boxes", "scores", "labels", "masks")
LOST = 0.05  # share of the detections that may be others: of two that are as good, rounding decides
ROUGHNESS = 16  # px: side of the patches of made-up images


def export_detector(
    net: Detector, image: tuple[int, int, int], form: str, path: Path, metadata: Optional[Mapping[str, str]] = None
) -> Exported:
    """Write a detector, built for platform.PORTABLE, for one image on a canvas, load the file again and compare what
    both find in made-up images, however unsure.

    The file's inputs are the image (1, *image), normalized, zeros beyond it; its true height and width (1, 2),
    px; the least score (1,); all float32. Its outputs are the network's: boxes (1, 100, 4) px, scores (1, 100), labels
    (1, 100) int32 and, with masks, (1, 100, 28, 28).

    UserError if the network can't be written; ExportError, and no file, if what was written differs.
    """
    check(form, path)
    size = image[1:]
    inputs = [
        Tensor(np.zeros((1, *image), np.float32)),
        Tensor([size], ms.float32),
        Tensor([SCORE], ms.float32),
    ]
    operators: Optional[ContextManager[None]] = None
    if form == "ONNX":
        from mindvit.inference.onnx.detection import stand_ins

        operators = stand_ins(net)
    described = Described(INPUTS, OUTPUTS, metadata or {})
    found = export_checked(net, inputs, form, path, lambda run: _deviation(net, run, image), described, operators)
    return Exported(path, (1,), found)


def _deviation(net: Detector, run: Run, shape: tuple[int, int, int]) -> float:
    """The worst of two images, one of which doesn't fill the canvas."""
    channels, size = shape[0], shape[1:]
    rng, worst = np.random.default_rng(0), 0.0
    for share in (1.0, 0.75):
        height, width = (int(side * share) for side in size)
        patches = rng.standard_normal((channels, -(-size[0] // ROUGHNESS), -(-size[1] // ROUGHNESS)))
        whole = np.kron(patches, np.ones((ROUGHNESS, ROUGHNESS)))[:, : size[0], : size[1]]
        image = np.zeros((1, channels, *size), np.float32)
        image[0, :, :height, :width] = whole[:, :height, :width]
        inputs = [image, np.array([[height, width]], np.float32), np.zeros(1, np.float32)]
        expected = [item.asnumpy() for item in net(*map(Tensor, inputs))]
        worst = max(worst, deviation(expected, run(*inputs)))
    return worst


def deviation(expected: Sequence[np.ndarray], found: Sequence[Any]) -> float:
    """How far a file's detections are from the network's: the worst difference of their scores, in order, and of what
    belongs to a detection from the nearest of its class; infinite if that is no detection for more than LOST of them.

    Boxes count over the largest side. Where two scores differ by less than TOLERANCE, rounding decides which box comes
    first, and so which one suppresses others: those are compared by their scores alone. Of initial values all are so.
    """
    if [item.shape for item in expected] != [np.shape(item) for item in found]:
        return float("inf")
    one, other = ([np.asarray(item)[0] for item in items] for items in (expected, found))
    worst = float(np.abs(np.sort(one[1]) - np.sort(other[1])).max())
    order = np.argsort(-one[1], kind="stable")
    gaps = np.abs(np.diff(one[1][order], prepend=np.inf, append=-np.inf))
    clear = order[(np.minimum(gaps[:-1], gaps[1:]) > TOLERANCE) & (one[1][order] > 0)]
    if not len(clear):
        return worst
    scale = max(1.0, float(np.abs(one[0]).max()))
    distances = np.abs(one[0][clear, None] - other[0][None]).max(2) / scale
    distances = np.maximum(distances, np.abs(one[1][clear, None] - other[1][None]))
    for first, second in zip(one[3:], other[3:]):
        distances = np.maximum(distances, np.abs(first[clear, None] - second[None]).max((2, 3)))
    distances[one[2][clear, None] != other[2][None]] = np.inf
    nearest = distances.min(1)
    lost = nearest >= TOLERANCE
    if lost.mean() > LOST:
        return float("inf")
    return max(worst, float(nearest[~lost].max()))
