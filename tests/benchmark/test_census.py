"""The census: operators and multiply-adds of graphs that were counted by hand, and of the networks beside the
registry.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Optional

import mindspore as ms
import numpy as np
import pytest
from golden import VARIANTS
from mindspore import Parameter, Tensor, nn, ops

from mindvit.benchmark.census import Graph, census, names
from mindvit.cli.census import main
from mindvit.errors import UserError
from mindvit.layers.linear import Linear
from mindvit.layers.norm import LayerNorm
from mindvit.models import list_models, model_info, registry
from mindvit.models.network import Feature, Network
from mindvit.runtime import platform

FAMILIES = sorted({model_info(name).family for name in list_models()})
SMALLEST = [
    min((info for info in map(model_info, list_models()) if info.family == family), key=lambda info: info.macs).name
    for family in FAMILIES
]


def weight(*shape: int) -> Parameter:
    return Parameter(Tensor(np.ones(shape, np.float32)))


def graph(cell: nn.Cell, *shapes: tuple[int, ...]) -> Graph:
    return Graph(cell.set_train(False), *(ops.ones(shape, ms.float32) for shape in shapes))


def found(counted: Graph) -> dict[str, int]:
    """Only what is there."""
    return {kind: count for kind, count in counted.counts().items() if count}


class Tiny(nn.Cell):
    """(2, 3, 8, 8) -> (2, 16, 16): a convolution, a depth-wise one, two linear layers, scores."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.depthwise = weight(4, 3, 3, 3), weight(4, 1, 3, 3)
        self.first, self.second = weight(6, 4), weight(5, 6)
        self.convolve = ops.Conv2D(4, 3, pad_mode="pad", pad=1, stride=2)
        self.convolve_each = ops.Conv2D(4, 3, pad_mode="pad", pad=1, group=4)
        self.product, self.product_t = ops.MatMul(), ops.MatMul(transpose_b=True)
        self.dense = ops.Dense()
        self.scores = ops.BatchMatMul(transpose_b=True)

    def construct(self, x: Tensor) -> Tensor:
        x = self.convolve_each(self.convolve(x, self.kernel), self.depthwise)  # 2 4 4 4
        x = self.product_t(x.transpose(0, 2, 3, 1).reshape(32, 4), self.first)  # 32 6
        x = self.dense(ops.relu(x), self.second).reshape(2, 16, 5)
        return self.scores(x, x)


