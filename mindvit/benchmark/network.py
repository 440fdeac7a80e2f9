"""Measuring a network on the device of this process: compile seconds, ms a step, images a second, share of the
machine's peak.

`measure(job)` does it here; `python -m mindvit.benchmark.network FILE` does it in a process of its own for
mindvit.cli.benchmark, since MindSpore gives the memory of a compiled graph back only when the process ends.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from PIL import Image

from mindvit.benchmark.columns import COLUMNS
from mindvit.benchmark.profile import profile, profile_table
from mindvit.benchmark.timing import Timing, fastest, flops, time_steps
from mindvit.data.datasets.base import LabelledDataset
from mindvit.engine.compile_cache import caching
from mindvit.engine.setup import build, setup, train_step
from mindvit.engine.step import random_draws
from mindvit.errors import UserError, hints_for
from mindvit.layers import linear
from mindvit.layers.precision import set_precision
from mindvit.models import ModelInfo, input_sizes, model_info, network_info
from mindvit.models.registry import RGB
from mindvit.recipe import schema
from mindvit.recipe.commandline import options
from mindvit.recipe.schema import SHIPPED, Recipe
from mindvit.runtime import console, device, distributed, platform
from mindvit.tasks import task_of
from mindvit.tasks.base import RunContext
from mindvit.version import __version__

CLASSES = 1000  # ImageNet-1K's, as in every published figure of classifiers
PEAK_SIDE, PEAK_PRODUCTS = 2048, 4
PEAK_ROUNDS = 20  # the fastest round counts: where a machine is shared, a few are all slow


@dataclass(frozen=True)
class Job:
    """One network to measure: a flat recipe with the origins of its values, what is run (forward or train), and how
    long.
    """

    values: Mapping[str, Any]
    mode: str
    origins: Mapping[str, str] = field(default_factory=dict)
    warmup: int = 10
    steps: int = 40
    profile: bool = False
    compile_cache: Optional[str] = None  # folder of MindSpore's compile cache
    compile_only: bool = False  # fill that folder, and tell how long it took


class NoImages(LabelledDataset):
    """Stands in for a data set where images are made up: classes by number."""

    def __init__(self, classes: int) -> None:
        super().__init__([], [str(number) for number in range(classes)])

    def name(self, index: int) -> str:
        """There is none."""
        raise IndexError(index)

    def read(self, index: int) -> Image.Image:
        """There is none."""
        raise IndexError(index)


class Product(nn.Cell):
    """A plain matrix product."""

    def construct(self, a: Tensor, b: Tensor) -> Tensor:
        return ops.matmul(a, b)


class ProductOfKernels(nn.Cell):
    """The same of our kernels for CPUs, in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.product = linear.Product(PEAK_SIDE)
        set_precision(self, "O1", ms.bfloat16)

    def construct(self, a: Tensor, b: Tensor) -> Tensor:
        return self.product(a, b, None)


@dataclass(frozen=True)
class Subject:
    """What is timed: how it is compiled, one step of it, and how many of this rank's images that takes."""

    compile: Callable[[], Any]
    step: Callable[[], Tensor]
    images: int
    params: int


def image_sides(ctx: RunContext) -> tuple[int, int]:
    """Height and width of the images of a training batch, px."""
    _, height, width, _ = task_of(ctx.recipe).spec(ctx).batch[0].shape
    return height, width


def training(ctx: RunContext) -> Subject:
    """The very step that train.py runs, on made-up uint8 images; a step's output is its result."""
    options, chosen = ctx.recipe, ctx.device
    task, accum_steps = task_of(options), options.optim.gradient_accumulation_steps
    net = build(ctx, task, resize=True)
    distributed.same_weights(net, chosen.ranks)
    set_precision(net, chosen.amp_level, chosen.half)
    params = sum(item.size for item in net.trainable_params())
    step = train_step(net, ctx, task)
    batch = task.random_batch(ctx, np.random.default_rng(chosen.rank))
    inputs = [*map(Tensor, (*batch, *random_draws(task, ctx, step, 0))), Tensor(options.schedule.lr, ms.float32)]
    empty = [Tensor(item) for item in step.spec(task.spec(ctx)).inputs()]

    def whole_step() -> Tensor:
        for _ in range(accum_steps):
            result = step(*inputs)
        return result

    return Subject(
        lambda: step.compile(*empty),
        whole_step,
        options.data.batch_size * accum_steps,
        params,
    )


