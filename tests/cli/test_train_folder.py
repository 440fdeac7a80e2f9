"""mindvit train FOLDER: from images to tables and pictures; and a run that ends when nothing gets better."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Optional

import pytest
from image_files import make_different, make_folder

from mindvit.cli import folder as folders
from mindvit.cli import inspect_data, train
from mindvit.errors import UserError
from mindvit.hub.cache import CACHE, OFFLINE
from mindvit.recipe.commandline import parse
from mindvit.recipe.schema import Recipe

LARGEST = "xcit_small_12_p16_224_distill"  # the network of configs/finetune/large.yaml
pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No weights can be had; runs are written below tmp_path."""
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.setenv(OFFLINE, "1")
    monkeypatch.chdir(tmp_path)


def chosen(folder: Path, *words: str, config: Optional[str] = None) -> tuple[Recipe, list[str]]:
    arguments = [str(folder), *words, *(("--config", config) if config else ())]
    found = folders.recipe_for(str(folder), arguments, lambda these: parse(these, "", train.EXTRA)[0], config)
    return found.recipe, found.lines


def test_a_folder_is_trained_on_and_a_run_ends_when_nothing_gets_better(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    images = make_folder(tmp_path / "photos", classes=2, per_class=8)
    words = [str(images), "--model", "nano", "--device_target", "CPU", "--epoch_size", "4"]
    still = [*words, "--lr", "0", "--min_lr", "0", "--freeze", "all", "--patience", "2"]  # batch statistics move too
    train.main(still)
    text = capsys.readouterr().out
    run = tmp_path / "runs" / "photos"
    assert "16 images in 2 classes: 12 to train on, 4 to validate" in text
    assert "WARNING: no published weights of nano" in text
    assert "the run ends early, after 3 of 4 epochs" in text and "that after epoch 1 (patience 2)" in text
    assert len(list(csv.DictReader((run / "log.csv").open(newline="")))) == 3
    assert {"classes.csv", "confusion.png", "calibration.png", "wrong.png"} <= {path.name for path in run.iterdir()}
    assert "mindvit report runs/photos" in text
    train.main(still)
    again = capsys.readouterr().out
    assert "the run is finished" in again and "a larger patience continues it" in again


def test_a_folder_is_looked_at_as_it_would_be_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    images = make_folder(tmp_path / "photos", classes=2, per_class=8)
    inspect_data.main([str(images), "--device_target", "CPU", "--image_resize", "32"])
    text = capsys.readouterr().out
    assert "2 classes, 12 training and 4 validation images" in text and "published weights" not in text
    assert (tmp_path / "inspection" / "preview.png").exists() and (images / "mindvit_split.csv").exists()


def test_classes_that_cannot_be_told_apart_or_measured(tmp_path: Path) -> None:
    images = make_folder(tmp_path / "above" / "photos", classes=2, per_class=8)
    with pytest.raises(UserError) as error:
        chosen(images.parent)
    assert (
        f"has one class, photos, and there is nothing to tell apart (if the folders of the classes lie in {images}"
        in (str(error.value))
    )
    first, second = sorted(images.iterdir())
    for path in sorted(second.iterdir())[1:]:
        path.unlink()
    told = f"WARNING: no validation image of {second.name}: how well that is told apart is not measured"
    assert told in chosen(images)[1]


def test_the_recipe_follows_the_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = make_folder(tmp_path / "photos", classes=2, per_class=20)
    recipe, lines = chosen(images)
    assert "recipe: configs/finetune/small.yaml (another: --config)" in lines
    assert recipe.data.batch_size == 8
    monkeypatch.setattr(folders, "SIZES", ((10, "finetune/small"), (50, "finetune/medium")))
    assert chosen(images)[1][1].startswith("recipe: configs/finetune/medium.yaml")
    monkeypatch.setattr(folders, "SIZES", ())
    assert chosen(images)[1][1].startswith("recipe: configs/finetune/large.yaml")


def test_on_a_cpu_a_network_is_taken_that_it_can_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = make_folder(tmp_path / "photos", classes=2, per_class=8)
    monkeypatch.setattr(folders, "SIZES", ())

    def network(*words: str) -> tuple[str, Optional[int]]:
        recipe, lines = chosen(images, *words)
        assert ("takes hours" in lines[-1]) is (recipe.model.model != LARGEST and "--model" not in words)
        return recipe.model.model, recipe.augment.image_resize

    assert network() == ("xcit_nano_12_p16_224", 128)
    assert network("--image_resize", "96") == ("xcit_nano_12_p16_224", 96)
    assert network("--model", "cvt_13_224") == ("cvt_13_224", None)
    monkeypatch.setattr("mindvit.hub.resolve.weights_file", lambda *_: tmp_path)
    assert network() == ("xcit_tiny_12_p16_224_distill", None)
    monkeypatch.setattr("mindvit.runtime.device.choose_target", lambda _: ("Ascend", ""))
    assert network() == (LARGEST, None)


def test_without_weights_the_rate_is_that_of_a_start_from_nothing(tmp_path: Path) -> None:
    images = make_folder(tmp_path / "photos", classes=2, per_class=8)
    recipe, lines = chosen(images, "--layer_decay", "0.9")
    assert (recipe.model.pretrained, recipe.schedule.lr, recipe.optim.layer_decay) == (False, 5e-4, 0.9)
    assert any(line.startswith("WARNING: no published weights of xcit_tiny_12_p16_224_distill") for line in lines)
    own, _ = chosen(images, "--ckpt_path", "mine.ckpt")
    assert (own.model.pretrained, own.model.ckpt_path, own.model.new_head) == (False, "mine.ckpt", True)
    assert own.schedule.lr == 2e-4


def test_what_is_given_counts(tmp_path: Path) -> None:
    images = make_folder(tmp_path / "photos", classes=2, per_class=8)
    words = ("--batch_size", "12", "--ckpt_save_dir", "here", "--val_share", "0.5")
    recipe, lines = chosen(images, *words)
    assert (recipe.data.batch_size, recipe.checkpoint.ckpt_save_dir) == (12, "here")
    assert lines[0].endswith("8 to train on, 8 to validate")
    other, _ = chosen(images, "--dataset", "imagenet", config="quickstart/xcit_digits")
    assert other.model.model == "xcit_nano_12_p16_224"


def test_a_folder_that_is_split_already_stays_so(tmp_path: Path) -> None:
    recipe, lines = chosen(make_different(tmp_path / "photos", train=4, val=2))
    assert recipe.data.val_share is None
    assert lines[0] == "12 images in 2 classes: 8 to train on, 4 to validate"


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="crossvit_9.yaml is no folder of images .a recipe is named by --config"):
        chosen(Path("crossvit_9.yaml"))
    images = make_folder(tmp_path / "photos", classes=2, per_class=2)
    with pytest.raises(UserError, match="give the folder of images once"):
        chosen(images, "--data_dir", "elsewhere")
