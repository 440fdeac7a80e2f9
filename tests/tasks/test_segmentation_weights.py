"""Segmentors and published weights: the backbone's by name, and a trained segmentor that is given away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import train_small
from label_files import make_label_folder
from torchfile import save_torch

from mindvit.cli import publish
from mindvit.engine.trainer import Trainer
from mindvit.errors import UserError
from mindvit.hub import cache, sources
from mindvit.hub.sources import Source
from mindvit.models import create_model
from mindvit.recipe.commandline import parse
from mindvit.recipe.schema import Recipe
from mindvit.weights import read_weights

pytestmark = pytest.mark.usefixtures("small_networks")

SOURCE = Source("pytorch", "https://authors.org/pyramid.pth", "pyramid.pth", "PyTorch", "here")
NETWORK = "--model semantic_fpn --backbone nano_pyramid --head_channels 8 --neck_channels 8"
DATA = "--dataset segmentation --crop_size 32 --img_scale none --batch_size 2 --device_target CPU"


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, np.ndarray]:
    """Published ones of nano_pyramid, with a head of ImageNet's classes, in the cache."""
    random = np.random.default_rng(3)
    net = create_model("nano_pyramid")
    found = {item.name: random.random(item.shape).astype(np.float32) for item in net.get_parameters()}
    monkeypatch.setenv(cache.CACHE, str(tmp_path / "cache"))
    monkeypatch.setenv(cache.OFFLINE, "1")
    monkeypatch.setattr(sources, "SOURCES", {**sources.SOURCES, "nano_pyramid": (SOURCE,)})
    path = cache.place_of(SOURCE, tmp_path / "cache")
    path.parent.mkdir(parents=True)
    save_torch(path, found)
    return found


def recipe(folder: Path, more: str) -> Recipe:
    words = f"{NETWORK} {DATA} --warmup_epochs 0 {more}".split()
    return parse([*train_small.places(make_label_folder(folder / "data"), folder / "out"), *words], "")[0]


def backbone(net: Any) -> dict[str, np.ndarray]:
    prefix = net.backbone.prefix
    return {item.name[len(prefix) :]: item.asnumpy() for item in net.backbone.get_parameters()}


@pytest.mark.parametrize("asked", ["--pretrained", "--backbone_weights", "--backbone_weights pytorch"])
def test_a_run_starts_from_the_backbones(
    weights: dict[str, np.ndarray], tmp_path: Path, asked: str, capsys: pytest.CaptureFixture
) -> None:
    found = backbone(Trainer(recipe(tmp_path, asked)).net)
    assert found and all(np.array_equal(value, weights[name]) for name, value in found.items())
    assert f"the backbone's weights from {tmp_path}/cache/pytorch/pyramid.pth: " in capsys.readouterr().out


def test_two_answers_are_one_too_many(weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pretrained is True, which means the backbone's weights, and backbone_weights"):
        Trainer(recipe(tmp_path, "--pretrained --backbone_weights pytorch"))


def test_a_published_segmentor_reads_back(weights: dict[str, np.ndarray], tmp_path: Path) -> None:
    trainer = Trainer(recipe(tmp_path, "--pretrained"))
    path = trainer.saver.checkpoints.save_best(1, trainer.parameters(), trainer.saver.meta())
    publish.main([str(path), "--to", str(tmp_path / "to")])
    net = create_model(str(tmp_path / "to"))
    kept = read_weights(path)[0]
    assert all(np.array_equal(item.asnumpy(), kept[item.name]) for item in net.get_parameters())
    assert "image-segmentation" in (tmp_path / "to" / "README.md").read_text()
