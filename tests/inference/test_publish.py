"""mindvit publish: a run's folder becomes one that hubs and create_model take."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from image_files import make_data_dir, stripes
from mindspore import Tensor

import mindvit
from mindvit.cli import download, publish, train
from mindvit.errors import UserError
from mindvit.hub import cache, huggingface, published
from mindvit.hub.huggingface import Missing
from mindvit.models import create_model
from mindvit.weights.write import save_weights

pytestmark = pytest.mark.usefixtures("small_networks")

WORDS = "--model nano --device_target CPU --batch_size 4 --epoch_size 2 --warmup_epochs 0 --ema True --lr 0.01"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, small_networks: None) -> Path:
    """A short run's folder."""
    folder = tmp_path_factory.mktemp("run")
    make_data_dir(folder / "secret_place", train=4, size=(20, 20))
    places = f"--data_dir {folder / 'secret_place'} --ckpt_save_dir {folder / 'nano_run'}"
    train.main([*places.split(), "--results_csv", str(folder / "results.csv"), *WORDS.split()])
    return folder / "nano_run"


@pytest.fixture(scope="module")
def folder(run: Path) -> Path:
    """What was published of it."""
    to = run.parent / "stripes"
    publish.main([str(run), "--to", str(to), "--license", "apache-2.0"])
    return to


def images() -> Tensor:
    return Tensor(np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32))


def test_the_folder_holds_what_a_hub_wants(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "log.csv",
        "loss.png",
        "model.safetensors",
        "top1.png",
    ]
    told = json.loads((folder / "config.json").read_text())
    assert (told["architecture"], told["num_classes"], len(told["label_names"])) == ("nano", 2, 2)
    assert told["pretrained_cfg"]["input_size"] == [3, 16, 16] and told["pretrained_cfg"]["crop_pct"] == 1.0
    assert told["mindvit"]["recipe"]["epoch_size"] == 2 and told["mindvit"]["task"] == "classification"


def test_nothing_tells_of_the_machine_s_folders(folder: Path, run: Path) -> None:
    for path in folder.iterdir():
        assert b"secret_place" not in path.read_bytes() and str(run.parent).encode() not in path.read_bytes(), path


