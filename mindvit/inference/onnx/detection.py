"""Suppression and RoIAlign, which ONNX has as operators of its own."""

from __future__ import annotations

import contextlib
from typing import Any, Iterator, Sequence, Union

import numpy as np
from mindspore.ops import PrimitiveWithInfer, prim_attr_register

from mindvit.inference.onnx.graph import FLOAT, Graph, Name
from mindvit.layers.nms import NMS
from mindvit.layers.roi_align import RoIAlign
from mindvit.models.detection import RCNN
from mindvit.models.detection.detector import PYRAMID_LEVELS, Best, Detector


class Suppression(PrimitiveWithInfer):
    """Stands for layers.nms in a graph: boxes (1, M, 4), the best first, groups (1, M) -> (1, limit) float32 places, -1
    after the last. groups: how many there are.
    """

    @prim_attr_register
    def __init__(self, threshold: float, limit: int, groups: int):
        self.limit = limit
        self.init_prim_io_names(inputs=["boxes", "groups"], outputs=["places"])

    def infer_shape(self, boxes: list[int], groups: list[int]) -> list[int]:
        """(1, limit)."""
        return [boxes[0], self.limit]

    def infer_dtype(self, boxes: Any, groups: Any) -> Any:
        """float32."""
        return boxes


class PyramidRoIAlign(PrimitiveWithInfer):
    """Stands for layers.roi_align in a graph: boxes (1, R, 4), levels (1, R), maps (1, C, H, W) each -> (R, C, size,
    size).
    """

    @prim_attr_register
    def __init__(self, size: int, strides: tuple[float, ...], ratio: int):
        self.size = size
        self.init_prim_io_names(inputs=["boxes", "levels", "maps"], outputs=["cut"])

    def infer_shape(self, boxes: list[int], levels: list[int], maps: Sequence[list[int]]) -> list[int]:
        """(R, C, size, size)."""
        return [boxes[0] * boxes[1], maps[0][1], self.size, self.size]

    def infer_dtype(self, boxes: Any, levels: Any, maps: Any) -> Any:
        """float32."""
        return boxes


@contextlib.contextmanager
def stand_ins(net: Detector) -> Iterator[None]:
    """Within, the graph of a detector, built for platform.PORTABLE, has these operators where ONNX has its own."""
    cells: list[Union[NMS, RoIAlign]] = []
    operators: list[Any] = []
    proposals = net.propose.best if isinstance(net, RCNN) else None
    for _, cell in net.cells_and_names():
        if isinstance(cell, Best):
            groups = PYRAMID_LEVELS if cell is proposals else net.num_classes
            cells.append(cell.nms)
            operators.append(Suppression(cell.nms.threshold, cell.nms.limit, groups))
        elif isinstance(cell, RoIAlign):
            cells.append(cell)
            operators.append(PyramidRoIAlign(cell.size, cell.strides, cell.ratio))
    before = [cell.fused_op for cell in cells]
    for cell, operator in zip(cells, operators):
        cell.fused_op = operator
    try:
        yield
    finally:
        for cell, operator in zip(cells, before):
            cell.fused_op = operator


class DetectionOperators(Graph):
    """A method op_KIND for each operator of MindIR: (its node, *inputs) -> its output."""

    def op_Suppression(self, node: Any, boxes: Name, groups: Name) -> Name:
        """NonMaxSuppression gives places group by group: the first `limit` of all, padded."""
        told, count = self.attributes(node), self.shapes[boxes][1]
        limit = told["limit"]
        rank = self.constant(np.arange(count, 0, -1, dtype=np.float32).reshape(1, 1, -1))
        group = self.constant(np.arange(told["groups"], dtype=np.float32).reshape(1, -1, 1))
        own = self.emit("Equal", [self.emit("Unsqueeze", [groups, self.vector([1])]), group])
        scores = self.emit("Where", [own, rank, self.constant(-1.0)])
        limits = self.constant([limit], np.int64), self.constant([told["threshold"]]), self.constant([0.0])
        found = self.emit("NonMaxSuppression", [boxes, scores, *limits])
        third = self.emit("Slice", [found, self.vector([2]), self.vector([3]), self.vector([1])])
        places = self.emit("Squeeze", [third, self.vector([1])])
        padded = self.emit("Concat", [places, self.constant(np.full(limit, count, np.int64))], axis=0)
        first, _ = self.emit("TopK", [padded, self.vector([limit])], count=2, axis=0, largest=0)
        there = self.emit("Less", [first, self.constant(count, np.int64)])
        first = self.emit("Where", [there, self.emit("Cast", [first], to=FLOAT), self.constant(-1.0)])
        return self.emit("Reshape", [first, self.vector([1, limit])])

    def op_PyramidRoIAlign(self, node: Any, boxes: Name, levels: Name, maps: Sequence[Name]) -> Name:
        """RoiAlign of every level, in which the others' boxes have no area: they have no samples, and give 0."""
        told, count = self.attributes(node), self.shapes[boxes][1]
        flat = self.emit("Reshape", [boxes, self.vector([count, 4])])
        level = self.emit("Reshape", [levels, self.vector([count, 1])])
        image, size, parts = self.constant(np.zeros(count, np.int64)), told["size"], []
        for number, (x, stride) in enumerate(zip(maps, told["strides"])):
            own = self.emit("Cast", [self.emit("Equal", [level, self.constant(float(number))])], to=FLOAT)
            parts.append(
                self.emit(
                    "RoiAlign",
                    [x, self.emit("Mul", [flat, own]), image],
                    coordinate_transformation_mode="half_pixel",
                    output_height=size,
                    output_width=size,
                    sampling_ratio=told["ratio"],
                    spatial_scale=1.0 / stride,
                )
            )
        return self.emit("Sum", parts)
