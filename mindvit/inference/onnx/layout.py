"""Operators that move values or know sizes."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np

from mindvit.errors import UserError
from mindvit.inference.onnx.graph import Graph, Known, Name

END = np.iinfo(np.int64).max
CASTS = {30: 9, 34: 6, 35: 7, 42: 10, 43: 1, 44: 11}  # types as MindIR's operators are told them: as ONNX has them


class LayoutOperators(Graph):
    """A method op_KIND for each operator of MindIR: (its node, *inputs) -> its output, or a tuple of outputs."""

    def op_Constant(self, node: Any) -> None:
        """Is read, not written."""

    def op_Load(self, node: Any, x: Any, *monad: Any) -> Any:
        """A parameter's value."""
        return x

    op_Depend = op_Load

    def op_UpdateState(self, node: Any, *others: Any) -> None:
        """The order of effects, of which there are none."""

    def op_MakeTuple(self, node: Any, *items: Any) -> Any:
        """Values side by side."""
        return items

    def op_TupleGetItem(self, node: Any, items: Any, index: int) -> Any:
        """One of them."""
        return items[index] if isinstance(items, tuple) else items

    def op_Shape(self, node: Any, x: Name) -> Any:
        """Sizes: known ones as numbers."""
        sizes: list[Known] = []
        for axis, size in enumerate(self.shapes[x]):
            sizes.append(size if size >= 0 else self.emit("Shape", [x], start=axis, end=axis + 1))
        return tuple(sizes)

    def op_Cast(self, node: Any, x: Any, kind: int) -> Name:
        """Another number type."""
        if kind not in CASTS:
            raise UserError(
                f"a conversion to MindSpore's type {kind} can't be exported to ONNX (--format MINDIR takes it)"
            )
        return self.emit("Cast", [x], to=CASTS[kind])

    def op_Reshape(self, node: Any, x: Name, shape: Sequence[Known]) -> Name:
        """A single size that depends on the batch is left to ONNX."""
        if sum(isinstance(item, Name) or item == -1 for item in shape) == 1:
            shape = [-1 if isinstance(item, Name) else item for item in shape]
        return self.emit("Reshape", [x, self.vector(shape)])

    def op_ExpandDims(self, node: Any, x: Name, axis: int) -> Name:
        """One axis more."""
        return self.emit("Unsqueeze", [x, self.vector([axis])])

    def op_Transpose(self, node: Any, x: Name, axes: Sequence[int]) -> Name:
        """Axes in another order."""
        return self.emit("Transpose", [x], perm=list(axes))

    def op_Split(self, node: Any, x: Any, axis: int, count: int) -> Any:
        """Equal parts."""
        return self.emit("Split", [x], count=count, axis=axis)

    def op_Concat(self, node: Any, items: Sequence[Any], axis: int) -> Name:
        """Parts side by side."""
        return self.emit("Concat", list(items), axis=axis)

    def op_Gather(self, node: Any, x: Any, indices: Any, axis: int, *others: Any) -> Name:
        """Rows by number."""
        return self.emit("Gather", [x, indices], axis=axis)

    def op_BroadcastTo(self, node: Any, x: Name, shape: Sequence[Known]) -> Name:
        """Repeats; -1 keeps a size, which 1 does in ONNX."""
        return self.emit("Expand", [x, self.vector([1 if item == -1 else item for item in shape])])

    def op_Ones(self, node: Any, shape: Sequence[Known], kind: int) -> Name:
        """All 1."""
        return self.emit("Expand", [self.constant(1.0), self.vector(shape)])

    def op_Zeros(self, node: Any, shape: Sequence[Known], kind: int) -> Name:
        """All 0."""
        return self.emit("Expand", [self.constant(0.0), self.vector(shape)])

    def op_Slice(self, node: Any, x: Name, begin: Sequence[int], size: Sequence[Known]) -> Name:
        """`size` elements of each axis; axes cut at 0 by a size of the batch's are whole."""
        ends = [END if isinstance(count, Name) else first + count for first, count in zip(begin, size)]
        return self.emit("Slice", [x, self.vector(begin), self.vector(ends)])

    def op_StridedSlice(
        self, node: Any, x: Any, begin: Sequence[int], end: Sequence[int], step: Sequence[int], *masks: int
    ) -> Name:
        """Python's slices; a bit of a mask is an axis: open at its begin, open at its end, (two unused ones), taken
        away.
        """
        open_begin, open_end, ellipsis, new_axis, gone = masks
        if ellipsis or new_axis:
            raise UserError("an index with ... or None can't be exported to ONNX")
        axes = range(len(begin))
        starts = [0 if open_begin >> axis & 1 else begin[axis] for axis in axes]
        ends = [END if open_end >> axis & 1 else end[axis] for axis in axes]
        y = self.emit("Slice", [x, self.vector(starts), self.vector(ends), self.vector(list(axes)), self.vector(step)])
        removed = [axis for axis in axes if gone >> axis & 1]
        return self.emit("Squeeze", [y, self.vector(removed)]) if removed else y
