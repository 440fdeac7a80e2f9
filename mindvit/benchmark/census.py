"""Counting the operators and the multiply-adds of networks in their compiled graphs."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, Sequence

if TYPE_CHECKING:
    from mindspore import Tensor, nn

CLASSIFICATION = "classification"
TRAINING_BATCH = (
    2  # with a single image some sums and reshapes of the training step vanish; of the forward graph nothing does
)
CHANNELS = 3
STRUCTURAL = ("Reshape", "Transpose", "StridedSlice", "Split", "Concat")
BOOKKEEPING = {
    "Load",
    "UpdateState",
    "Depend",
    "MakeTuple",
    "TupleGetItem",
}  # order and grouping of values: no device computes them
VIEWS = {
    "Cast",
    "Reshape",
    "Transpose",
    "ExpandDims",
    "Split",
    "TupleGetItem",
    "StridedSlice",
}  # a weight seen through these is a weight
PRODUCTS = {"MatMul", "MatMulExt", "BatchMatMul", "BatchMatMulExt", "Dense", "Conv2D"}
KINDS = ("convolution", "linear", "attention")


@dataclass(frozen=True)
class Census:
    """What a compiled graph holds.

    counts: operators by kind, the structural ones first, then the most frequent. macs: multiply-adds of one image by
    kind, of the forward graph only. saved: how many more the published form needs. published: the registry's, None at
    another size.
    """

    name: str
    graph: str
    size: int
    compile_seconds: float
    counts: dict[str, int]
    macs: dict[str, int]
    saved: int = 0
    published: Optional[int] = None

    @property
    def deviation(self) -> float:
        """Per cent by which the multiply-adds, in the published order of products, differ from the registry's."""
        assert self.published is not None
        return 100 * ((sum(self.macs.values()) + self.saved) / self.published - 1)

    def row(self) -> str:
        """Operators, as a row of a table."""
        others = ", ".join(f"{kind} {count}" for kind, count in self.counts.items() if kind not in STRUCTURAL)
        cells = [
            self.name,
            self.graph,
            f"{self.compile_seconds:.1f}",
            sum(self.counts.values()),
            *(self.counts[kind] for kind in STRUCTURAL),
            others,
        ]
        return f"| {' | '.join(map(str, cells))} |"

    def macs_row(self) -> str:
        """Multiply-adds in millions, as a row of a table."""
        total = sum(self.macs.values())
        cells = [
            self.name,
            self.size,
            *(f"{count / 1e6:.2f}" for count in (*(self.macs[kind] for kind in KINDS), total, total + self.saved)),
        ]
        cells += ["", ""] if self.published is None else [f"{self.published / 1e6:.2f}", f"{self.deviation:+.3f}"]
        return f"| {' | '.join(map(str, cells))} |"


def head(*columns: str) -> str:
    """The first two lines of a table."""
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


OPERATORS_HEAD = head("network", "graph", "compile, s", "operators", *STRUCTURAL, "others")
MACS_HEAD = head(
    "network",
    "input, px",
    *(f"{kind}, M" for kind in KINDS),
    "in this graph, M",
    "as published, M",
    "registry, M",
    "deviation, %",
)


class Graph:
    """A cell's optimised graph: what the framework hands to a device's own compiler, every cell and every call
    unrolled.
    """

    def __init__(self, cell: nn.Cell, *inputs: Tensor):
        from mindspore.train.anf_ir_pb2 import ModelProto

        start = time.perf_counter()
        cell.compile(*inputs)
        self.compile_seconds = time.perf_counter() - start
        found = ModelProto()
        found.ParseFromString(cell.get_func_graph_proto())
        self.nodes = {node.name: node for node in found.graph.node}
        self.constants = {constant.key: constant.value for constant in found.graph.const_vals}
        self.types = {parameter.name: parameter.type for parameter in found.graph.parameters}
        if any(not node.op_type for node in self.nodes.values()):
            raise RuntimeError(
                f"the graph of {type(cell).__name__} calls other graphs, whose operators can't be seen: no `if` or "
                "`while` on values of tensors"
            )

    def counts(self) -> dict[str, int]:
        """Operators by kind, the structural ones first, then the most frequent."""
        found = Counter(node.op_type for node in self.nodes.values() if node.op_type not in BOOKKEEPING)
        others = sorted((kind for kind in found if kind not in STRUCTURAL), key=lambda kind: (-found[kind], kind))
        return {kind: found[kind] for kind in (*STRUCTURAL, *others)}

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a node, a parameter or a constant tensor."""
        if name in self.constants:
            return tuple(self.constants[name].tensor_val.dims)
        kind = self.nodes[name].output_type if name in self.nodes else self.types[name]
        return tuple(dim.size for dim in kind.tensor_type.shape.dim)

    def source(self, name: str) -> str:
        """Where a value comes from, seen through operators that only rearrange it."""
        while name in self.nodes and self.nodes[name].op_type in VIEWS:
            name = self.nodes[name].input[0].name
        return name

    def is_weight(self, source: str) -> bool:
        """Whether it is a parameter of the network."""
        return source in self.nodes and self.nodes[source].op_type == "Load"

    def multiply_adds(self) -> dict[str, int]:
        """Of all products, by kind: with a weight of four axes, with another weight, of two activations; none of a
        constant and an activation.
        """
        found = dict.fromkeys(KINDS, 0)
        for node in self.nodes.values():
            if node.op_type not in PRODUCTS:
                continue
            sources = [self.source(item.name) for item in node.input[:2]]
            weights = [source for source in sources if self.is_weight(source)]
            if weights:
                kind = "convolution" if len(self.shape(weights[0])) == 4 else "linear"
            elif any(source in self.constants for source in sources):
                continue
            else:
                kind = "attention"
            found[kind] += math.prod(self.shape(node.name)) * self.terms(node)
        return found

    def terms(self, node: Any) -> int:
        """Multiply-adds of one element of a product's output."""
        first, second = (item.name for item in node.input[:2])
        if node.op_type == "Conv2D":
            return math.prod(self.shape(second)[1:])  # (outputs, inputs of a group, height, width)
        transposed = node.op_type in ("MatMul", "BatchMatMul") and self.constants[node.input[2].name].bool_val
        return self.shape(first)[-2 if transposed else -1]


