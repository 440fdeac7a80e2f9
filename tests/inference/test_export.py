"""Networks as MindIR and ONNX files, loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import onnxruntime
import pytest
from mindspore import Tensor, nn
from small import SIDE, SMALL, inputs_of, small

from mindvit.cli import export as tool
from mindvit.errors import UserError
from mindvit.inference import export as exporting
from mindvit.inference.export import ExportError, export
from mindvit.inference.onnx import Writer
from mindvit.runtime import platform


@pytest.fixture(scope="module", params=SMALL)
def network(request: pytest.FixtureRequest) -> tuple[str, nn.Cell]:
    with platform.use(platform.PORTABLE):
        return request.param, small(request.param, drop_path_rate=0.0).set_train(False)


def test_onnx_of_any_batch(network: tuple[str, nn.Cell], tmp_path: Path) -> None:
    (family, net), path = network, tmp_path / "a.onnx"
    found = export(net, 3, (SIDE[family],) * 2, "ONNX", path, None)
    assert (
        found.deviation < 1e-5
        and found.batches == (1, 3, 4)
        and [item.name for item in tmp_path.iterdir()] == ["a.onnx"]
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = inputs_of(family)
    assert (
        np.abs(session.run(None, {session.get_inputs()[0].name: images.asnumpy()})[0] - net(images).asnumpy()).max()
        < 1e-5
    )


def test_mindir(network: tuple[str, nn.Cell], tmp_path: Path) -> None:
    (family, net), path = network, tmp_path / "a.mindir"
    batch = 2 if family in ("cvt", "crossformer") else None
    assert export(net, 3, (SIDE[family],) * 2, "MINDIR", path, batch).deviation < 1e-5
    images = inputs_of(family)
    assert np.abs(nn.GraphCell(ms.load(str(path)))(images).asnumpy() - net(images).asnumpy()).max() < 1e-5
    assert [item.name for item in tmp_path.iterdir()] == ["a.mindir"]


@pytest.mark.parametrize("network", ["xcit"], indirect=True)
def test_onnx_of_one_batch(network: tuple[str, nn.Cell], tmp_path: Path) -> None:
    assert export(network[1], 3, (SIDE["xcit"],) * 2, "ONNX", tmp_path / "a.onnx", 2).deviation < 1e-5


class Plain(nn.Cell):
    def __init__(self, operator: Any):
        super().__init__()
        self.operator = operator

    def construct(self, x: Tensor) -> Tensor:
        return self.operator(x)


def test_operators_that_cant_be_exported_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="operators that can't be exported to ONNX: Sin .--format MINDIR"):
        export(Plain(ms.ops.Sin()), 3, (4, 4), "ONNX", tmp_path / "a.onnx", 1)
    assert not list(tmp_path.iterdir())


def test_conversions(tmp_path: Path) -> None:
    def whole_tenths(x: Tensor) -> Tensor:
        return (10 * x).astype(ms.int32).astype(ms.float32) * x

    assert export(Plain(whole_tenths), 3, (4, 4), "ONNX", tmp_path / "a.onnx", None).deviation < 1e-6


def test_a_file_that_computes_something_else_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Writer, "op_Rsqrt", lambda self, node, x: self.emit("Sqrt", [x]))
    with pytest.raises(ExportError, match="not written: what the file computes is .* off the network") as caught:
        export(Plain(ms.ops.Rsqrt()), 3, (4, 4), "ONNX", tmp_path / "a.onnx", 1)
    assert caught.value.exit_code == 1 and not list(tmp_path.iterdir())
    monkeypatch.setattr(Writer, "op_Rsqrt", lambda self, node, x: self.emit("NoSuchThing", [x]))
    with pytest.raises(ExportError, match="onnxruntime can't run it"):
        export(Plain(ms.ops.Rsqrt()), 3, (4, 4), "ONNX", tmp_path / "a.onnx", 1)
    assert not list(tmp_path.iterdir())


def refused(*arguments: object) -> str:
    with pytest.raises(UserError) as caught:
        tool.main([str(argument) for argument in arguments])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx, mindir = (
        ("--format", "ONNX", "--out", tmp_path / "a.onnx"),
        ("--format", "MINDIR", "--out", tmp_path / "a.mindir"),
    )
    assert "accepted are MINDIR, ONNX" in refused("--format", "TFLITE", "--out", "a.tflite")
    assert "must have a name in .mindir" in refused("--format", "MINDIR", "--out", tmp_path / "a.onnx")
    assert "can't be written" in refused("--format", "MINDIR", "--out", "/proc/none/a.mindir")
    assert "at least 1, or dynamic" in refused(*onnx, "--batch_size", "0")
    assert "which network" in refused(*mindir)
    assert "unknown model" in refused(*mindir, "--model", "cvt")
    assert "no file with weights" in refused(*mindir, "--model", "cvt_13_224", "--ckpt_path", tmp_path / "a.ckpt")
    assert "multiples of 32" in refused(*mindir, "--model", "crossformer_tiny", "--size", "100")
    real = __import__
    monkeypatch.setattr(
        "builtins.__import__",
        lambda name, *others, **more: real("no_such_module" if name == "onnxruntime" else name, *others, **more),
    )
    assert "needs the package onnxruntime, which is not installed: pip install -r requirements-onnx.txt" in refused(
        *onnx, "--model", "cvt_13_224"
    )
    assert not list(tmp_path.iterdir()) and exporting.FORMATS.keys() == {"MINDIR", "ONNX"}
