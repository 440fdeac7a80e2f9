"""Compiles training and evaluation graphs for an Ascend that isn't there, each in a process of its own, and tells what
became of each in a line of JSON. Run with standin.py's environment:

    python tests/ascend/probe.py CASE ...      CASE: network:graph:level[:ranks[:accum_steps]], such as xcit:train:O1:8

network: one of NANO or DENSE, the name of a model, or that of a dense network's recipe with its folder; graph: train,
eval, or one of REFUSED. O0 and O1 are followed as far as the operator selection has counted its kernels, O2 as far as
the graph engine has checked the graph. With STANDIN_BEFORE, operators aren't chosen for the chip, a skipped step is a
branch, and all-reduces aren't fused: as it was before there was a stand-in.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Callable

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "helpers")]
os.environ.setdefault("GLOG_v", "2")
os.environ.setdefault("MS_SIMULATION_LEVEL", "1")

import mindspore as ms  # noqa: E402
import numpy as np  # noqa: E402
from mindspore import Parameter, Tensor, nn, ops  # noqa: E402
from steps import MEAN, STD, neutral_inputs, train_step  # noqa: E402
from train_small import register  # noqa: E402

from mindvit.engine import setup  # noqa: E402
from mindvit.layers import nms  # noqa: E402
from mindvit.layers.compiled import Compiled  # noqa: E402
from mindvit.layers.precision import set_precision  # noqa: E402
from mindvit.models import create_model, crossvit, model_info, network_info, xcit  # noqa: E402
from mindvit.recipe.commandline import parse  # noqa: E402
from mindvit.runtime import ascend, device, platform  # noqa: E402
from mindvit.tasks import task_of  # noqa: E402
from mindvit.tasks.base import RunContext  # noqa: E402
from mindvit.tasks.classification.metrics import EvalStep  # noqa: E402

CHIP = os.environ.get("STANDIN_CHIP", "Ascend910B3")
BEFORE = bool(os.environ.get("STANDIN_BEFORE"))
CLASSES = {"segmentation": 150, "detection": 80}  # ADE20K's and COCO's
# a block of every kind that a family has
# fmt: off
NANO: dict[str, tuple[str, int, dict[str, Any]]] = {
    "crossvit": ("crossvit_tiny", 24, {"img_size": (24, 16), "embed_dim": (48, 96), "depth": (1, 1)}),
    "cvt": ("cvt_13_224", 32, {"embed_dim": (16, 32, 48), "depth": (1, 1, 1), "num_heads": (1, 2, 3)}),
    "crossformer": (
        "crossformer_tiny", 64,
        {"embed_dim": 32, "depths": (1, 2), "num_heads": (1, 2), "group_size": (7, 7), "interval": (8, 4)},
    ),
    "xcit": ("xcit_nano_12_p16_224", 32, {"embed_dim": 32, "depth": 1, "num_heads": 2}),
}
# necks and heads, a recipe each, on a backbone that is next to nothing or, for the neck that wants more maps, cut down
SEGMENTOR = "--crop_size 64 --drop_rate 0.1 --sync_bn False --head_channels 16"
DETECTOR = "--canvas 64 --img_scale none --size_divisor 64 --max_instances 4 --neck_channels 16 --batch_size 1"
RCNN = f"{DETECTOR} --head_channels 16 --rpn_pre 40,40 --proposals 20 --rpn_samples 16 --roi_samples 8"
DENSE = {
    "fpn": f"--model semantic_fpn {SEGMENTOR} --neck_channels 16",
    "upernet": f"--model upernet {SEGMENTOR} --backbone cvt_13_224",
    "retinanet": f"--model retinanet {DETECTOR}",
    "maskrcnn": f"--model mask_rcnn {RCNN}",
    "cascade": f"--model cascade_mask_rcnn {RCNN}",
    "suppression": f"--model retinanet {DETECTOR}",  # with its loop
}
SMALL_DENSE = "--backbone nano_pyramid --dataset scenes"
CVT_CUT = ("--backbone_config", "embed_dim: [16, 32, 48], depth: [1, 1, 1], num_heads: [1, 2, 3]")
# fmt: on
SELECTED = re.compile(r"(\w+) select (\w+) kernel")
COUNTS = re.compile(r"PrintOpSelectedNum\] ((?:\d+ )+)")
CREATED = re.compile(r"kernel opname:(\w+), kernel type:(\w+)_kernel")
CREATED_ALL = "DoStreamAssign] Status record: start stream assign"
OF_CREATED = {"opapi": "aclnn", "acl": "aclop", "akg": "fused", "hccl": "hccl", "host": "host", "internal": "internal"}
KINDS = ("internal", "aclnn", "aclop", "atb", "hccl", "host", "symmetric")
CHECKED = "CompileWholeGraph] Status record: start compile graph"  # what follows on a graph engine's CheckGraph
BRANCH = re.compile(r" = Switch\(")  # in a dumped graph
SHAPE = re.compile(r"\((\d+(?:, \d+)*)\)")  # in a dumped graph


@dataclass
class Outcome:
    """What became of a graph. kernels: how many of each of KINDS; legacy: kinds of operators that are aclop kernels;
    checked: the graph engine's rules hold; axes: of the tensor with the most, after the front end; branches: on values,
    after the front end; error: the exception that ended it, in a line; seconds: of a processor; memory: at most, GiB.
    """

    case: str
    kernels: dict[str, int] = field(default_factory=dict)
    legacy: list[str] = field(default_factory=list)
    checked: bool = False
    axes: int = 0
    branches: int = 0
    error: str = ""
    seconds: float = 0.0
    memory: float = 0.0


class While(nn.Cell):
    """A loop whose end the values decide."""

    def construct(self, x: Tensor) -> Tensor:
        while x.sum() < 10:
            x = x * 2
        return x


class OneRound(nms.Greedy):
    """Suppression without its loop: what follows on a loop is a graph of its own, and the stand-ins end before that."""

    def construct(self, overlaps: Tensor) -> Tensor:
        return self.next(ops.ones_like(overlaps[:, :1]), overlaps).reshape(overlaps.shape[0], -1)


class Yielding(Compiled):
    """The same as the suite's own cells are: compiled at a lower level where it is refused."""

    def construct(self, x: Tensor) -> Tensor:
        while x.sum() < 10:
            x = x * 2
        return x