def network(name: str, size: int) -> Any:
    """A network that computes images of this size, px, at that size; UserError if it can't."""
    from mindvit.models import create_model, input_sizes

    return create_model(name, img_size=input_sizes(name, size)[1])


def forward(name: str, size: int) -> tuple[Any, tuple[Tensor, ...]]:
    """A network as it is evaluated, and its input: one image."""
    import mindspore as ms
    from mindspore import ops

    return network(name, size).set_train(False), (ops.zeros((1, CHANNELS, size, size), ms.float32),)


def train_step(name: str, size: int) -> tuple[Any, tuple[Tensor, ...]]:
    """The training step of a network, without mixing, erasing, clipping and average, and its inputs."""
    from mindspore import Tensor

    from mindvit.engine.step import TrainStep
    from mindvit.engine.update import StepOptions
    from mindvit.models import model_info
    from mindvit.optim.param_groups import is_decayed
    from mindvit.tasks.classification.objective import ClassificationObjective, ObjectiveOptions
    from mindvit.tasks.classification.task import batch_spec

    info, net = model_info(name), network(name, size).set_train(True)
    decayed = [
        is_decayed(weight.name, weight.ndim, "norm_and_bias", net.no_weight_decay())
        for weight in net.trainable_params()
    ]
    step = TrainStep(ClassificationObjective(net, ObjectiveOptions(info.mean, info.std)), net, decayed, StepOptions())
    return step, tuple(map(Tensor, step.spec(batch_spec(TRAINING_BATCH, size, CHANNELS)).inputs()))


def census(name: str, train: bool = False, size: Optional[int] = None, as_run: bool = False) -> Census:
    """Count a network's forward graph or, with `train`, its training step's, in graph mode.

    size: the images' side, by default the registry's. as_run: with the operators that this machine takes, not those
    of NPUs and GPUs. A network's `saved_multiply_adds(size)` tells how many more the published form needs, where it is
    another. UserError for an unknown network or a wrong size.
    """
    from mindvit.models import model_info
    from mindvit.runtime import platform

    info = model_info(name)
    side = info.input_size if size is None else size
    with contextlib.nullcontext() if as_run else platform.use(platform.PORTABLE):
        cell, inputs = (train_step if train else forward)(info.name, side)
    graph = Graph(cell, *inputs)
    if train:
        return Census(info.name, "train step", side, graph.compile_seconds, graph.counts(), {})
    saved = cell.saved_multiply_adds(side) if hasattr(cell, "saved_multiply_adds") else 0
    published = info.macs if side == info.input_size else None
    return Census(
        info.name, "forward", side, graph.compile_seconds, graph.counts(), graph.multiply_adds(), saved, published
    )


def names(patterns: Sequence[str], tasks: Sequence[str] = (CLASSIFICATION,)) -> list[str]:
    """Networks of `tasks` that names, aliases and shell patterns mean, each once; UserError for one that means none."""
    from mindvit.models import list_models, model_info, network_info

    found: dict[str, None] = {}
    for pattern in patterns:
        matches = [name for task in tasks for name in list_models(pattern, task)]
        known = network_info if len(tasks) > 1 else model_info
        found.update(dict.fromkeys(matches or [known(pattern).name]))
    return list(found)
