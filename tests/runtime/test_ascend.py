"""What an NPU would be asked to do: its operators are replaced by plain ones here that note how they were called."""

from __future__ import annotations

from typing import Any, Callable, Iterator

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from small import inputs_of, small

from mindvit.errors import UserError
from mindvit.layers.attention import SelfAttention
from mindvit.layers.flash import FlashAttention, flash_attention
from mindvit.layers.precision import set_precision
from mindvit.layers.recompute import set_recompute
from mindvit.models import cvt
from mindvit.recipe.options import PrecisionOptions, RuntimeOptions
from mindvit.runtime import device, platform
from mindvit.visualization.attention import record_attention

Call = dict[str, Any]
NPU = platform.of("Ascend", "Ascend910B3", "O2")  # at O1 and O0 other operators, too, which no CPU has
ROUNDING = 2e-3  # of float16, which is what CPUs have products in outside graphs


@pytest.fixture(name="calls")
def _calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Call]]:
    """A device that has the operator, which is a plain one with the same rules."""
    noted: list[Call] = []

    def flash(
        query: Tensor, key: Tensor, value: Tensor, head_num: int, scalar_value: float = 1.0, input_layout: str = "BSH"
    ) -> Tensor:
        batch, tokens, channels = query.shape
        assert input_layout == "BSH" and key.shape == value.shape == (batch, key.shape[1], channels)
        assert (
            query.dtype == key.dtype == value.dtype
            and query.dtype in (ms.float16, ms.bfloat16)
            and channels // head_num % 16 == 0
        )
        noted.append(
            {
                "query": query.shape,
                "key": key.shape,
                "head_num": head_num,
                "scalar_value": scalar_value,
                "dtype": query.dtype,
            }
        )
        q, k, v = (
            x.astype(ms.float32).reshape(batch, -1, head_num, channels // head_num).transpose(0, 2, 1, 3)
            for x in (query, key, value)
        )
        weights = ops.softmax(ops.matmul(q, k.transpose(0, 1, 3, 2)) * scalar_value, -1)
        return ops.matmul(weights, v).transpose(0, 2, 1, 3).reshape(batch, tokens, channels).astype(query.dtype)

    monkeypatch.setattr(ops, "flash_attention_score", flash)
    with platform.use(NPU):
        yield noted


@pytest.fixture(name="uncompiled")
def _uncompiled() -> Any:
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


def without(cell: nn.Cell, run: Callable[[], Tensor]) -> np.ndarray:
    """What `run` gives when the cell's attention is done in plain operators."""
    flash, cell.flash = cell.flash, None
    try:
        return run().astype(ms.float32).asnumpy()
    finally:
        cell.flash = flash


def close(ours: Tensor, reference: np.ndarray) -> bool:
    values = ours.astype(ms.float32).asnumpy()
    return values.shape == reference.shape and bool(
        np.abs(values - reference).max() < ROUNDING * np.abs(reference).max()
    )


@pytest.mark.usefixtures("uncompiled")
def test_self_attention_in_half_precision_is_one_operator(calls: list[Call]) -> None:
    ms.set_seed(1)
    cell = SelfAttention(64, 4, 0.0, 0.0)
    cell.qkv.weight.set_data(cell.qkv.weight * 20)
    set_precision(cell, "O2", ms.float16)
    x = Tensor(np.random.default_rng(2).standard_normal((2 * 7, 64)), ms.float32)
    found = cell(x, 2)
    assert calls == [{"query": (2, 7, 64), "key": (2, 7, 64), "head_num": 4, "scalar_value": 0.25, "dtype": ms.float16}]
    assert close(found, without(cell, lambda: cell(x, 2))) and len(calls) == 1


@pytest.mark.usefixtures("uncompiled")
def test_cvt_attends_to_fewer_keys_with_its_own_scale(calls: list[Call]) -> None:
    ms.set_seed(1)
    cell = cvt.Attention(32, 2, True, 0.0, 0.0).set_train(False)
    for linear in (cell.proj_q, cell.proj_k, cell.proj_v):
        linear.weight.set_data(linear.weight * 20)
    set_precision(cell, "O2", ms.float16)
    x = Tensor(np.random.default_rng(2).standard_normal((2 * 17, 32)), ms.float32)
    found, token = cell(x, 2, (4, 4)), cell(x, 2, (4, 4), True)
    common = {"key": (2, 5, 32), "head_num": 2, "scalar_value": 32**-0.5, "dtype": ms.float16}
    assert calls == [{"query": (2, 17, 32), **common}, {"query": (2, 1, 32), **common}]
    assert close(found, without(cell, lambda: cell(x, 2, (4, 4)))) and token.shape == (2, 32)


@pytest.mark.parametrize(
    "build", [lambda: SelfAttention(64, 4, 0.0, 0.0), lambda: cvt.Attention(64, 4, False, 0.0, 0.0)]
)
def test_graphs_have_it_in_half_precision_alone(
    calls: list[Call], monkeypatch: pytest.MonkeyPatch, build: Callable[[], Any]
) -> None:
    def nothing(
        query: Tensor, key: Tensor, value: Tensor, head_num: int, scalar_value: float = 1.0, input_layout: str = "BSH"
    ) -> Tensor:
        return ops.zeros_like(query)

    monkeypatch.setattr(ops, "flash_attention_score", nothing)
    x = Tensor(np.random.default_rng(2).standard_normal((2 * 16, 64)), ms.float32)
    for level, has_it in (("O0", False), ("O1", True)):
        cell = build()
        set_precision(cell, level, ms.float16)
        arguments = (x, 2, (4, 4)) if isinstance(cell, cvt.Attention) else (x, 2)
        assert (not cell(*arguments).asnumpy().any()) is has_it


def flash_cells(net: nn.Cell) -> int:
    return sum(isinstance(cell, FlashAttention) for _, cell in net.cells_and_names())


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("family, count", [("crossvit", 6), ("cvt", 4), ("crossformer", 0), ("xcit", 0)])
def test_which_attentions_can_be_one_operator(family: str, count: int) -> None:
    assert flash_cells(small(family)) == count
    assert flash_cells(small(family, attn_drop_rate=0.1)) == 0  # its mask would have to be drawn


def test_heads_of_another_size_and_devices_without_it_keep_plain_operators() -> None:
    assert not flash_cells(small("cvt"))
    with platform.use(NPU):
        assert all(flash_attention(depth, 1, 1.0, 0.0) for depth in (64, 16, 512))
        assert not any(flash_attention(depth, 1, 1.0, 0.0) for depth in (24, 528))


@pytest.mark.parametrize("family", ["crossvit", "cvt"])
def test_maps_of_attention_see_all_weights(calls: list[Call], family: str) -> None:
    net = small(family).set_train(False)
    set_precision(net, "O1", ms.float16)
    before = flash_cells(net)
    with record_attention(net) as weights:
        net(inputs_of(family))
    assert not calls and len(weights) >= before > 0 and flash_cells(net) == before
    assert all(np.allclose(found.sum(-1), 1, atol=1e-5) for found in weights.values())


def test_mindspore_recomputes_whole_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    with platform.use(NPU):
        nets = {family: small(family) for family in ("crossformer", "xcit")}
    chosen: list[nn.Cell] = []
    monkeypatch.setattr(ms, "get_context", {"device_target": "Ascend"}.get)
    monkeypatch.setattr(nn.Cell, "recompute", lambda self: chosen.append(self))
    set_recompute(nets["crossformer"])
    assert chosen == [block for stage in nets["crossformer"].layers for block in stage.blocks]
    with pytest.raises(UserError, match="blocks have batch normalization or dropout"):
        set_recompute(nets["xcit"])


CHIPS = [
    ("Ascend910B3", True),
    ("Ascend910B2C", True),
    ("Ascend910B4-1", True),
    ("Ascend910_9391", True),
    ("Ascend910A", False),
    ("Ascend910B", False),
    ("Ascend910ProB", False),
    ("Ascend910PremiumA", False),
    ("Ascend310P3", False),
    ("", False),
]


@pytest.mark.parametrize("name, has_it", CHIPS)
def test_the_second_generation_has_it(name: str, has_it: bool) -> None:
    assert platform.of("Ascend", name).flash_attention is has_it
    assert not platform.of("CPU", name).flash_attention


def test_a_chip_that_does_not_say_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> str:
        raise RuntimeError("no driver")

    assert platform.chip.__wrapped__() == ""  # type: ignore[attr-defined]
    monkeypatch.setattr(ms, "get_context", {"device_target": "Ascend", "device_id": 3}.get)
    for hal, name in ((fail, ""), (lambda number: f"Ascend910B{number}", "Ascend910B3")):
        monkeypatch.setattr(ms.hal, "get_device_name", hal)
        assert platform.chip.__wrapped__() == name  # type: ignore[attr-defined]


def test_exported_networks_hold_none() -> None:
    with platform.use(NPU):
        assert flash_cells(small("cvt")) == 4
        assert flash_cells(small("cvt", for_platform=platform.PORTABLE)) == 0
        assert platform.current() is NPU


def test_an_npu_gets_its_graph_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(device, "choose_target", lambda wanted: ("Ascend", ""))
    monkeypatch.setattr(ms, "set_context", lambda **options: told.update(options))
    found, _ = device.set_up(RuntimeOptions(distribute=False), PrecisionOptions())
    assert told["jit_config"] == {"jit_level": "O2"} and found.jit_level == "O2" and told["mode"] == ms.GRAPH_MODE
