"""What a run on an NPU gets, by chip and by MindSpore's version: its context is recorded here, not set."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, communication, mint, nn, ops

from mindvit.engine import overflow
from mindvit.errors import UserError
from mindvit.layers.activation import GELU
from mindvit.layers.norm import BatchNorm, LayerNorm
from mindvit.optim.optimizers import SquareSum
from mindvit.recipe.options import PrecisionOptions, RuntimeOptions
from mindvit.runtime import ascend, console, device, platform

CHIPS = [
    ("Ascend910A", ascend.FIRST),
    ("Ascend910B", ascend.FIRST),
    ("Ascend910ProB", ascend.FIRST),
    ("Ascend910PremiumA", ascend.FIRST),
    ("Ascend910B3", ascend.A2),
    ("Ascend910B2C", ascend.A2),
    ("Ascend910B4-1", ascend.A2),
    ("Ascend910_9391", ascend.A3),
    ("Ascend310P3", 0),
    ("", 0),
]
MIXED = PrecisionOptions(amp_level="O2")
REFUSED = RuntimeError("The GE backend does not support this.\nC++ call stack")


class Machine:
    """An NPU of this name; what is set is noted."""

    def __init__(self, patch: pytest.MonkeyPatch, chip: str = "Ascend910B3", engine: bool = True, ranks: int = 1):
        self.context: dict[str, Any] = {"jit_config": {}}
        self.parallel: dict[str, Any] = {}
        self.modes: list[str] = []
        self.said: list[str] = []
        patch.setattr(device, "choose_target", lambda wanted: ("Ascend", ""))
        patch.setattr(device, "chip", lambda: chip)
        patch.setattr(ascend, "has_graph_engine", lambda: engine)
        patch.setattr(ascend, "jit_level", lambda: self.context["jit_config"].get("jit_level", ""))
        patch.setattr(ms, "get_context", lambda key: {"device_target": "Ascend"}[key])
        patch.setattr(ms, "set_context", lambda **options: self.context.update(options))
        patch.setattr(ms, "set_auto_parallel_context", lambda **options: self.parallel.update(options))
        patch.setattr(ms.device_context.ascend.op_precision, "precision_mode", self.modes.append)
        patch.setattr(console, "log_info", self.said.append)
        patch.setattr(device, "launched_ranks", lambda: (3 % ranks, ranks))
        for name, value in {"init": None, "get_rank": 3, "get_group_size": ranks, "get_local_rank_size": ranks}.items():
            patch.setattr(communication, name, lambda value=value: value)


@pytest.mark.parametrize("chip, generation", CHIPS)
def test_generations(chip: str, generation: int) -> None:
    assert ascend.generation(chip) == generation


@pytest.mark.parametrize("chip, generation", CHIPS)
def test_half_precision_of_a_chip(monkeypatch: pytest.MonkeyPatch, chip: str, generation: int) -> None:
    Machine(monkeypatch, chip)
    half = ms.bfloat16 if generation in (ascend.A2, ascend.A3) else ms.float16
    assert device.set_up(RuntimeOptions(), MIXED)[0].half == half
    assert device.set_up(RuntimeOptions(), PrecisionOptions())[0].half is None
    asked = device.set_up(RuntimeOptions(), PrecisionOptions(amp_level="O2", amp_type="float16"))[0]
    assert asked.half == ms.float16


def test_the_first_generation_has_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, "Ascend910A")
    with pytest.raises(UserError, match="amp_type is bfloat16, but Ascend910A .*: amp_type: float16, or auto") as end:
        device.set_up(RuntimeOptions(), PrecisionOptions(amp_level="O2", amp_type="bfloat16"))
    assert "\n" not in str(end.value)


@pytest.mark.parametrize("chip, generation", CHIPS)
def test_float16_saturates_on_the_first_generation(chip: str, generation: int) -> None:
    made = device.Device("Ascend", "O2", "O2", "O2", ms.float16, chip=chip)
    assert made.saturates is (generation == ascend.FIRST or not chip)
    assert not device.Device("Ascend", "O2", "O2", "O2", ms.bfloat16, chip=chip).saturates


def test_the_environment_makes_newer_chips_saturate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MS_ASCEND_CHECK_OVERFLOW_MODE", "SATURATION_MODE")
    assert ascend.keeps_overflow_flag("Ascend910B3")
    assert not ascend.keeps_overflow_flag("")


@pytest.mark.parametrize("chip, generation", CHIPS)
def test_auto_is_the_graph_engine(monkeypatch: pytest.MonkeyPatch, chip: str, generation: int) -> None:
    machine = Machine(monkeypatch, chip)
    chosen, line = device.set_up(RuntimeOptions(), MIXED)
    assert machine.context["jit_config"] == {"jit_level": "O2"}
    assert chosen.jit_level == chosen.running_level == "O2"
    assert chip in line


@pytest.mark.parametrize("chip, generation", CHIPS)
def test_auto_without_the_graph_engine(monkeypatch: pytest.MonkeyPatch, chip: str, generation: int) -> None:
    machine = Machine(monkeypatch, chip, engine=False)
    chosen, line = device.set_up(RuntimeOptions(), MIXED)
    assert machine.context["jit_config"] == {"jit_level": "O1"}
    assert f"jit level O1 (MindSpore {ms.__version__} has no graph engine)" in line
    assert chosen.jit_level == "O1"
    with pytest.raises(UserError, match="jit_level is O2, but MindSpore .* has no graph engine"):
        device.set_up(RuntimeOptions(jit_level="O2"), MIXED)
    assert device.set_up(RuntimeOptions(jit_level="O0"), MIXED)[0].jit_level == "O0"


def test_the_engine_is_looked_for_in_the_installed_mindspore(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ascend.has_graph_engine()  # of every version that is supported
    monkeypatch.setattr(ascend, "GRAPH_ENGINE", "lib/none.so")
    assert not ascend.has_graph_engine()


class Graph:
    """What refuses to be compiled at the first levels."""

    def __init__(self, *errors: Exception):
        self.errors = list(errors)
        self.tries = 0

    def __call__(self) -> None:
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)


def test_a_refused_graph_is_compiled_a_level_below(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    chosen, _ = device.set_up(RuntimeOptions(), MIXED)
    graph = Graph(REFUSED)
    ascend.compile_graph(graph)
    assert graph.tries == 2
    assert chosen.running_level == "O1"
    (line,) = machine.said
    assert line.startswith("note: jit level O1: O2 can't take this graph (The GE backend does not support this.)")


def test_o0_is_the_last_level(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    chosen, _ = device.set_up(RuntimeOptions(), MIXED)
    ascend.compile_graph(Graph(REFUSED, RuntimeError("Graph kernel fusion failed")))
    assert chosen.running_level == "O0"
    with pytest.raises(RuntimeError, match="does not support"):
        ascend.compile_graph(Graph(REFUSED))
    assert len(machine.said) == 2


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    device.set_up(RuntimeOptions(), MIXED)
    graph = Graph(RuntimeError("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        ascend.compile_graph(graph)
    assert (graph.tries, machine.said) == (1, [])


@pytest.mark.parametrize("chip, generation", CHIPS)
@pytest.mark.parametrize("level, val_level", [("O2", "O0"), ("O2", None), ("O0", None)])
def test_float32_products_stay_float32(
    monkeypatch: pytest.MonkeyPatch, chip: str, generation: int, level: str, val_level: str
) -> None:
    machine = Machine(monkeypatch, chip)
    options = PrecisionOptions(amp_level=level, val_amp_level=val_level)
    device.set_up(RuntimeOptions(), options)
    kept = generation == ascend.FIRST and "O0" in (level, val_level)
    assert machine.modes == ["must_keep_origin_dtype"] * kept
    device.set_up(RuntimeOptions(jit_level="O1"), options)
    assert len(machine.modes) == kept


def test_gradients_travel_together(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, ranks=8)
    chosen, line = device.set_up(RuntimeOptions(), MIXED)
    assert machine.parallel["comm_fusion"] == {"allreduce": {"mode": "size", "config": 100}}
    assert machine.parallel["device_num"] == chosen.ranks == 8
    assert line.startswith("device: 8 x Ascend (Ascend910B3, bfloat16, jit level O2)")
    machine.parallel.clear()
    device.join_ranks("CPU")
    assert "comm_fusion" not in machine.parallel


def test_a_simulation_needs_no_device_file(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(ms, "set_device", asked.append)
    monkeypatch.setattr("glob.glob", lambda pattern: [])
    with pytest.raises(UserError, match="no Ascend found"):
        device.choose_target("Ascend")
    monkeypatch.setenv("MS_SIMULATION_LEVEL", "1")
    assert device.choose_target("Ascend") == ("Ascend", "")
    assert device.choose_target("auto") == ("Ascend", "")
    assert asked == ["Ascend", "Ascend"]


def test_a_simulated_chip_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(number: int) -> str:
        raise ValueError("device_id must be less than device count: 0")

    monkeypatch.setattr(ms.hal, "get_device_name", fail)
    monkeypatch.setattr(ms, "get_context", {"device_target": "Ascend", "device_id": 0}.get)
    monkeypatch.setenv("MINDVIT_CHIP", "Ascend910_9391")
    assert platform.chip.__wrapped__() == ""  # type: ignore[attr-defined]  # no simulation: only the driver counts
    monkeypatch.setenv("MS_SIMULATION_LEVEL", "0")
    assert platform.chip.__wrapped__() == "Ascend910_9391"  # type: ignore[attr-defined]


@pytest.fixture(name="uncompiled")
def _uncompiled() -> Any:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


@pytest.mark.usefixtures("uncompiled")
def test_the_flag_is_taken_down_before_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    cleared: list[int] = []

    class Clear(nn.Cell):
        def construct(self, status: Tensor) -> Tensor:
            cleared.append(status.size)
            return status

    monkeypatch.setattr(overflow, "NPUClearFloatStatusV2", Clear)
    x = Tensor(np.arange(3.0), ms.float32)
    for chip, saturates, count in (("Ascend910A", True, 1), ("Ascend910A", False, 0), ("Ascend910B3", True, 0)):
        cleared.clear()
        with platform.use(platform.of("Ascend", chip)):
            flag = overflow.OverflowFlag(saturates)
        assert np.array_equal(flag.lower(x).asnumpy(), x.asnumpy())
        assert cleared == [8] * count


def test_direct_operators_are_the_newer_chips_outside_the_graph_engine() -> None:
    assert platform.of("Ascend", "Ascend910B3", "O1").direct_operators
    assert platform.of("Ascend", "Ascend910_9391", "O0").direct_operators
    assert not platform.of("Ascend", "Ascend910B3", "O2").direct_operators
    assert not platform.of("Ascend", "Ascend910A", "O1").direct_operators
    assert not platform.of("CPU", "", "O1").direct_operators


class Plain:
    """MindSpore's operators for NPUs in plain ones, which note that they were called."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.calls: list[str] = []
        for name in ("gelu", "layer_norm", "batch_norm"):
            patch.setattr(mint.nn.functional, name, getattr(self, name))

    def gelu(self, x: Tensor, approximate: str = "none") -> Tensor:
        assert approximate == "none"
        self.calls.append("gelu")
        return x * (ops.erf(x / 2**0.5) + 1) / 2

    def layer_norm(self, x: Tensor, shape: tuple[int, ...], weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        assert shape == weight.shape == (x.shape[-1],)
        self.calls.append("layer_norm")
        centred = x - x.mean(-1, keep_dims=True)
        return centred / ops.sqrt((centred**2).mean(-1, keep_dims=True) + eps) * weight + bias

    def batch_norm(
        self, x: Tensor, mean: Any, var: Any, weight: Tensor, bias: Tensor, training: bool, momentum: float, eps: float
    ) -> Tensor:
        self.calls.append("batch_norm")
        own, spread, count = mean, var, x.size // x.shape[1]
        if training:
            own = x.mean((0, 2, 3))
            spread = ((x - own.reshape(1, -1, 1, 1)) ** 2).mean((0, 2, 3))
            mean.set_data(mean * (1 - momentum) + own * momentum)
            var.set_data(var * (1 - momentum) + spread * (count / (count - 1)) * momentum)
        own, spread = own.reshape(1, -1, 1, 1), spread.reshape(1, -1, 1, 1)
        return (x - own) / ops.sqrt(spread + eps) * weight.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)


