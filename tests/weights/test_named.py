"""Networks with published weights by name: what `pretrained` means in the library, in recipes and in commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import pytest
from image_files import make_data_dir, stripes
from launcher import msrun
from played_server import File, PlayedServer, serving
from small import small
from torchfile import save_torch

import mindvit
from mindvit.cli import export, predict, train, validate
from mindvit.errors import UserError
from mindvit.hub import cache, sources
from mindvit.hub.resolve import weights_file
from mindvit.hub.sources import Source
from mindvit.models import create_model
from mindvit.weights import WeightsError, names, read_weights
from mindvit.weights.named import load_named, read_named

pytestmark = pytest.mark.usefixtures("small_networks")

ROOT = Path(__file__).parents[2]
CLASSES = 1000
SHORT = "--epoch_size 1 --warmup_epochs 0 --lr 0 --min_lr 0 --val_while_train False --pretrained"
AUTHORS = "https://authors.org/small_xcit.pth"
ELSEWHERE = "https://elsewhere.org/small-xcit.pth"


def numbers(net: Any) -> dict[str, np.ndarray]:
    """Different ones in every tensor of a network, under the authors' names."""
    random = np.random.default_rng(5)
    return {item.name: random.random(item.shape).astype(np.float32) for item in net.get_parameters()}


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return numbers(small("xcit", num_classes=CLASSES))


@pytest.fixture(scope="module")
def others() -> dict[str, dict[str, np.ndarray]]:
    """The same of other networks, by name."""
    return {name: numbers(create_model(name, num_classes=CLASSES)) for name in ("nano", "small_cvt")}