def forward(ctx: RunContext) -> Subject:
    """The network as it is evaluated, on made-up float32 images; a step's output is the logits."""
    options, chosen = ctx.recipe, ctx.device
    if ctx.info.task == "detection":
        raise UserError(f"{ctx.info.name}: --mode forward is for classifiers and segmentors (take --mode train)")
    net = build(ctx, task_of(options), resize=True)
    set_precision(net, chosen.val_amp_level, chosen.half)
    net.set_train(False)
    batch, sides = options.data.batch_size, image_sides(ctx)
    shape = (batch, options.model.in_channels, *sides)
    images = Tensor(np.random.default_rng(chosen.rank).standard_normal(shape, np.float32))
    net.check_size(*sides)
    return Subject(
        lambda: net.compile(images), lambda: net(images), batch, sum(item.size for item in net.trainable_params())
    )


SUBJECTS: dict[str, Callable[[RunContext], Subject]] = {"forward": forward, "train": training}


def compiled(subject: Subject, ctx: RunContext, cache: Optional[str]) -> float:
    """Compile, with MindSpore's cache in the folder `cache` if one is given; the seconds it took (0 in PyNative
    mode).
    """
    if ctx.recipe.runtime.mode != 0:
        return 0.0
    start = time.perf_counter()
    with console.heartbeat("still compiling", ctx.device.is_main), caching(cache):
        subject.compile()
    return time.perf_counter() - start


def peak_flops(half: Optional[Any]) -> float:
    """FLOP a second of a plain product of two 2048 x 2048 matrices, in the precision that the network's products
    have: the device's practical peak.
    """
    product: nn.Cell = Product()
    if half == ms.bfloat16 and ms.get_context("device_target") == "CPU":
        product, half = ProductOfKernels(), None  # operands are float32, and rounded inside
    values = np.random.default_rng(0).standard_normal((PEAK_SIDE, PEAK_SIDE), np.float32)
    a = b = Tensor(values).astype(half or ms.float32)

    def several() -> None:
        for _ in range(PEAK_PRODUCTS):
            output = product(a, b)
        output.asnumpy()

    return 2.0 * PEAK_SIDE**3 * PEAK_PRODUCTS / fastest(several, rounds=PEAK_ROUNDS)