def on(chip: str, build: Any) -> Any:
    """A cell for an NPU at O1, or for plain operators."""
    with platform.use(platform.of("Ascend", chip, "O1") if chip else platform.PORTABLE):
        return build()


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    "build, name, training",
    [
        (GELU, "gelu", False),
        (lambda: LayerNorm(6, 1e-6), "layer_norm", True),
        (lambda: BatchNorm(3), "batch_norm", True),
        (lambda: BatchNorm(3), "batch_norm", False),
    ],
)
def test_direct_operators_give_the_same(monkeypatch: pytest.MonkeyPatch, build: Any, name: str, training: bool) -> None:
    plain = Plain(monkeypatch)
    x = Tensor(np.random.default_rng(0).standard_normal((2, 3, 5, 6)) * 3 + 1, ms.float32)
    found, reference = (on(chip, build).set_train(training) for chip in ("Ascend910B3", ""))
    ours, theirs = found(x), reference(x)
    assert plain.calls == [name]
    assert np.allclose(ours.asnumpy(), theirs.asnumpy(), atol=1e-5)
    for item, other in zip(found.get_parameters(), reference.get_parameters()):
        assert np.allclose(item.asnumpy(), other.asnumpy(), atol=1e-5), item.name


@pytest.mark.usefixtures("uncompiled")
def test_sum_of_squares_without_legacy_operators() -> None:
    arrays = [np.random.default_rng(size).standard_normal((size, 3)).astype(np.float32) for size in (1, 5, 7)]
    found = on("Ascend910B3", SquareSum)(tuple(map(Tensor, arrays)))
    assert abs(float(found.asnumpy()) / sum(float((array**2).sum()) for array in arrays) - 1) < 1e-6
