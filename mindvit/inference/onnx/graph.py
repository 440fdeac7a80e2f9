"""An ONNX graph in the making."""

from __future__ import annotations

from typing import Any, Mapping, Sequence, Union

import numpy as np
from mindspore.train.mind_ir_pb2 import AttributeProto, ModelProto

INPUT, OUTPUT = "image", "output"  # what a network's are called, if nothing else is said
FLOAT, BOOL, INTEGERS = 1, 9, (6, 7)  # numbers of types, in ONNX and in MindIR

TYPES: dict[int, Any] = {
    1: np.float32,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
}  # of tensors in MindIR


class Name(str):
    """A value in the ONNX graph; everything else that an operator is given is known."""


Known = Union[Name, int]


class Graph:
    """The ONNX nodes of one graph of MindIR's. weights: values by parameter name."""

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
        self.kinds: dict[str, int] = {}  # of values: see TYPES

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
        self.shapes[name], self.kinds[name] = array.shape, self.initializers[name].data_type
        return name

    def numbers(self, values: Sequence[Any]) -> list[Name]:
        """Arguments of arithmetic, which ONNX has not for truth values; known ones are of the others' type."""
        kind = next((self.kinds[value] for value in values if self.kinds.get(value) in INTEGERS), FLOAT)
        return [self.number(value, TYPES[kind]) for value in values]

    def number(self, value: Any, kind: Any) -> Name:
        """One of them."""
        if not isinstance(value, Name):
            return self.constant(value, kind)
        return self.emit("Cast", [value], to=FLOAT) if self.kinds.get(value) == BOOL else value

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

    def swapped(self, x: Name, is_swapped: bool) -> Name:
        """x with its last two axes in the other order, if so."""
        axes = list(range(len(self.shapes[x])))
        return self.emit("Transpose", [x], perm=[*axes[:-2], axes[-1], axes[-2]]) if is_swapped else x

    def attributes(self, node: Any) -> dict[str, Any]:
        """An operator's own settings."""
        return {item.name: value_of(item) for item in self.primitives[node.op_type[len("REF::") :]].attribute}


def value_of(attribute: Any) -> Any:
    """What a constant of MindIR holds."""
    kinds = AttributeProto
    if attribute.type in (kinds.TUPLE, kinds.LIST):
        return tuple(value_of(item) for item in attribute.values)
    if attribute.type == kinds.TENSORS:
        tensor = attribute.tensors[0]
        return np.frombuffer(tensor.raw_data, TYPES[tensor.data_type]).reshape(tuple(tensor.dims))
    if attribute.type == kinds.BOOL:
        return bool(attribute.i)
    if attribute.type in (kinds.INT32, kinds.INT64):
        return attribute.ints[0] if attribute.ints else attribute.i
    if attribute.type == kinds.FLOAT:
        return attribute.floats[0] if attribute.floats else attribute.f
    return {kinds.DOUBLE: attribute.d, kinds.STRING: attribute.s}.get(attribute.type)
