"""mindvit convert."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from torchfile import save_torch

from mindvit.cli import convert
from mindvit.errors import UserError
from mindvit.models import create_model
from mindvit.version import __version__
from mindvit.weights import load_weights, names, read_weights

NAME = "xcit_nano_12_p16_224"


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        item.name: random.standard_normal(item.shape).astype(np.float32) for item in create_model(NAME).get_parameters()
    }


@pytest.fixture(scope="module")
def source(weights: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    theirs = names.outwards(weights, names.origin("timm", "xcit")).arrays
    return save_torch(
        tmp_path_factory.mktemp("source") / "released.pth",
        {"model": theirs, "model_ema": {"cls_token": weights["cls_token"]}},
    )


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_convert(
    weights: dict[str, np.ndarray], source: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / f"ours{suffix}"
    convert.main([str(source), "--model", NAME, "--out", str(out)])
    arrays, meta = read_weights(out)
    assert set(arrays) == set(weights) and all(np.array_equal(arrays[name], value) for name, value in weights.items())
    assert (meta["model"], meta["names"], meta["origin"], meta["format"], meta["source"], meta["mindvit"]) == (
        NAME,
        "mindvit",
        "timm",
        "PyTorch",
        "released.pth",
        __version__,
    )
    assert meta["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert (
        meta["report"]["loaded"] == len(weights)
        and len(meta["report"]["renamed"]) == 6
        and not meta["report"]["missing"]
    )
    printed = capsys.readouterr().out
    assert (
        f"{len(weights)} loaded; 6 renamed: " in printed
        and "also there: model_ema" in printed
        and printed.count("\n") == 1
    )
    assert [item.name for item in out.parent.iterdir()] == [out.name]
    report = load_weights(create_model(NAME), out)
    assert str(report) == f"{len(weights)} loaded"


@pytest.mark.parametrize("whose", ["timm", "pytorch", "paddlevit"])
def test_and_away_again(weights: dict[str, np.ndarray], source: Path, tmp_path: Path, whose: str) -> None:
    out = tmp_path / "theirs.safetensors"
    convert.main([str(source), "--model", NAME, "--out", str(out), "--to", whose])
    expected = names.outwards(weights, names.origin(whose, "xcit")).arrays
    with safe_open(str(out), framework="np") as content:
        assert set(content.keys()) == set(expected) and content.metadata()["format"] == "pt"
        assert all(np.array_equal(content.get_tensor(name), value) for name, value in expected.items())
    assert load_weights(create_model(NAME), out).origin == whose


def refused(*arguments: object) -> str:
    with pytest.raises(UserError) as caught:
        convert.main([str(argument) for argument in arguments])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mistakes_leave_no_file(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.ckpt"
    assert "must end in .ckpt or .safetensors" in refused(source, "--model", NAME, "--out", tmp_path / "a.pth")
    assert "no file with weights" in refused(tmp_path / "no.pth", "--model", NAME, "--out", out)
    assert "unknown model" in refused(source, "--model", "xcit", "--out", out)
    assert "but the network is crossvit_9" in refused(source, "--model", "crossvit_9", "--out", out)
    assert "must be one of mindvit, timm, paddlevit, pytorch" in refused(
        source, "--model", NAME, "--out", out, "--to", "hf"
    )
    assert "which those libraries read" in refused(source, "--model", NAME, "--out", out, "--to", "timm")
    assert "head has 1000 classes, those of ImageNet-1K" in refused(
        source, "--model", NAME, "--out", out, "--num_classes", 10
    )
    assert "missing" in refused(source, "--model", NAME, "--out", out, "--take", "model_ema")
    assert "can't be written" in refused(source, "--model", NAME, "--out", "/proc/none/a.safetensors")
    assert "can't be written" in refused(source, "--model", NAME, "--out", "/proc/none/a.ckpt")
    assert not list(tmp_path.iterdir())


def test_another_head_when_asked_for(source: Path, tmp_path: Path) -> None:
    convert.main(
        [str(source), "--model", NAME, "--out", str(tmp_path / "a.safetensors"), "--num_classes", "10", "--new_head"]
    )
    arrays, meta = read_weights(tmp_path / "a.safetensors")
    assert arrays["head.weight"].shape[0] == 10 and meta["report"]["kept"] == ["head.weight", "head.bias"]
