"""Operators that compute."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np

from mindvit.errors import UserError
from mindvit.inference.onnx.graph import BOOL, FLOAT, INTEGERS, TYPES, Graph, Name


class MathOperators(Graph):
    """A method op_KIND for each operator of MindIR: (its node, *inputs) -> its output, or a tuple of outputs."""

    def op_Dense(self, node: Any, x: Name, weight: Name, bias: Any = None) -> Name:
        """x W^T + b."""
        if len(self.shapes[x]) == 2:
            return self.emit("Gemm", [x, weight] + ([] if bias is None else [bias]), transB=1)
        y = self.emit("MatMul", [x, self.swapped(weight, True)])
        return y if bias is None else self.emit("Add", [y, bias])

    def op_MatMul(self, node: Any, a: Any, b: Any, a_swapped: bool, b_swapped: bool) -> Name:
        """Product of matrices."""
        return self.emit("Gemm", [a, b], transA=int(a_swapped), transB=int(b_swapped))

    def op_BatchMatMul(self, node: Any, a: Any, b: Any, a_swapped: bool, b_swapped: bool) -> Name:
        """Products of matrices."""
        return self.emit("MatMul", [self.swapped(a, a_swapped), self.swapped(b, b_swapped)])

    def op_Conv2D(self, node: Any, x: Name, weight: Name) -> Name:
        """Convolution; MindIR pads top, bottom, left, right."""
        told = self.attributes(node)
        top, bottom, left, right = told["pad_list"]
        return self.emit(
            "Conv",
            [x, weight],
            kernel_shape=list(self.shapes[weight][2:]),
            strides=list(told["stride"][-2:]),
            pads=[top, left, bottom, right],
            dilations=list(told["dilation"][-2:]),
            group=told["group"],
        )

    def op_LayerNorm(self, node: Any, x: Name, weight: Name, bias: Name, axis: int, _: int, eps: float) -> tuple[Name]:
        """Normalisation of the last axis; mean and variance are used nowhere."""
        return (self.emit("LayerNormalization", [x, weight, bias], axis=axis, epsilon=eps),)

    def op_BatchNorm(
        self,
        node: Any,
        x: Name,
        weight: Name,
        bias: Name,
        mean: Name,
        variance: Name,
        _: bool,
        eps: float,
        *others: Any,
    ) -> tuple[Name]:
        """Normalisation by running statistics."""
        return (self.emit("BatchNormalization", [x, weight, bias, mean, variance], epsilon=eps),)

    def op_Softmax(self, node: Any, x: Name, axes: Sequence[int]) -> Name:
        """Over one axis."""
        return self.emit("Softmax", [x], axis=axes[0])

    def op_SumExt(self, node: Any, x: Name, axes: Sequence[int], keep: bool, *kind: Any) -> Name:
        """Sum."""
        return self.emit("ReduceSum", [x, self.vector(axes)], keepdims=int(keep))

    def op_ReduceMean(self, node: Any, x: Name, axes: Sequence[int], keep: bool) -> Name:
        """Mean."""
        return self.emit("ReduceMean", [x], axes=list(axes), keepdims=int(keep))

    def op_Rsqrt(self, node: Any, x: Name) -> Name:
        """1 / sqrt(x)."""
        return self.emit("Reciprocal", [self.emit("Sqrt", [x])])

    def op_ReduceMax(self, node: Any, x: Name, axes: Any, keep: bool) -> Name:
        """Maximum."""
        return self.emit("ReduceMax", [x], axes=list(axes) if isinstance(axes, tuple) else [axes], keepdims=int(keep))

    def op_ClampScalar(self, node: Any, x: Name, low: Any, high: Any) -> Name:
        """Between two numbers."""
        kind = TYPES[self.kinds.get(x, FLOAT)]
        return self.emit("Clip", [x, self.constant(low, kind), self.constant(high, kind)])

    def op_TopK(self, node: Any, x: Name, count: int) -> tuple[Name, Name]:
        """The largest of the last axis, falling, and their places as int32."""
        values, places = self.emit("TopK", [x, self.vector([count])], count=2, axis=-1)
        return values, self.emit("Cast", [places], to=INTEGERS[0])

    def op_Argmax(self, node: Any, x: Name) -> Name:
        """The place of the largest, as int32."""
        place = self.emit("ArgMax", [x], axis=self.attributes(node)["axis"], keepdims=0)
        return self.emit("Cast", [place], to=INTEGERS[0])

    def op_OneHot(self, node: Any, places: Name, depth: int, on: Any, off: Any, axis: int) -> Name:
        """`on` at the places, else `off`."""
        values = [self.known(off), self.known(on)]
        values = [self.emit("Reshape", [value, self.vector([1])]) for value in values]
        places = self.emit("Cast", [places], to=INTEGERS[1])
        return self.emit(
            "OneHot", [places, self.constant([depth], np.int64), self.emit("Concat", values, axis=0)], axis=axis
        )

    def op_FloorDiv(self, node: Any, x: Name, y: Any) -> Name:
        """Of whole numbers that are not negative, as places are, ONNX's division is it."""
        if self.kinds.get(x) not in INTEGERS:
            raise UserError(
                "a division of floats that rounds down can't be exported to ONNX (--format MINDIR takes it)"
            )
        return self.emit("Div", self.numbers([x, y]))

    def op_BitwiseAnd(self, node: Any, x: Name, y: Name) -> Name:
        """Of truth values."""
        if self.kinds.get(x) != BOOL:
            raise UserError("an & of numbers can't be exported to ONNX (--format MINDIR takes it)")
        return self.emit("And", [x, y])

    def known(self, value: Any) -> Name:
        """A number as one of the graph's."""
        return value if isinstance(value, Name) else self.constant(value)
