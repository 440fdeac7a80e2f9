"""The framework's operators for boxes on NPUs and GPUs: taken only if they give what they should on a few boxes.

What MindSpore 2.10 documents of ROIAlign's modes differs from what its backends do, and from what CANN says; some round
adaptive samples down, some have another box's gradient. So a run on such a device begins with a look.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Callable, Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindvit.layers.nms import Suppression
from mindvit.layers.roi_align import OperatorRoIAlign
from mindvit.runtime import ascend, platform
from mindvit.runtime.platform import Platform

TOLERANCE = 2e-3  # of maps' and gradients' largest value
SIZE, HEIGHT, WIDTH, CHANNELS = 7, 24, 40, 4
# ROIAlign's mode, and what is added to where boxes begin and end: as documented, and as CANN's reference has mode 1
VARIANTS = ((0, 0.0, 0.0), (1, 0.0, -1.0), (1, -1.0, -1.0))
OVERLAP = 0.6
BOXES = np.array(
    [[3, 2, 5, 4], [-4, -3, 9, 30], [10.3, 4.6, 38.9, 22.2], [30, 10, 46, 28], [7, 7, 8, 21], [0, 0, 39, 23]],
    np.float32,
)


def axis_weights(low: float, high: float, places: int, ratio: int) -> np.ndarray:
    """(SIZE, places): how much of each place is in each cell of a box's axis, which begins and ends here."""
    cell = (high - low) / SIZE
    count = ratio or max(int(np.ceil(cell)), 1)
    found = np.zeros((SIZE, places))
    for number, sample in itertools.product(range(SIZE), range(count)):
        at = low + (number + (sample + 0.5) / count) * cell
        if -1 <= at <= places:
            at = min(max(at, 0.0), places - 1.0)
            near = int(at)
            found[number, near] += (near + 1 - at) / count
            found[number, min(near + 1, places - 1)] += (at - near) / count
    return found


def expected_maps(x: np.ndarray, upstream: np.ndarray, ratio: int) -> tuple[np.ndarray, np.ndarray]:
    """What RoIAlign gives for BOXES of x (1, C, H, W), and the gradient of x, by NumPy."""
    maps, gradient = np.zeros(upstream.shape), np.zeros(x.shape)
    for number, (left, top, right, bottom) in enumerate(BOXES - 0.5):
        rows, columns = axis_weights(top, bottom, HEIGHT, ratio), axis_weights(left, right, WIDTH, ratio)
        maps[number] = rows @ x[0] @ columns.T
        gradient[0] += rows.T @ upstream[number] @ columns
    return maps, gradient


class _Maps(nn.Cell):
    """RoIAlign's maps, weighed and summed, and the maps."""

    def __init__(self, variant: tuple[int, float, float], ratio: int, upstream: np.ndarray):
        super().__init__()
        self.align = OperatorRoIAlign(SIZE, [1.0], ratio, variant)
        self.upstream = Tensor(upstream)

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.align((x,), Tensor(BOXES[None]), ops.zeros((1, len(BOXES)), ms.float32))
        return (found * self.upstream).sum(), found


def right_roi_align(ratio: int = 0) -> tuple[Optional[tuple[int, float, float]], float]:
    """The variant of the device's ROIAlign that is RoIAlign, None if none is; and how far off the best one is, as a
    share of the largest value (infinitely: it gives no numbers).
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, CHANNELS, HEIGHT, WIDTH)).astype(np.float32)
    upstream = rng.standard_normal((len(BOXES), CHANNELS, SIZE, SIZE)).astype(np.float32)
    wanted = expected_maps(x, upstream, ratio)
    least = np.inf
    for variant in VARIANTS:
        try:
            (_, maps), gradient = ops.value_and_grad(_Maps(variant, ratio, upstream), 0, None, has_aux=True)(Tensor(x))
            found = maps.asnumpy(), gradient.asnumpy()
        except RuntimeError:  # a device that doesn't have it
            continue
        worst = max(float(np.abs(ours - right).max() / np.abs(right).max()) for ours, right in zip(found, wanted))
        least = min(least, np.inf if np.isnan(worst) else worst)
        if worst < TOLERANCE:
            return variant, worst
    return None, least


def right_nms(chosen: Platform) -> bool:
    """Whether the device's NMSWithMask keeps the boxes that plain operators keep, in two groups and with padding."""
    rng = np.random.default_rng(0)
    corners = np.sort(rng.integers(0, 60, (1, 200, 2, 2)), 2).astype(np.float32)
    corners[..., 1, :] += 8
    boxes, groups = Tensor(corners.reshape(1, 200, 4)), Tensor(rng.integers(-1, 2, (1, 200)).astype(np.float32))
    kept = []
    for operator in (False, True):
        with platform.use(replace(chosen, nms_operator=operator)):
            try:
                kept.append(Suppression(OVERLAP)(boxes, groups).asnumpy())
            except RuntimeError:  # a device that doesn't have it
                return False
    return bool(np.array_equal(*kept))


def tested(chosen: Platform, say: Callable[[str], None]) -> Platform:
    """A platform with those of its operators for boxes that are right; a line tells."""
    if chosen.kernels:
        return chosen
    if ascend.is_simulated():
        say("boxes: plain operators (a simulation has no values to try the device's own by)")
        return chosen
    nms = right_nms(chosen)
    variant, worst = right_roi_align()
    off = f", off by {worst:.1g} of the largest value" if np.isfinite(worst) else ""
    suppression = "NMSWithMask" if nms else "plain operators (NMSWithMask keeps others here)"
    align = f"ROIAlign, mode {variant[0]}" if variant else f"plain operators (ROIAlign is wrong here{off})"
    say(f"boxes that overlap: {suppression}; boxes' maps: {align}")
    return replace(chosen, nms_operator=nms, roi_align_operator=variant)