class Heads(nn.Cell):
    """A segmentor as it is trained, without its loss."""

    def __init__(self, net: Any):
        super().__init__(auto_prefix=False)
        self.net = net

    def construct(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.net.heads(x)


def segmentor_multiply_adds(net: nn.Cell, size: tuple[int, int], mode: str) -> int:
    """Of one image of height and width `size`, counted in the graph of a network that is built of plain operators; of
    the auxiliary head too, where it takes part. Without those of padding, which published counts have.
    """
    from mindvit.benchmark.census import Graph

    cell = Heads(net) if mode == "train" else net
    return sum(Graph(cell.set_train(False), ops.zeros((1, RGB, *size), ms.float32)).multiply_adds().values())


def multiply_adds(ctx: RunContext, mode: str) -> Optional[float]:
    """Of one image: the registry's at the network's own size, counted in its graph at another; None for branches of
    sizes of one's own, and for detectors.
    """
    if ctx.info.task == "segmentation":
        with platform.use(platform.PORTABLE):
            return segmentor_multiply_adds(task_of(ctx.recipe).network(ctx), image_sides(ctx), mode)
    if not isinstance(ctx.info, ModelInfo):
        return None
    sizes = ctx.recipe.model.img_size
    if sizes is not None and sizes != input_sizes(ctx.info.name, ctx.preprocessing.size)[1]:
        return None
    if ctx.preprocessing.size == ctx.info.input_size:
        return model_info(ctx.info.name).macs
    from mindvit.benchmark.census import census

    counted = census(ctx.info.name, size=ctx.preprocessing.size)
    return sum(counted.macs.values()) + counted.saved


def number_of_classes(recipe: Recipe) -> int:
    """As many as the recipe says, as its data set has, if that ships, or as the published network."""
    if recipe.model.num_classes:
        return recipe.model.num_classes
    if recipe.data.dataset in SHIPPED:
        return len(task_of(recipe).datasets(recipe, None, console.log_info)[0].class_names)
    return getattr(network_info(recipe.model.model), "num_classes", CLASSES)


def measure(job: Job) -> dict[str, Any]:
    """The row of one network, COLUMNS; UserError for what the user can mend."""
    given = schema.build(job.values, job.origins)
    given = task_of(given).resolve(given)
    ctx = setup(given, NoImages(number_of_classes(given)))
    subject = SUBJECTS[job.mode](ctx)
    seconds = compiled(subject, ctx, job.compile_cache)
    row = {
        **dict.fromkeys(COLUMNS),
        **circumstances(ctx, job),
        "params (M)": round(subject.params / 1e6, 2),
        "graph compile": round(seconds, 2),
    }
    if job.compile_only:
        return row
    timing = time_steps(
        subject.step,
        lambda output: output.asnumpy(),
        images=subject.images,
        warmup=job.warmup,
        steps=job.steps,
        queued=ctx.device.target != "CPU",
    )
    if not np.isfinite(subject.step().asnumpy()).all():
        raise UserError(
            f"{ctx.info.name}: the outputs are NaN or infinite after {job.steps} steps: figures of such a "
            "run mean nothing"
        )
    memory = device.memory(ctx.device.target).split(" of ")[0]
    if job.profile and ctx.device.is_main:
        console.log_info(profile_table(profile(subject.step, ctx.device.target)))
    rates = distributed.total((timing.rate, timing.sustained), ctx.device.ranks)
    return {**row, **speed(timing, rates, ctx, job.mode), "peak memory": memory}


def speed(timing: Timing, rates: np.ndarray, ctx: RunContext, mode: str) -> dict[str, Any]:
    """The figures of a timing; `rates` are images a second over all ranks, at the median and sustained."""
    chosen = ctx.device
    half = chosen.half if (chosen.amp_level if mode == "train" else chosen.val_amp_level) != "O0" else None
    peak, macs = peak_flops(half), multiply_adds(ctx, mode)
    total = float(rates[0])
    row = {
        "ms/step": round(timing.ms, 2),
        "p90 ms": round(timing.p90, 2),
        "img/s": round(total, 2),
        "img/s per device": round(total / chosen.ranks, 2),
        "sustained img/s": round(float(rates[1]), 2),
        "peak GFLOP/s": round(peak / 1e9, 1),
    }
    if macs is None:
        return row
    reached = flops(macs, total / chosen.ranks, mode)
    return {
        **row,
        "multiply-adds (G)": round(macs / 1e9, 3),
        "GFLOP/s per device": round(reached / 1e9, 1),
        "share of peak": round(reached / peak, 4),
    }


def circumstances(ctx: RunContext, job: Job) -> dict[str, Any]:
    """What was measured, on what and how."""
    chosen, given = ctx.device, ctx.recipe
    level = chosen.amp_level if job.mode == "train" else chosen.val_amp_level
    return {
        "model": ctx.info.name,
        "mode": job.mode,
        "devices": f"{chosen.ranks} x {chosen.target}",
        "batch size": given.data.batch_size,
        "resolution": "x".join(map(str, image_sides(ctx))),
        "jit level": chosen.running_level,
        "precision": f"{level} {chosen.dtype if level != 'O0' else 'float32'}",
        "warm-up": job.warmup,
        "steps": job.steps,
        "mindspore": ms.__version__,
        "mindvit": __version__,
        "machine": device.machine(),
        "date": datetime.date.today().isoformat(),
    }


def main(arguments: Sequence[str]) -> None:
    """Measure the job in the file `arguments[0]` and leave the row, or {'error': why}, in its place."""
    path = Path(arguments[0])
    job = Job(**json.loads(path.read_text(encoding="utf-8")))
    try:
        with hints_for(options()):
            row = measure(job)
    except Exception as error:
        path.write_text(json.dumps({"error": first_line(error)}), encoding="utf-8")
        if not isinstance(error, UserError):
            raise
        sys.exit(error.exit_code)
    path.write_text(json.dumps(row), encoding="utf-8")


def first_line(error: BaseException) -> str:
    """What went wrong, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, UserError) and lines:
        return lines[0]
    return ": ".join([type(error).__name__, *lines[:1]])


def as_json(job: Job) -> str:
    """A job as `main` reads it."""
    return json.dumps(dataclasses.asdict(job))


if __name__ == "__main__":
    main(sys.argv[1:])
