"""Networks as MindIR and ONNX files, loaded again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import onnxruntime
import pytest
from mindspore import Tensor, nn
from mindspore.train.mind_ir_pb2 import ModelProto
from PIL import Image
from small import SIDE, SMALL, inputs_of, small

import mindvit
from mindvit.cli import export as tool
from mindvit.engine import checkpoint
from mindvit.errors import UserError
from mindvit.inference import export as exporting
from mindvit.inference.export import ExportError, export
from mindvit.inference.onnx import Writer
from mindvit.inference.snippet import metadata, snippet
from mindvit.runtime import platform

NAMES = ["apple", "bear", "cherry tree", "Hund", "猫"]
CONTENT = {"task": "classification", "label_names": NAMES, "mean": [0.4, 0.5, 0.6], "crop_pct": 0.875}


@pytest.fixture(scope="module", params=SMALL)
def network(request: pytest.FixtureRequest) -> tuple[str, nn.Cell]:
    with platform.use(platform.PORTABLE):
        return request.param, small(request.param, drop_path_rate=0.0).set_train(False)


def test_onnx_of_any_batch(network: tuple[str, nn.Cell], tmp_path: Path) -> None:
    (family, net), path = network, tmp_path / "a.onnx"
    found = export(net, (3, SIDE[family], SIDE[family]), "ONNX", path, None, metadata(CONTENT))
    assert (
        found.deviation < 1e-5
        and found.batches == (1, 3, 4)
        and [item.name for item in tmp_path.iterdir()] == ["a.onnx"]
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    assert {key: json.loads(value) for key, value in told.items()} == CONTENT
    images = inputs_of(family)
    assert (
        np.abs(session.run(None, {session.get_inputs()[0].name: images.asnumpy()})[0] - net(images).asnumpy()).max()
        < 1e-5
    )


def test_mindir(network: tuple[str, nn.Cell], tmp_path: Path) -> None:
    (family, net), path = network, tmp_path / "a.mindir"
    batch = 2 if family in ("cvt", "crossformer") else None
    found = export(net, (3, SIDE[family], SIDE[family]), "MINDIR", path, batch, metadata(CONTENT))
    assert found.deviation < 1e-5
    told = ModelProto.FromString(path.read_bytes()).user_info
    assert {key: json.loads(value) for key, value in told.items()} == CONTENT
    images = inputs_of(family)
    assert np.abs(nn.GraphCell(ms.load(str(path)))(images).asnumpy() - net(images).asnumpy()).max() < 1e-5
    assert [item.name for item in tmp_path.iterdir()] == ["a.mindir"]


@pytest.mark.parametrize("network", ["xcit"], indirect=True)
def test_onnx_of_one_batch(network: tuple[str, nn.Cell], tmp_path: Path) -> None:
    assert export(network[1], (3, SIDE["xcit"], SIDE["xcit"]), "ONNX", tmp_path / "a.onnx", 2).deviation < 1e-5


class Plain(nn.Cell):
    def __init__(self, operator: Any):
        super().__init__()
        self.operator = operator

    def construct(self, x: Tensor) -> Tensor:
        return self.operator(x)


def test_operators_that_cant_be_exported_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="operators that can't be exported to ONNX: Sin .--format MINDIR"):
        export(Plain(ms.ops.Sin()), (3, 4, 4), "ONNX", tmp_path / "a.onnx", 1)
    assert not list(tmp_path.iterdir())


def test_conversions(tmp_path: Path) -> None:
    def whole_tenths(x: Tensor) -> Tensor:
        return (10 * x).astype(ms.int32).astype(ms.float32) * x

    assert export(Plain(whole_tenths), (3, 4, 4), "ONNX", tmp_path / "a.onnx", None).deviation < 1e-6


def test_a_file_that_computes_something_else_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Writer, "op_Rsqrt", lambda self, node, x: self.emit("Sqrt", [x]))
    with pytest.raises(ExportError, match="not written: what the file computes is .* off the network") as caught:
        export(Plain(ms.ops.Rsqrt()), (3, 4, 4), "ONNX", tmp_path / "a.onnx", 1)
    assert caught.value.exit_code == 1 and not list(tmp_path.iterdir())
    monkeypatch.setattr(Writer, "op_Rsqrt", lambda self, node, x: self.emit("NoSuchThing", [x]))
    with pytest.raises(ExportError, match="onnxruntime can't run it"):
        export(Plain(ms.ops.Rsqrt()), (3, 4, 4), "ONNX", tmp_path / "a.onnx", 1)
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


def test_the_snippet_answers_as_the_predictor_does(
    small_networks: None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe = {"model": "small_xcit", "crop_pct": 0.7, "mean": [100, 110, 120], "std": [50, 51, 52]}
    meta = {"model": "small_xcit", "num_classes": 5, "class_names": NAMES, "recipe": recipe}
    weights = checkpoint.save(tmp_path / "a.ckpt", list(small("xcit").get_parameters()), meta)
    image, out = tmp_path / "image.jpg", tmp_path / "a.onnx"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (61, 47, 3), np.uint8)).save(image)
    tool.main(["--ckpt_path", str(weights), "--format", "ONNX", "--out", str(out)])
    printed = capsys.readouterr().out
    lines = printed[printed.index("import json") :]
    assert "mindvit" not in lines.replace(str(out), "") and len(lines.strip().splitlines()) <= 13
    assert answered(lines, tmp_path) == pytest.approx(
        dict(mindvit.Predictor(weights, device_target="CPU")(image)), abs=1e-4
    )


def answered(lines: str, folder: Path) -> dict[str, float]:
    """What a snippet prints in a process of its own: names and shares."""
    run = subprocess.run(
        [sys.executable, "-X", "utf8", "-I", "-c", lines], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    return {
        name: float(share.split()[0]) / 100 for name, share in (line.split("  ") for line in run.stdout.splitlines())
    }


def test_snippets_for_squashed_images_and_a_fixed_batch() -> None:
    content = {**CONTENT, "crop_mode": "squash"}
    assert "crop(" not in snippet(Path("a.onnx"), content)
    assert "x.repeat(4, 0)" in snippet(Path("a.onnx"), content, 4)