class Constants(nn.Cell):
    """Products of the image, and of a weight, with a constant. x: (6, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.average = Tensor(np.full((10, 1), 0.1, np.float32))
        self.table = Tensor(np.ones((6, 7), np.float32))
        self.weight = weight(3, 6)
        self.product, self.product_both = ops.MatMul(), ops.MatMul(transpose_a=True, transpose_b=True)

    def construct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.product(x, self.average), self.product_both(self.table, self.weight)


class Chain(nn.Cell):
    """The same few operators `blocks` times, and `calls` times the whole of it. x: (4, 4)."""

    def __init__(self, blocks: int, calls: int = 1):
        super().__init__()
        self.blocks = nn.CellList([nn.Dense(4, 4, has_bias=False, activation="relu") for _ in range(blocks)])
        self.calls = calls

    def construct(self, x: Tensor) -> Tensor:
        for _ in range(self.calls):
            for block in self.blocks:
                x = block(x).transpose(1, 0)
        return x


class Branches(nn.Cell):
    """A choice that only the tensor's value decides."""

    def construct(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return ops.exp(x)
        return ops.erf(x)


def test_operators_and_multiply_adds_of_a_network_counted_by_hand() -> None:
    counted = graph(Tiny(), (2, 3, 8, 8))
    assert found(counted) == {
        "Reshape": 2,
        "Transpose": 1,
        "Conv2D": 2,
        "BatchMatMul": 1,
        "Dense": 1,
        "MatMul": 1,
        "ReLU": 1,
    }
    assert list(counted.counts()) == [
        "Reshape",
        "Transpose",
        "StridedSlice",
        "Split",
        "Concat",
        "Conv2D",
        "BatchMatMul",
        "Dense",
        "MatMul",
        "ReLU",
    ]
    assert counted.multiply_adds() == {
        "convolution": (2 * 4 * 4 * 4) * (3 * 3 * 3) + (2 * 4 * 4 * 4) * (3 * 3),
        "linear": 32 * 4 * 6 + 32 * 6 * 5,
        "attention": 2 * 16 * 16 * 5,
    }
    assert counted.compile_seconds > 0


def test_a_constant_times_the_image_does_not_count_but_times_a_weight_does() -> None:
    counted = graph(Constants(), (6, 10))
    assert found(counted)["MatMul"] == 2
    assert counted.multiply_adds() == {"convolution": 0, "linear": 7 * 6 * 3, "attention": 0}


def test_every_block_and_every_call_is_counted_once() -> None:
    one, many, called = (found(graph(Chain(*sizes), (4, 4))) for sizes in ((1,), (3,), (3, 2)))
    assert one["Transpose"] == one["ReLU"] == 1
    assert many == {kind: 3 * count for kind, count in one.items()} and called == {
        kind: 6 * count for kind, count in one.items()
    }


def test_a_graph_that_hides_operators_in_another_is_refused() -> None:
    with pytest.raises(RuntimeError, match="the graph of Branches calls other graphs"):
        graph(Branches(), (2, 3))


def test_cells_take_the_form_of_an_npu_only_inside() -> None:
    with pytest.raises(KeyError), platform.use(platform.PORTABLE):
        inside = Linear(8, 8)
        raise KeyError
    assert "Custom" not in found(graph(inside, (4, 8))) and "Custom" in found(
        graph(Linear(8, 8), (4, 8))
    )  # a kernel of ours, for CPUs


@pytest.mark.parametrize("name", sorted({*SMALLEST, "crossvit_9"}))
def test_multiply_adds_are_those_of_the_registry(name: str) -> None:
    counted = census(name)
    assert counted.published == model_info(name).macs
    assert abs(counted.deviation) < 0.1, counted
    assert counted.macs["convolution"] == pytest.approx(
        VARIANTS[name]["measured"]["macs"]["conv"], rel=0.005
    )  # CvT leaves out 0.3 %


class Small(Network):
    """A linear layer on all pixels of a 4 x 4 image; where the published form would need 100 multiply-adds more."""

    def __init__(self, num_classes: int, in_channels: int, drop_path_rate: float):
        super().__init__(num_classes, [Feature("norm", 8, 4)])
        self.embed = Linear(in_channels * 4 * 4, 8)
        self.norm = LayerNorm(8, 1e-6)
        self.head = self.new_head(num_classes)

    def saved_multiply_adds(self, size: int) -> int:
        return 25 * size

    def forward_features(self, x: Tensor, kept: Optional[Tensor] = None) -> Tensor:
        return self.norm(self.embed(x[:, :, :4, :4].reshape(x.shape[0], -1)))


SMALL_MACS = 3 * 4 * 4 * 8 + 8 * 1000


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> str:
    """A network that compiles in no time, in the registry for a while."""
    info = dataclasses.replace(
        model_info("crossvit_9"), name="small", input_size=4, macs=SMALL_MACS + 100, aliases=("little",)
    )
    monkeypatch.setitem(registry._entries, "small", registry.Entry(info, Small, {}))
    for name in ("small", "little"):
        monkeypatch.setitem(registry._aliases, name, "small")
    return "small"


def test_the_form_is_an_npus_unless_asked_otherwise(small: str) -> None:
    assert not census(small).counts.get("Custom") and census(small, as_run=True).counts["Custom"] > 0


def test_what_the_published_form_needs_beyond_the_graph_is_added(small: str) -> None:
    counted = census(small)
    assert (
        sum(counted.macs.values()) == counted.macs["linear"] == SMALL_MACS
        and counted.saved == 100
        and counted.deviation == 0
    )
    larger = census(small, size=8)
    assert larger.saved == 200 and larger.published is None


def test_the_training_step_holds_its_gradient_and_its_optimiser(small: str) -> None:
    counted = census(small, train=True)
    assert counted.graph == "train step" and not counted.macs
    assert counted.counts["AdamWeightDecay"] == counted.counts["L2Loss"] == 6  # parameters
    assert counted.counts["LayerNormGrad"] == counted.counts["LayerNorm"] == 1


def test_the_command_prints_both_tables_and_keeps_them(
    small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["sma*", "little", "--train", "--out", str(tmp_path / "kept" / "census.md")])
    text = capsys.readouterr().out
    assert (tmp_path / "kept" / "census.md").read_text("utf-8") == text
    forward, train, macs = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| small")
    )
    counts = census(small).counts
    assert forward[1] == "forward" and train[1] == "train step"
    assert forward[3:9] == [str(count) for count in (sum(counts.values()), *list(counts.values())[:5])] and forward[
        9
    ].endswith("LayerNorm 1")
    assert macs[1:] == ["4", "0.00", "0.01", "0.00", "0.01", "0.01", "0.01", "+0.000"]
    main(["small", "--size", "8"])
    row = capsys.readouterr().out.splitlines()[-3].split("|")
    assert row[2].strip() == "8" and not row[-2].strip()


def test_names_aliases_and_patterns_mean_each_network_once() -> None:
    assert names(["crossvit_9", "crossvit_9*", "crossvit_9_240"]) == ["crossvit_9", "crossvit_9_dagger"]


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="images of 0 px, but its small-patch branch takes multiples of 12"):
        census("crossvit_9", size=0)


@pytest.mark.parametrize(
    "arguments, says",
    [(["crosvit_9"], "unknown model 'crosvit_9'; did you mean"), ([], "the following arguments are required: MODEL")],
)
def test_a_mistake_is_one_line(arguments: list[str], says: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "mindvit.cli.census", *arguments],
        cwd=Path(__file__).parents[2],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 2 and says in run.stderr and len(run.stderr.splitlines()) == 1, run.stderr
