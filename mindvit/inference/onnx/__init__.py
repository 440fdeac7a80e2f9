"""MindSpore's graph (MindIR) as an ONNX model. MindSpore 2.10's own exporter knows neither Erf nor Im2Col, and no
dynamic batch.

A MindIR file of one of our networks is a flat list of operators. Each is written as one or a few of ONNX's; what is
known when the file is written (numbers, shapes) is computed here. The only unknown is the batch: a number that depends
on it is a vector of one integer in the ONNX graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import numpy as np
from mindspore.train.mind_ir_pb2 import ModelProto

from mindvit.errors import UserError
from mindvit.inference.onnx.compute import MathOperators
from mindvit.inference.onnx.detection import DetectionOperators
from mindvit.inference.onnx.graph import FLOAT, Known, Name, value_of
from mindvit.inference.onnx.layout import LayoutOperators

OPSET, IR_VERSION = 17, 8
BATCH = "batch"  # name of the unknown side of the input and the output
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
    "Minimum": "Min",
    "Greater": "Greater",
    "GreaterEqual": "GreaterOrEqual",
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
ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Greater", "GreaterOrEqual")
SCALARS: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "ScalarMul": ("Mul", lambda a, b: a * b),
    "ScalarFloorDiv": ("Div", lambda a, b: a // b),
    "ScalarAdd": ("Add", lambda a, b: a + b),
    "ScalarSub": ("Sub", lambda a, b: a - b),
}


def _shapes(node: Any) -> list[tuple[tuple[int, ...], int]]:
    """Shapes and types of a node's outputs; -1 is what the batch decides."""
    found = [attribute for attribute in node.attribute if attribute.name == "shape"]
    if not found:
        return []
    tensors = list(found[0].tensors) or [item.tensors[0] for item in found[0].values if item.tensors]
    return [(tuple(tensor.dims), tensor.data_type) for tensor in tensors]


class Writer(LayoutOperators, MathOperators, DetectionOperators):
    """Writes one operator of MindIR after the other."""

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

    def model(self, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
        """The ONNX model; inputs, outputs: their names in it. UserError if it has operators that can't be written."""
        if self.unknown():
            raise UserError(
                f"operators that can't be exported to ONNX: {', '.join(self.unknown())} (--format MINDIR takes them)"
            )
        for name, item in zip(inputs, self.graph.input):
            self.values[item.name] = Name(name)
            self.shapes[name] = tuple(item.tensor[0].dims)
        for parameter in self.graph.parameter:
            self.values[parameter.name] = self.weight(parameter.name.split(":")[-1])
        for node in self.graph.node:
            self.write(node)
        result = self.values[self.graph.output[0].name]
        sides = [self.side(name, self.shapes[name]) for name in inputs]
        results = result if isinstance(result, tuple) else (result,)
        for name, value in zip(outputs, results):
            self.emit("Identity", [value], output=name)
            sides.append(self.side(name, self.shapes[value], self.kinds.get(value, FLOAT)))
        count = len(inputs)
        graph = self.helper.make_graph(
            self.nodes, "mindvit", sides[:count], sides[count:], list(self.initializers.values())
        )
        return self.helper.make_model(
            graph, opset_imports=[self.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="mindvit"
        )

    def side(self, name: str, shape: Sequence[int], kind: int = FLOAT) -> Any:
        """An input or output of the model."""
        return self.helper.make_tensor_value_info(name, kind, [BATCH if size < 0 else size for size in shape])

    def write(self, node: Any) -> None:
        """One operator of MindIR."""
        kind = self.kind(node)
        if kind == "Constant":
            value = value_of(node.attribute[0])
            self.values[node.output[0]] = self.constant(value) if isinstance(value, np.ndarray) else value
            return
        inputs = [self.values[name] for name in node.input]
        if kind in DIRECT:
            result = self.emit(DIRECT[kind], self.numbers(inputs) if DIRECT[kind] in ARITHMETIC else inputs)
        elif kind in SCALARS:
            result = self.scalar(kind, *inputs)
        else:
            result = getattr(self, f"op_{kind}")(node, *inputs)
        self.values[node.output[0]] = result
        for name, (shape, type_) in zip(
            [result] if isinstance(result, Name) else result if isinstance(result, tuple) else [], _shapes(node)
        ):
            if isinstance(name, Name):
                self.shapes[name], self.kinds[name] = shape, type_

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


def to_onnx(
    mindir: Path,
    weights: Mapping[str, np.ndarray],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> Any:
    """The ONNX model of a MindIR file with these weights; inputs, outputs: their names in it."""
    model = ModelProto()
    model.ParseFromString(mindir.read_bytes())
    return Writer(model, weights).model(inputs, outputs)