class ParameterFromBranch(nn.Cell):
    """A branch that gives back a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.total = Parameter(Tensor(np.ones(3), ms.float32), name="total")

    def construct(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # noqa: SIM108  (it is the branch that is meant)
            y = ops.assign_add(self.total, x)
        else:
            y = ops.assign(self.total, x)
        return y


REFUSED: dict[str, Callable[[], nn.Cell]] = {"while": While, "parameter": ParameterFromBranch, "yielding": Yielding}


def network(name: str) -> tuple[nn.Cell, int, Any]:
    """The network, its images' side, and whether it is one of NANO."""
    if name not in NANO:
        return create_model(name), model_info(name).input_size, False
    crossvit.MULTI_SCALE_BLOCKS = xcit.CLASS_BLOCKS = 1
    model, side, cut = NANO[name]
    return create_model(model, num_classes=5, **cut), side, True


def chosen_platform(level: str) -> platform.Platform:
    """What layers choose by."""
    found = platform.of("Ascend", CHIP, level)
    return dataclasses.replace(found, direct_operators=False, costly_launches=False) if BEFORE else found


def build(name: str, graph: str, level: str, ranks: int, accum_steps: int) -> tuple[nn.Cell, tuple[Tensor, ...]]:
    """The cell of a case, and inputs to compile it with."""
    if graph in REFUSED:
        return REFUSED[graph](), (Tensor(np.ones(3), ms.float32),)
    half = ms.float16 if "crossvit" in name else ms.bfloat16  # the one that has a loss scale, and A2's own
    with platform.use(chosen_platform(level)):
        net, side, _ = network(name)
        set_precision(net, "O2", half)
        net.set_train(graph == "train")
        if graph == "eval":
            pixels = np.zeros((2, side, side, 3), np.uint8)
            return EvalStep(net, MEAN, STD), (Tensor(pixels), Tensor(np.zeros(2, np.int32)))
        step = train_step(
            net, erase=True, mix=True, smoothing=0.1, skip_nonfinite=True,
            loss_scale=65536.0 if half == ms.float16 else 0.0, dynamic_scale=half == ms.float16,
            clip_norm=5.0 if "crossformer" in name else 0.0, ema_decay=0.9999 if "xcit" in name else 0.0,
            ranks=ranks, accum_steps=accum_steps,
        )  # fmt: skip
        return step, neutral_inputs(2, side, 3, step.drop_paths)