@pytest.fixture
def server(
    weights: dict[str, np.ndarray],
    others: dict[str, dict[str, np.ndarray]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[PlayedServer]:
    """A mirror of what two projects have published of the small XCiT, and one each of the others."""
    mm = names.outwards(weights, names.origin("mmpretrain", "xcit")).arrays
    files = {
        AUTHORS: save_torch(tmp_path / "authors.pth", {"model": weights}),
        ELSEWHERE: save_torch(tmp_path / "mm.pth", {"state_dict": {f"backbone.{key}": mm[key] for key in mm}}),
        **{f"https://one.org/{name}.pth": save_torch(tmp_path / name, others[name]) for name in others},
    }
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv(cache.CACHE, str(tmp_path / "cache"))
    monkeypatch.delenv(cache.OFFLINE, raising=False)
    found = (
        Source("pytorch", AUTHORS, "small_xcit.pth", "PyTorch", "here"),
        Source("mmpretrain", ELSEWHERE, "small-xcit.pth", "PyTorch", "here"),
    )
    single = {name: (Source("hf", f"https://one.org/{name}.pth", f"{name}.pth", "PyTorch", "here"),) for name in others}
    monkeypatch.setattr(sources, "SOURCES", {**sources.SOURCES, "small_xcit": found, **single})
    with serving() as server:
        monkeypatch.setenv(cache.MIRROR, server.address)
        server.plays.update({f"/{place}": File(path.read_bytes()) for place, path in files.items()})
        yield server


def holds(net: Any, weights: dict[str, np.ndarray]) -> list[str]:
    """Names of the network's parameters that have other values than the weights."""
    return [
        item.name
        for item in net.get_parameters()
        if item.name not in weights
        or item.shape != weights[item.name].shape
        or not np.array_equal(item.asnumpy(), weights[item.name])
    ]


def asked(server: PlayedServer) -> list[str]:
    return [path.rpartition("/")[2] for _, path, _ in server.requests]


def test_a_name_is_enough(server: PlayedServer, weights: dict[str, np.ndarray], capsys: pytest.CaptureFixture) -> None:
    assert holds(create_model("small_xcit", pretrained=True), weights) == []
    assert holds(create_model("small_xcit", pretrained="mmpretrain"), weights) == []
    assert holds(create_model("small_xcit", pretrained="pytorch"), weights) == []
    assert asked(server) == ["small_xcit.pth", "small-xcit.pth"]
    assert capsys.readouterr().out == ""


def test_a_new_head_is_said(
    server: PlayedServer, weights: dict[str, np.ndarray], capsys: pytest.CaptureFixture
) -> None:
    net = create_model("small_xcit", num_classes=10, pretrained=True)
    assert holds(net, weights) == ["head.weight", "head.bias"]
    assert "2 left at initial values: head.weight, head.bias" in capsys.readouterr().out
    assert holds(create_model("small_xcit", num_classes=0, pretrained=True), weights) == []
    assert holds(create_model("small_xcit", features_only=True, pretrained=True).net, weights) == []
    assert capsys.readouterr().out == ""


def test_reset_classifier_keeps_the_rest(server: PlayedServer, weights: dict[str, np.ndarray]) -> None:
    net = create_model("small_xcit", pretrained=True)
    net.reset_classifier(10)
    assert {item.name for item in net.get_parameters()} - set(weights) == set()
    assert set(holds(net, weights)) == {"head.weight", "head.bias"}


def test_other_channels_are_fitted_and_said(server: PlayedServer, capsys: pytest.CaptureFixture) -> None:
    create_model("small_xcit", in_channels=4, pretrained=True)
    assert "1 fitted to other input channels: patch_embed.proj.0.0.weight" in capsys.readouterr().out


def test_a_file_must_fit_as_before(server: PlayedServer, weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "authors.pth"
    assert holds(create_model("small_xcit", pretrained=path), weights) == [] and server.requests == []
    with pytest.raises(WeightsError, match="doesn't fit"):
        create_model("small_xcit", num_classes=10, pretrained=str(path))
    assert load_named(small("xcit", num_classes=CLASSES), read_named(str(path), "small_xcit")).kept == []
    assert weights_file("folder/timm", "small_xcit") == "folder/timm"


@pytest.mark.parametrize(
    ("name", "pretrained", "words"),
    [
        (
            "crossformer_tiny",
            True,
            "crossformer_tiny has no weights that can be fetched: .*the file is at https://d",
        ),
        ("cross_vit_9_224", "paddlevit", "crossvit_9 has no weights that can be fetched: PaddleViT's"),
        (
            "upernet_crossformer_small",
            True,
            "upernet_crossformer_small has no weights that can be fetched: the authors",
        ),
        ("upernet", True, "no published weights of 'upernet' are known$"),
    ],
)
def test_what_can_t_be_fetched_says_why(name: str, pretrained: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        create_model(name, pretrained=pretrained)


def test_a_segmentor_starts_from_its_backbones(server: PlayedServer, others: dict[str, dict[str, np.ndarray]]) -> None:
    net, weights = create_model("semantic_fpn", backbone="small_cvt", backbone_weights=True), others["small_cvt"]
    prefix = net.backbone.prefix
    found = {item.name[len(prefix) :]: item.asnumpy() for item in net.backbone.get_parameters()}
    assert len(found) > 50 and all(np.array_equal(value, weights[name]) for name, value in found.items())
    with pytest.raises(UserError, match="crossformer_small has no weights that can be fetched"):
        create_model("semantic_fpn", backbone="crossformer_small", backbone_weights=True)
    with pytest.raises(UserError, match="crossformer_base has no weights that can be fetched"):
        create_model("upernet_crossformer_base", backbone_weights="pytorch")


def data(folder: Path) -> list[str]:
    """Two classes of images; the options of a short run on them, written below `folder`."""
    make_data_dir(folder / "data", train=4, size=(32, 32))
    words = f"--data_dir {folder / 'data'} --ckpt_save_dir {folder / 'run'} --results_csv {folder / 'results.csv'}"
    return [*words.split(), *["--model", "nano", "--device_target", "CPU", "--batch_size", "4"]]


def test_training_starts_from_them(
    server: PlayedServer, others: dict[str, dict[str, np.ndarray]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A learning rate of nothing leaves the weights as they came, but for the head and running statistics."""
    train.main([*data(tmp_path), *SHORT.split()])
    said = capsys.readouterr().out
    assert f"weights from {tmp_path / 'cache'}/hf/nano.pth: " in said
    assert "2 left at initial values: head.weight, head.bias" in said
    trained = read_weights(tmp_path / "run" / "nano-1.ckpt")[0]
    weights = others["nano"]
    changed = {name for name in weights if not np.array_equal(trained[name], weights[name])}
    assert changed == {"head.weight", "head.bias", "bn.running_mean", "bn.running_var"}


RANK = """
import sys
sys.path[:0] = sys.argv.pop().split(":")
from mindvit.hub import sources
sources.SOURCES["nano"] = (sources.Source("hf", "https://one.org/nano.pth", "nano.pth", "PyTorch", "here"),)
import train
from train_small import register
from mindvit import errors
register()
errors.run(train.main)
"""


def test_two_ranks_fetch_once(server: PlayedServer, tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    words = [
        *data(tmp_path),
        *["--epoch_size", "1", "--warmup_epochs", "0", "--val_while_train", "False", "--pretrained"],
    ]
    paths = f"{ROOT}:{ROOT / 'tests' / 'helpers'}"
    line = [*msrun(2, tmp_path / "logs"), "python", str(tmp_path / "rank.py"), *words, paths]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    ran = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300, check=False)
    said = [(tmp_path / "logs" / f"worker_{rank}.log").read_text() for rank in range(2)]
    assert ran.returncode == 0, said
    assert f"weights from {tmp_path / 'cache'}/hf/nano.pth: " in said[0] and len(asked(server)) == 1
    assert (tmp_path / "run" / "nano-1.ckpt").exists()


def test_validation_measures_them(server: PlayedServer, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    two = save_torch(tmp_path / "two.pth", numbers(create_model("nano", num_classes=2)))
    server.plays["/https://one.org/nano.pth"] = File(two.read_bytes())
    validate.main([*data(tmp_path), "--pretrained"])
    said = capsys.readouterr().out
    assert f"weights from {tmp_path / 'cache'}/hf/nano.pth: 12 loaded" in said and "nano  top-1" in said


def test_commands_take_them(server: PlayedServer, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    stripes(0, 2, 0).save(tmp_path / "image.png")
    predict.main([str(tmp_path / "image.png"), *["--model", "nano", "--device_target", "CPU", "--topk", "1"]])
    printed = capsys.readouterr()
    assert "1000 classes (named as ImageNet-1K's, since the file doesn't name them)" in printed.err
    assert len(printed.out.splitlines()) == 2
    found = mindvit.Predictor("mmpretrain", "small_xcit", device_target="CPU")
    assert found.file == "small-xcit.pth" and len(found.class_names) == CLASSES
    with pytest.raises(UserError, match="nano.pth has a head of 1000 classes and doesn't name them, and .* has 2"):
        validate.main([*data(tmp_path), "--pretrained"])
    given = export.parser().parse_args(["--model", "nano", "--pretrained", "--format", "ONNX", "--out", "x.onnx"])
    assert holds(export.network(given)[0], numbers(create_model("nano", num_classes=CLASSES))) == []


@pytest.mark.parametrize(
    ("command", "words", "says"),
    [
        (predict, "image.png", "which weights\\? --ckpt_path FILE, or --model NAME for published ones"),
        (predict, "--pretrained image.png --model small_xcit", "'image.png' is not one of pytorch, timm, hf, mmpretr"),
        (
            predict,
            "image.png --model crossvit_9 --pretrained paddlevit",
            "in a browser, --ckpt_path FILE takes it; --pretrained pytorch takes those of the authors; --pretrained t",
        ),
        (validate, "--model small_xcit", "--ckpt_path FILE, or --model NAME --pretrained for published ones"),
    ],
)
def test_what_is_missing_is_asked_for(
    command: Any, words: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stripes(0, 2, 0).save("image.png")
    with pytest.raises(UserError, match=says):
        command.main(words.split())
