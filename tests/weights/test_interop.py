"""Files that the real libraries wrote (tests/interop/write_files.py) in our networks; and ours for them. `make
test-interop` runs it all.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from golden import FOLDER, deviation, fill, logits
from mindspore import nn
from oracle import DETECTORS, PAIRS

from mindvit.cli import convert
from mindvit.models import create_model, model_info
from mindvit.weights import load_weights

pytestmark = pytest.mark.interop

FILES = Path(os.environ.get("MINDVIT_INTEROP", "interop"))
NETWORKS = [name for pair in PAIRS.values() for name in pair]
WRITTEN = {
    "crossvit": {"official", "timm", "paddlevit"},
    "cvt": {"official", "hf", "paddlevit"},
    "crossformer": {"official"},
    "xcit": {"official", "timm", "paddlevit"},
}
BACK = {
    "crossvit": ("timm", "pytorch", "paddlevit"),
    "cvt": ("hf", "pytorch", "paddlevit"),
    "crossformer": ("pytorch",),
    "xcit": ("timm", "pytorch", "paddlevit"),
}
TOLERANCE = 1e-4


def is_the_filling(net: nn.Cell, but: tuple[str, ...] = ()) -> bool:
    return all(
        np.array_equal(item.asnumpy(), fill.fill(item.name, item.shape))
        for item in net.get_parameters()
        if not item.name.startswith(but or ("\0",))
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_every_file_of_a_network(name: str, tmp_path: Path) -> None:
    family = model_info(name).family
    files = sorted(file for file in FILES.glob(f"*-{name}[-.]*") if not file.name.startswith("mm-"))
    assert {file.name.split("-")[0] for file in files} == WRITTEN[family], files
    golden = np.load(FOLDER / f"{name}.npz")
    net = create_model(name).set_train(False)
    for file in files:
        for parameter in net.get_parameters():
            parameter.set_data(parameter * 0)
        report = load_weights(net, file)
        assert is_the_filling(net) and not (report.missing or report.unexpected or report.differing or report.kept), (
            file
        )
        worst = deviation(logits(net, tuple(golden["input_size"])), golden["logits"])
        print(f"{file.name}: {worst:.1e}; {report}")
        assert worst < TOLERANCE, file
    convert.main([str(files[0]), "--model", name, "--out", str(tmp_path / "ours.ckpt")])
    assert is_the_filling(create_model(name, pretrained=tmp_path / "ours.ckpt"))
    for whose in BACK[family]:
        convert.main(
            [
                str(tmp_path / "ours.ckpt"),
                "--model",
                name,
                "--out",
                str(FILES / "back" / f"{whose}-{name}.safetensors"),
                "--to",
                whose,
            ]
        )


@pytest.mark.parametrize("name", DETECTORS)
def test_backbones_of_detectors(name: str) -> None:
    net = create_model(name, features_only=True, revision="iclr")
    report = load_weights(net, FILES / f"mm-{name}.pth")
    assert is_the_filling(net, ("norm.",)) and report.kept == ["norm.weight", "norm.bias"] and not report.unexpected
    assert any(item.startswith(("bbox_head.", "decode_head.")) for item in report.unused)


def test_the_average_of_the_weights() -> None:
    net = create_model("xcit_nano_12_p16_224")
    report = load_weights(net, FILES / "official-xcit_nano_12_p16_224-model.pth", take="model_ema")
    assert all(
        np.array_equal(item.asnumpy(), fill.fill(item.name, item.shape).astype(np.float16))
        for item in net.get_parameters()
    )
    assert "also there: model" in str(report) and len(report.converted) == len(report.loaded)