def build_dense(name: str, graph: str, level: str, ranks: int, accum_steps: int) -> tuple[nn.Cell, tuple[Tensor, ...]]:
    """The same for a dense network, as train.py would build it."""
    words = f"{SMALL_DENSE} {DENSE[name]}".split() if name in DENSE else ["--config", name]
    words += CVT_CUT * (name == "upernet")
    words = f"--batch_size 2 --skip_nonfinite 1 --gradient_accumulation_steps {accum_steps}".split() + words
    register()
    with platform.use(chosen_platform(level)):
        recipe = parse(words, "")[0]
        task, half = task_of(recipe), ms.bfloat16
        recipe = task.resolve(recipe)
        chosen = device.Device("Ascend", level, "O2", "O2", half, 0, ranks, ranks, CHIP)
        classes = 11 if name in DENSE else CLASSES[task.name]
        ctx = RunContext(recipe, network_info(recipe.model.model), chosen, classes, 1)
        net = task.network(ctx)
        for _, cell in net.cells_and_names():
            if isinstance(cell, nms.Suppression) and name != "suppression":
                cell.greedy = OneRound()
        set_precision(net, "O2", half)
        net.set_train(graph == "train")
        spec = task.spec(ctx)
        if graph == "eval":
            images = Tensor(spec.batch[0].empty().transpose(0, 3, 1, 2).astype(np.float32))
            # a detector is told how much of the canvas is the image
            return net, (images, ops.ones((images.shape[0], 2)))[: 1 + (task.name == "detection")]
        step = setup.train_step(net, ctx, task)
        return step, tuple(map(Tensor, step.spec(spec).inputs()))


def compile_case(case: str) -> None:
    """Compile one graph in this process."""
    name, graph, level, *numbers = case.split(":")
    ranks, accum_steps = (int(number) for number in [*numbers, "1", "1"][:2]) if len(numbers) < 2 else map(int, numbers)
    os.environ.update(RANK_SIZE=str(ranks), RANK_ID="0")
    ms.set_device("Ascend")
    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": level})
    if BEFORE:
        ascend.comm_fusion = dict
    if ranks > 1:
        device.join_ranks("Ascend")
    cell, inputs = (build_dense if name in DENSE or "/" in name else build)(name, graph, level, ranks, accum_steps)
    cell.compile(*inputs)


def follow(stream: Any, outcome: Outcome) -> None:
    """Read what a compiling process says, as far as there is something to learn.

    At O1 operators are fused after they were selected, and what was created counts.
    """
    legacy = set()
    fuses = ":O1" in outcome.case
    created: Counter[str] = Counter()
    for line in stream:
        selected, counts, kernel = SELECTED.search(line), COUNTS.search(line), CREATED.search(line)
        if kernel and kernel[2] != "rt":  # views, and streams' own
            created[OF_CREATED[kernel[2]]] += 1
        if selected and selected[2] == "aclop" and not fuses:
            legacy.add(selected[1])
        if kernel and kernel[2] == "acl":
            legacy.add(kernel[1])
        if counts and not fuses:
            outcome.kernels = dict(zip(KINDS, map(int, counts[1].split())))
            break
        if CREATED_ALL in line and created:
            outcome.kernels = {name: created[name] for name in (*KINDS[:3], "fused", *KINDS[4:6])}
            break
        outcome.checked = CHECKED in line
        if line.startswith("ERROR "):
            outcome.error = line[6:].strip()
        if outcome.checked or outcome.error:
            break
    outcome.legacy = sorted(legacy)


def dumped(folder: str) -> str:
    """The graphs that were dumped in `folder`."""
    return "".join(file.read_text("utf-8", "replace") for file in Path(folder).rglob("*_validate_*.ir"))


def run(case: str) -> Outcome:
    """Compile one graph in a child of this process."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(MS_DEV_SAVE_GRAPHS="1", MS_DEV_SAVE_GRAPHS_PATH=folder, MS_DEV_DUMP_IR_PASSES="validate")
        outcome = compiled(case)
        graphs = dumped(folder)
    outcome.axes = max((shape.count(",") + 1 for shape in SHAPE.findall(graphs)), default=0)
    outcome.branches = len(BRANCH.findall(graphs))
    return outcome


def compiled(case: str) -> Outcome:
    """What a child of this process found."""
    outcome = Outcome(case)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        try:
            compile_case(case)
            text = "compiled"
        except Exception as error:  # whatever it is, it is what became of the case
            text = " ".join(str(error).split())
        os.write(2, f"\nERROR {text[:2000]}\n".encode())
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8", errors="replace") as stream:
        follow(stream, outcome)
    os.kill(child, signal.SIGKILL)  # it would go on to kernels that only CANN has
    _, _, usage = os.wait4(child, 0)
    outcome.seconds = round(usage.ru_utime + usage.ru_stime, 1)
    outcome.memory = round(usage.ru_maxrss / 2**20, 1)  # Linux counts in KiB
    return outcome


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(json.dumps(asdict(run(argument))), flush=True)
