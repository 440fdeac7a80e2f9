"""MindSpore's graph (MindIR) as an ONNX model. MindSpore 2.10's own exporter knows neither Erf nor Im2Col, and no
dynamic batch.

A MindIR file of one of our networks is a flat list of operators. Each is written as one or a few of ONNX's; what is
known when the file is written (numbers, shapes) is computed here. The only unknown is the batch: a number that depends
on it is a vector of one integer in the ONNX graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Mapping, Sequence, Union

import numpy as np
from mindspore.train.mind_ir_pb2 import AttributeProto, ModelProto

from mindvit.errors import UserError

OPSET, IR_VERSION = 17, 8
FLOAT = 1  # ONNX's number for float32
BATCH = "batch"  # name of the unknown side of the input and the output
INPUT, OUTPUT = "image", "output"
END = np.iinfo(np.int64).max
TYPES: dict[int, Any] = {
    1: np.float32,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
}  # of tensors in MindIR
BOOL = 9  # of those types
CASTS = {30: 9, 34: 6, 35: 7, 42: 10, 43: 1, 44: 11}  # types as MindIR's operators are told them: as ONNX has them
DIRECT = {
    "Add": "Add",
    "Sub": "Sub",
    "Mul": "Mul",
    "Div": "Div",
    "Adds": "Add",
    "Subs": "Sub",
    "Muls": "Mul",
    "Divs": "Div",
    "Maximum": "Max",
    "Erf": "Erf",
    "Sigmoid": "Sigmoid",
    "ReLU": "Relu",
    "LogicalNot": "Not",
    "Select": "Where",
    "MatMulExt": "MatMul",
    "BatchMatMulExt": "MatMul",
    "Exp": "Exp",
    "Sqrt": "Sqrt",
    "Tanh": "Tanh",
    "Neg": "Neg",
}
ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Max")
SCALARS: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "ScalarMul": ("Mul", lambda a, b: a * b),
    "ScalarFloorDiv": ("Div", lambda a, b: a // b),
    "ScalarAdd": ("Add", lambda a, b: a + b),
    "ScalarSub": ("Sub", lambda a, b: a - b),
}


class Name(str):
    """A value in the ONNX graph; everything else that an operator is given is known."""


Known = Union[Name, int]


def _value(attribute: Any) -> Any:
    """What a constant of MindIR holds."""
    kinds = AttributeProto
    if attribute.type in (kinds.TUPLE, kinds.LIST):
        return tuple(_value(item) for item in attribute.values)
    if attribute.type == kinds.TENSORS:
        tensor = attribute.tensors[0]
        return np.frombuffer(tensor.raw_data, TYPES[tensor.data_type]).reshape(tuple(tensor.dims))
    if attribute.type == kinds.BOOL:
        return bool(attribute.i)
    if attribute.type in (kinds.INT32, kinds.INT64):
        return attribute.ints[0] if attribute.ints else attribute.i
    return {kinds.FLOAT: attribute.f, kinds.DOUBLE: attribute.d, kinds.STRING: attribute.s}.get(attribute.type)


def _shapes(node: Any) -> list[tuple[tuple[int, ...], int]]:
    """Shapes and types of a node's outputs; -1 is what the batch decides."""
    found = [attribute for attribute in node.attribute if attribute.name == "shape"]
    if not found:
        return []
    tensors = list(found[0].tensors) or [item.tensors[0] for item in found[0].values if item.tensors]
    return [(tuple(tensor.dims), tensor.data_type) for tensor in tensors]


