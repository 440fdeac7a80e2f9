"""Runs of detectors: what a task of the loop has by the loop's code, on images annotated as COCO's."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import train_small
from coco_files import make_coco_folder
from launcher import msrun
from PIL import Image

from mindvit.cli import export, publish
from mindvit.cli.validate import show
from mindvit.engine.evaluate import validate
from mindvit.engine.trainer import fit
from mindvit.errors import UserError
from mindvit.inference.predictor import Predictor
from mindvit.inference.snippet import snippet
from mindvit.recipe.commandline import parse
from mindvit.recipe.schema import Recipe
from mindvit.runtime import console
from mindvit.tasks.detection.task import DetectionTask
from mindvit.weights import read_weights

NETWORK = "--backbone nano_pyramid --neck_channels 8"
DATA = "--dataset coco --canvas 64 --img_scale none --size_divisor 64 --batch_size 4 --device_target CPU"
LOG = "--log_interval 1 --warmup_epochs 0 --max_instances 4"
# all boxes take part: ranks sample differently
FEW = "--head_channels 16 --rpn_pre 40,40 --proposals 20 --rpn_samples 4096 --roi_samples 96"
MASKS = f"--model mask_rcnn {FEW} --head_norm --class_agnostic --epoch_size 1 --epoch_steps 1 --drop_path_rate 0.0"
MASKS += " --clip_grad"


@pytest.fixture(scope="module", autouse=True)
def folder(small_networks: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 images to train and 4 to validate."""
    return make_coco_folder(tmp_path_factory.mktemp("data") / "coco")


def recipe(folder: Path, out: Path, more: str) -> Recipe:
    return parse([*train_small.places(folder, out), *f"{NETWORK} {DATA} {LOG} {more}".split()], "")[0]


@pytest.fixture(scope="module")
def with_masks(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run of a Mask R-CNN wrote."""
    out = tmp_path_factory.mktemp("runs") / "mask_rcnn"
    fit(recipe(folder, out, MASKS))
    return out


def test_two_ranks_take_the_step_of_one(folder: Path, with_masks: Path, tmp_path: Path) -> None:
    words = f"{NETWORK} {DATA} {LOG} {MASKS} --batch_size 2 --sync_divisors True".split()
    done = subprocess.run(
        [*msrun(2, tmp_path / "logs"), "python", *train_small.command(folder, tmp_path / "out", *words)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
    )
    told = "".join(path.read_text(errors="replace") for path in sorted((tmp_path / "logs").glob("worker_*.log")))
    assert done.returncode == 0, (done.stdout + done.stderr + told)[-3000:]
    (one, mine), (two, others) = (read_weights(out / "mask_rcnn-1.ckpt") for out in (with_masks, tmp_path / "out"))
    moments = [name for name in one if name.startswith("mindvit.moment1.")]
    assert len(moments) > 30
    for name in moments:
        assert np.abs(one[name] - two[name]).max() < 1e-3 * np.abs(one[name]).max() + 1e-7, name
    assert DetectionTask().score(mine["score"]).count == DetectionTask().score(others["score"]).count == 4


def test_a_run_with_masks(folder: Path, with_masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    row = json.loads((with_masks / "result.json").read_text())
    assert (row["model"], row["image_size"], row["epochs"]) == ("mask_rcnn", "64 x 64", 1)
    (logged,) = csv.DictReader((with_masks / "log.csv").open())
    assert {"box AP", "box AP50", "mask AP"} <= set(logged)
    rows = list(csv.DictReader((with_masks / "classes.csv").open()))
    assert [row["class"] for row in rows] == ["red", "blue"]
    arrays, meta = read_weights(with_masks / "mask_rcnn-1.ckpt")
    assert all(np.isfinite(value).all() for value in arrays.values())
    assert meta["class_names"] == ["red", "blue"]
    score = DetectionTask().score(meta["score"])
    assert score.count == 4
    measured = parse(["--ckpt_path", str(with_masks / "mask_rcnn-1.ckpt"), "--data_dir", str(folder)], "")[0]
    out = str(tmp_path / "out")
    again = validate(measured, None, out, lambda task, dataset: show(task, dataset, None, out, None))
    assert again == score
    written = tmp_path / "a.onnx"
    export.main(["--ckpt_path", str(with_masks / "mask_rcnn-1.ckpt"), "--format", "ONNX", "--out", str(written)])
    told = json.loads((tmp_path / "a.onnx.json").read_text())
    assert (told["label_names"], told["input_size"], told["inputs"][0]) == (["red", "blue"], [3, 64, 64], "image")
    inputs = np.zeros((1, 3, 64, 64), np.float32), np.array([[64, 64]], np.float32), np.zeros(1, np.float32)
    session = onnxruntime.InferenceSession(str(written), providers=["CPUExecutionProvider"])
    boxes, scores, _, masks = session.run(told["outputs"], dict(zip(told["inputs"], inputs)))
    assert boxes.shape == (1, 100, 4) and scores.max() > 0 and masks.shape == (1, 100, 28, 28)
    Image.new("RGB", (50, 40)).save(tmp_path / "image.jpg")
    capsys.readouterr()
    lines = snippet(written, told).replace("[0.3]", "[0.0]").replace("image.jpg", str(tmp_path / "image.jpg"))
    exec(lines, {})
    assert capsys.readouterr().out.split()[0] in ("red", "blue")
    publish.main([str(with_masks), "--to", str(tmp_path / "published")])
    predictor = Predictor(str(tmp_path / "published"))
    assert predictor.class_names == ("red", "blue")
    assert all(np.array_equal(value, arrays[key]) for key, value in predictor.net.parameters_dict().items())
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {item["image_id"] for item in found} <= {100, 101, 102, 103}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"predictions.json", "errors.csv", "errors.png"}
    assert all({"image_id", "category_id", "bbox", "score", "segmentation"} <= set(item) for item in found)


def test_a_run_that_is_cut_off_goes_on_bit_by_bit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # upright images lie on a canvas of their own: two compiled graphs
    options = "--model retinanet --epoch_size 2 --canvas 64,96,96,64 --short_sides 40,64"
    options += " --hflip 0.5 --drop_path_rate 0.2 --val_interval 2"
    fit(recipe(folder, tmp_path / "whole", options))
    plain = console.Progress.update

    def update(self: Any, epoch: int, values: Any) -> None:
        plain(self, epoch, values)
        if self.done == 3:
            raise KeyboardInterrupt

    again = recipe(folder, tmp_path / "cut", f"{options} --ckpt_save_steps 1")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(console.Progress, "update", update)
        fit(again)
    fit(again)
    (ours, mine), (theirs, others) = (read_weights(tmp_path / out / "retinanet-2.ckpt") for out in ("cut", "whole"))
    assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)
    assert mine["score"] == others["score"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--model mask_rcnn --crop_size 64", "crop_size is given, but is another task's, and mask_rcnn is a detector"),
        ("--model mask_rcnn --mixup 0.8", "mixup is given, but is another task's"),
        ("--model mask_rcnn --canvas 50", "canvas is 50, but sides must be multiples of 32"),
        ("--model mask_rcnn --canvas 64,64,32", "canvas is .64, 64, 32.: give height and width of each"),
        ("--model retinanet --short_sides 64,40", "short_sides is .64, 40.: give the smaller one first"),
        ("--model mask_rcnn_crossformer_small", "mask_rcnn_crossformer_small has its backbone"),
        (
            "--model mask_rcnn --dataset imagenet",
            "dataset is imagenet, which has no boxes",
        ),
    ],
)
def test_mistakes(folder: Path, tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit(recipe(folder, tmp_path, more))
