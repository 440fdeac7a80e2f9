"""Operators that compute."""

from __future__ import annotations

from typing import Any, Sequence

from mindvit.inference.onnx.graph import Graph, Name


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