def test_the_card_has_scores_curves_and_what_is_left_to_say(folder: Path, run: Path) -> None:
    text = (folder / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    result = json.loads((run / "result.json").read_text())
    assert (head["license"], head["library_name"], head["pipeline_tag"]) == (
        "apache-2.0",
        "mindvit",
        "image-classification",
    )
    found = head["model-index"][0]["results"][0]
    assert found["metrics"] == [{"type": "accuracy", "name": "Top-1 accuracy", "value": result["best_top1"]}]
    assert found["dataset"] == {"name": "unknown", "type": "unknown"}  # some folder: not ImageNet
    recipe = yaml.safe_load(text.split("```yaml")[1].split("```")[0])
    assert recipe["epoch_size"] == 2 and recipe["ema"] is True and not {"scale", "seed", "data_dir"} & set(recipe)
    assert "![loss](loss.png)" in text and "![top1](top1.png)" in text and "Epoch by epoch: `log.csv`" in text
    assert text.count("TO SAY: ") == 3 and "## Licence" not in text and f"{result['val_loss']}" in text


def test_it_reads_back_as_the_network_that_it_was(folder: Path, run: Path, capsys: pytest.CaptureFixture) -> None:
    best = mindvit.Predictor(run / "nano-best.ckpt", device_target="CPU")
    again = mindvit.Predictor(folder, device_target="CPU")
    image = stripes(0, 2, 0, (20, 20))
    assert again(image) == best(image) and again.class_names == best.class_names
    net = create_model(str(folder))
    assert net.num_classes == 2 and np.array_equal(net(images()).asnumpy(), best.net(images()).asnumpy())
    capsys.readouterr()
    assert create_model(str(folder), num_classes=5).num_classes == 5
    assert "2 left at initial values: head.weight, head.bias" in capsys.readouterr().out


def offline_copy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The network out of what `mindvit download --to` brought, when nothing can be asked."""
    download.main(["hf:owner/stripes", "--to", str(folder / "usb")])
    with monkeypatch.context() as patch:
        patch.setenv(cache.CACHE, str(folder / "usb"))
        patch.setattr(huggingface, "fetch", pytest.fail)
        return create_model("hf:owner/stripes")


def test_a_repository_reads_as_the_folder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(repository: str, file: str, revision: Any, offline: bool) -> Path:
        if repository != "owner/stripes" or revision not in (None, "v1") or not (folder / file).exists():
            raise Missing(f"hf:{repository} has no file {file}")
        return folder / file

    monkeypatch.setattr(huggingface, "fetch", fetch)
    place = "hf:owner/stripes@v1"
    expected = create_model(str(folder))(images()).asnumpy()
    assert np.array_equal(create_model(place)(images()).asnumpy(), expected)
    assert np.array_equal(create_model("nano", num_classes=2, pretrained=place)(images()).asnumpy(), expected)
    assert mindvit.Predictor(place, device_target="CPU").info.name == "nano"
    assert np.array_equal(offline_copy(tmp_path, monkeypatch)(images()).asnumpy(), expected)
    with pytest.raises(UserError, match="hf:owner/other has no config.json that names its network: if it has weights"):
        create_model("hf:owner/other")
    with pytest.raises(UserError, match="hf:owner/other has no file pytorch_model.bin, nor model.safetensors"):
        create_model("nano", pretrained="hf:owner/other")


def test_timms_config_names_a_network_too(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "crossvit_9_240", "num_classes": 1000}')
    found = published.read(str(tmp_path))
    assert (mindvit.model_info(found.model).name, found.arguments) == ("crossvit_9", {"num_classes": 1000})
    for content in ("[]", "{", '{"num_classes": 3}'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError, match="config.json isn't what mindvit publish or timm writes"):
            published.read(str(tmp_path))


def test_what_it_was_trained_with_counts_unless_something_else_is_asked_for(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"num_classes": 4, "in_channels": 5}
    (tmp_path / "config.json").write_text(json.dumps({"mindvit": {"model": "nano", "arguments": arguments}}))
    weights = {item.name: item.asnumpy() for item in create_model("nano", **arguments).get_parameters()}
    save_weights(tmp_path / "model.safetensors", weights, {"model": "nano"})
    net = create_model(str(tmp_path))
    assert {item.name: item.shape for item in net.get_parameters()} == {key: weights[key].shape for key in weights}
    other = {item.name: item.shape for item in create_model(str(tmp_path), num_classes=3).get_parameters()}
    assert other["head.weight"][0] == 3 and other["first.weight"] == weights["first.weight"].shape


def test_a_checkpoint_alone_has_no_curves(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish.main([str(run / "nano-best.ckpt"), "--to", str(tmp_path / "one"), "--take", "ema"])
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert "license: unknown" in (tmp_path / "one" / "README.md").read_text()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # no matplotlib
    publish.main([str(run), "--to", str(tmp_path / "two")])
    assert (tmp_path / "two" / "log.csv").exists() and not (tmp_path / "two" / "loss.png").exists()


def test_mistakes_write_nothing(run: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words, says in (
        ([str(tmp_path / "nowhere"), "--to", str(tmp_path / "a")], "no folder or file"),
        ([str(tmp_path / "empty"), "--to", str(tmp_path / "a")], "should have one .*-best.ckpt, and has none: give a"),
        ([str(run), "--to", str(folder)], "is there already: give a new folder"),
        ([str(run), "--to", str(tmp_path / "a"), "--take", "teacher"], "has no 'teacher' to take, but model, ema"),
        ([str(run / "log.csv"), "--to", str(tmp_path / "a")], "no checkpoint, truncated or damaged"),
    ):
        with pytest.raises(UserError, match=says):
            publish.main(words)
    assert not (tmp_path / "a").exists()