class Writer:
    """Collects the ONNX nodes of one graph. weights: values by parameter name."""

    def __init__(self, model: ModelProto, weights: Mapping[str, np.ndarray]):
        from onnx import helper, numpy_helper

        self.helper, self.numpy_helper = helper, numpy_helper
        self.graph = model.graph
        self.primitives = {item.name: item for item in model.primitives}
        self.weights = weights
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.truths: set[str] = set()  # values that are true or false

    def kind(self, node: Any) -> str:
        """An operator's name."""
        return (
            str(self.primitives[node.op_type[len("REF::") :]].op_type)
            if node.op_type.startswith("REF::")
            else str(node.op_type)
        )

    def unknown(self) -> list[str]:
        """Operators of the graph that can't be written."""
        return sorted(
            {
                kind
                for kind in map(self.kind, self.graph.node)
                if kind not in DIRECT and kind not in SCALARS and not hasattr(self, f"op_{kind}")
            }
        )

    def model(self) -> Any:
        """The ONNX model. UserError if it has operators that can't be written."""
        if self.unknown():
            raise UserError(
                f"operators that can't be exported to ONNX: {', '.join(self.unknown())} (--format MINDIR takes them)"
            )
        image = self.graph.input[0]
        self.values[image.name] = Name(INPUT)
        self.shapes[INPUT] = tuple(image.tensor[0].dims)
        for parameter in self.graph.parameter:
            self.values[parameter.name] = self.weight(parameter.name.split(":")[-1])
        for node in self.graph.node:
            self.write(node)
        result = self.graph.output[0]
        self.emit("Identity", [self.values[result.name]], output=OUTPUT)
        sides = [self.side(INPUT, self.shapes[INPUT]), self.side(OUTPUT, tuple(result.tensor[0].dims))]
        graph = self.helper.make_graph(self.nodes, "mindvit", sides[:1], sides[1:], list(self.initializers.values()))
        return self.helper.make_model(
            graph, opset_imports=[self.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="mindvit"
        )

    def side(self, name: str, shape: Sequence[int]) -> Any:
        """An input or output of the model."""
        return self.helper.make_tensor_value_info(name, 1, [BATCH if size < 0 else size for size in shape])

    def weight(self, name: str) -> Name:
        """A parameter of the network."""
        self.initializers[name] = self.numpy_helper.from_array(self.weights[name], name)
        self.shapes[name] = self.weights[name].shape
        return Name(name)

    def constant(self, value: Any, kind: Any = np.float32) -> Name:
        """A known value as one of the graph's."""
        array = value if isinstance(value, np.ndarray) else np.array(value, kind)
        name = Name(f"constant_{len(self.initializers)}")
        self.initializers[name] = self.numpy_helper.from_array(
            np.ascontiguousarray(array) if array.ndim else array, name
        )
        self.shapes[name] = array.shape
        return name

    def number(self, value: Any) -> Name:
        """An argument of arithmetic, which ONNX has not for truth values."""
        if not isinstance(value, Name):
            return self.constant(value)
        return self.emit("Cast", [value], to=FLOAT) if value in self.truths else value

    def vector(self, items: Sequence[Known]) -> Name:
        """Integers, some of which depend on the batch, as one vector."""
        if not any(isinstance(item, Name) for item in items):
            return self.constant(list(items), np.int64)
        parts = [item if isinstance(item, Name) else self.constant([item], np.int64) for item in items]
        return self.emit("Concat", parts, axis=0)

    def emit(self, kind: str, inputs: Sequence[Any], output: str = "", count: int = 1, **attributes: Any) -> Any:
        """Add a node; its output's name, or those of its `count` outputs."""
        names = [
            Name(output or f"{kind}_{len(self.nodes)}{f'_{index}' if count > 1 else ''}") for index in range(count)
        ]
        self.nodes.append(
            self.helper.make_node(kind, [str(item) for item in inputs], [str(name) for name in names], **attributes)
        )
        return names[0] if count == 1 else tuple(names)

    def write(self, node: Any) -> None:
        """One operator of MindIR."""
        kind = self.kind(node)
        if kind == "Constant":
            value = _value(node.attribute[0])
            self.values[node.output[0]] = self.constant(value) if isinstance(value, np.ndarray) else value
            return
        inputs = [self.values[name] for name in node.input]
        if kind in DIRECT:
            result = self.emit(
                DIRECT[kind], [self.number(item) if DIRECT[kind] in ARITHMETIC else item for item in inputs]
            )
        elif kind in SCALARS:
            result = self.scalar(kind, *inputs)
        else:
            result = getattr(self, f"op_{kind}")(node, *inputs)
        self.values[node.output[0]] = result
        for name, (shape, type_) in zip(
            [result] if isinstance(result, Name) else result if isinstance(result, tuple) else [], _shapes(node)
        ):
            if isinstance(name, Name):
                self.shapes[name] = shape
                self.truths |= {name} if type_ == BOOL else set()

    def scalar(self, kind: str, first: Known, second: Known) -> Known:
        """Arithmetic of sizes."""
        name, compute = SCALARS[kind]
        if not isinstance(first, Name) and not isinstance(second, Name):
            return compute(first, second)
        return Name(
            self.emit(
                name, [item if isinstance(item, Name) else self.constant([item], np.int64) for item in (first, second)]
            )
        )

    def attributes(self, node: Any) -> dict[str, Any]:
        """An operator's own settings."""
        return {item.name: _value(item) for item in self.primitives[node.op_type[len("REF::") :]].attribute}

    def swapped(self, x: Name, is_swapped: bool) -> Name:
        """x with its last two axes in the other order, if so."""
        axes = list(range(len(self.shapes[x])))
        return self.emit("Transpose", [x], perm=[*axes[:-2], axes[-1], axes[-2]]) if is_swapped else x

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

    def op_Transpose(self, node: Any, x: Name, axes: Sequence[int]) -> Name:
        """Axes in another order."""
        return self.emit("Transpose", [x], perm=list(axes))

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

    def op_Split(self, node: Any, x: Any, axis: int, count: int) -> Any:
        """Equal parts."""
        return self.emit("Split", [x], count=count, axis=axis)

    def op_Concat(self, node: Any, items: Sequence[Any], axis: int) -> Name:
        """Parts side by side."""
        return self.emit("Concat", list(items), axis=axis)

    def op_SumExt(self, node: Any, x: Name, axes: Sequence[int], keep: bool, *kind: Any) -> Name:
        """Sum."""
        return self.emit("ReduceSum", [x, self.vector(axes)], keepdims=int(keep))

    def op_ReduceMean(self, node: Any, x: Name, axes: Sequence[int], keep: bool) -> Name:
        """Mean."""
        return self.emit("ReduceMean", [x], axes=list(axes), keepdims=int(keep))

    def op_Rsqrt(self, node: Any, x: Name) -> Name:
        """1 / sqrt(x)."""
        return self.emit("Reciprocal", [self.emit("Sqrt", [x])])

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


def to_onnx(mindir: Path, weights: Mapping[str, np.ndarray]) -> Any:
    """The ONNX model of a MindIR file with these weights."""
    model = ModelProto()
    model.ParseFromString(mindir.read_bytes())
    return Writer(model, weights).model()
