"""Runs of segmentors: what a task of the loop has by the loop's code, on label maps."""

from __future__ import annotations

import csv
import itertools
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
import train_small
from label_files import CLASSES, make_label_folder
from launcher import msrun
from mindspore import Tensor, nn
from PIL import Image

import mindvit
from mindvit.cli import export, predict
from mindvit.engine.evaluate import validate
from mindvit.engine.trainer import Trainer, fit
from mindvit.errors import UserError
from mindvit.inference.snippet import snippet
from mindvit.recipe.commandline import parse
from mindvit.recipe.schema import Recipe
from mindvit.runtime import console
from mindvit.tasks.segmentation.task import SegmentationTask
from mindvit.weights import read_weights

STEPS = 3  # an epoch: one and a half passes through 8 images
NETWORK = "--model semantic_fpn --backbone nano_pyramid --head_channels 8 --neck_channels 8"
DATA = "--dataset segmentation --crop_size 32 --img_scale none --batch_size 2 --device_target CPU --log_interval 1"
# everything that is drawn and that a run remembers
LIVELY = (
    f"--epoch_size 2 --epoch_steps {STEPS} --gradient_accumulation_steps 2 --ema --ema_decay 0.9 --drop_rate 0.1 "
    "--drop_path_rate 0.2 --scheduler poly_decay --warmup_steps 2 --warmup_factor 0.1 --min_lr 0 --clip_grad "
    "--amp_on_cpu --amp_level O2 --val_interval 2 --test_mode slide"
)


@pytest.fixture(scope="module", autouse=True)
def folder(small_networks: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 images to train and 4 to validate."""
    return make_label_folder(tmp_path_factory.mktemp("data"))


def recipe(folder: Path, out: Path, more: str = "") -> Recipe:
    return parse([*train_small.places(folder, out), *f"{NETWORK} {DATA} --warmup_epochs 0 {more}".split()], "")[0]


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    out = tmp_path_factory.mktemp("whole")
    fit(recipe(folder, out, LIVELY))
    return out


def test_what_a_run_leaves(whole: Path) -> None:
    row = json.loads((whole / "result.json").read_text())
    assert (row["model"], row["image_size"], row["epochs"]) == ("semantic_fpn", "32 x 32", 2)
    assert row["best_mIoU"] == max(row["mIoU"], row["ema_mIoU"])
    (logged,) = csv.DictReader((whole / "log.csv").open())
    assert list(logged)[:7] == ["epoch", "step", "lr", "train_loss", "mIoU", "mAcc", "aAcc"]
    assert (logged["epoch"], logged["step"]) == ("2", "6")
    rows = list(csv.DictReader((whole / "classes.csv").open()))
    assert [row["class"] for row in rows] == list(CLASSES)
    assert np.isclose(sum(float(row["share"]) for row in rows), 100, atol=0.02)
    arrays, meta = read_weights(whole / "semantic_fpn-2.ckpt")
    assert all(np.isfinite(value).all() for value in arrays.values())
    assert meta["class_names"] == list(CLASSES)
    assert meta["score"]["count"] == 4
    assert SegmentationTask().score(meta["score"]).metrics()["mIoU"] == pytest.approx(row["mIoU"], abs=0.005)


def test_a_run_that_is_cut_off_goes_on_bit_by_bit(
    folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, more = console.Progress.update, f"{LIVELY} --ckpt_save_steps 1"

    def update(self: Any, epoch: int, values: Any) -> None:
        plain(self, epoch, values)
        if self.done == STEPS + 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(console.Progress, "update", update)
        fit(recipe(folder, tmp_path, more))
    row = fit(recipe(folder, tmp_path, more))
    (ours, mine), (theirs, others) = (read_weights(out / "semantic_fpn-2.ckpt") for out in (tmp_path, whole))
    assert list(ours) == list(theirs)
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    assert mine["score"] == others["score"]
    assert row["mIoU"] == json.loads((whole / "result.json").read_text())["mIoU"]


def test_epochs_of_so_many_steps_go_on_where_the_last_ended(folder: Path, tmp_path: Path) -> None:
    long, short = (Trainer(recipe(folder, tmp_path, f"--epoch_size 6 {more}")) for more in ("", "--epoch_steps 3"))
    assert (long.state.steps, short.state.steps) == (4, 3)
    wanted = list(itertools.islice(long.runner.passes(), 9))
    found = []
    for _ in range(3):
        found += list(short.runner.batches())
        short.state.global_step += 3
    assert len(found) == len(wanted)
    transform = long.task.transform(long.ctx)
    assert pickle.loads(pickle.dumps(transform)) == transform  # worker processes are sent it
    for one, other in zip(found, wanted):
        assert all(np.array_equal(a, b) for a, b in zip(one, other))
    assert not np.array_equal(found[0][0], found[4][0])  # the second pass has an order of its own


def test_validation_repeats_the_score_and_writes_label_maps(folder: Path, whole: Path, tmp_path: Path) -> None:
    checkpoint = str(whole / "semantic_fpn-2.ckpt")
    options = "--take model --amp_on_cpu --amp_level O2".split()  # noqa: SIM905
    told = parse(["--data_dir", str(folder), "--ckpt_path", checkpoint, *options], "")[0]
    score = validate(told, str(tmp_path / "maps"))
    assert score == SegmentationTask().score(read_weights(Path(checkpoint))[1]["score"])
    matrix = [row[1:] for row in csv.reader((tmp_path / "maps/confusion.csv").open())][1:]
    counts = np.zeros((3, 3), int)
    for number in range(100, 104):
        found, labels = (
            np.asarray(Image.open(path))
            for path in (tmp_path / f"maps/{number}.png", folder / f"annotations/val/{number}.png")
        )
        counted = labels != 255
        np.add.at(counts, (labels[counted], found[counted]), 1)
    assert np.array_equal(np.array(matrix, int), counts)
    assert tuple(np.diag(counts)) == score.found


def test_two_ranks_take_the_step_of_one(folder: Path, tmp_path: Path) -> None:
    options = f"{NETWORK} {DATA} --warmup_epochs 0 --epoch_size 1 --epoch_steps 1 --drop_path_rate 0.0"
    arrays, scores = [], []
    for ranks, batch in ((1, 4), (2, 2)):
        out, logs = tmp_path / f"{ranks}", tmp_path / f"logs{ranks}"
        launcher = msrun(ranks, logs) if ranks > 1 else ()
        words = [*options.split(), "--batch_size", str(batch)]
        done = subprocess.run(
            [*launcher, "python", *train_small.command(folder, out, *words)],
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        )
        told = "".join(path.read_text(errors="replace") for path in sorted(logs.glob("worker_*.log")))
        assert done.returncode == 0, (done.stdout + done.stderr + told)[-3000:]
        assert Image.open(out / "examples.png").mode == "RGB"
        assert str(out / "examples.png") in done.stdout + told
        values, meta = read_weights(out / "semantic_fpn-1.ckpt")
        arrays.append(values)
        scores.append(SegmentationTask().score(meta["score"]))
    one, two = arrays
    running = [name for name in one if "running_" in name and not name.startswith("mindvit.")]
    assert len(running) == 6
    for name in running:  # synchronized: of halves by themselves they would be up to a few per cent off
        assert np.allclose(one[name], two[name], rtol=1e-3, atol=1e-5), name
    for name in (name for name in one if name.startswith("mindvit.moment1.")):
        assert np.abs(one[name] - two[name]).max() < 1e-3 * np.abs(one[name]).max() + 1e-7, name
    assert scores[0].count == scores[1].count == 4
    assert scores[0].labelled == scores[1].labelled
    assert scores[0].primary == pytest.approx(scores[1].primary, abs=0.1)


def test_weights_of_other_classes(folder: Path, whole: Path, tmp_path: Path) -> None:
    checkpoint = str(whole / "semantic_fpn-2.ckpt")
    names = tmp_path / "names.txt"
    more = f"--classes {names} --ckpt_path {checkpoint}"
    names.write_text("ground\nbar\nsquare\n")
    with pytest.raises(UserError, match="with 'square' as class 1, which is 'bar' in the data: the same classes in an"):
        Trainer(recipe(folder, tmp_path, more))
    names.write_text("ground\nsquare\nrod\n")
    trainer = Trainer(recipe(folder, tmp_path, more))
    assert trainer.remarks == [f"WARNING: {checkpoint} was trained with other classes: 2 is 'bar' there, 'rod' here"]


def test_predictions_and_exported_files_are_those_of_validation(folder: Path, whole: Path, tmp_path: Path) -> None:
    checkpoint, image = str(whole / "semantic_fpn-2.ckpt"), folder / "images/val/101.png"
    predictor = mindvit.Predictor(checkpoint)
    assert str(predictor).startswith("semantic_fpn, windows of 32 x 32 px, 3 classes")
    labels = predictor(image)
    assert labels.shape == np.asarray(Image.open(image)).shape[:2]
    predict.main(
        [str(image), "--ckpt_path", checkpoint, "--draw", str(tmp_path), "--format", "csv", "--out", f"{tmp_path}/a"]
    )
    assert np.array_equal(np.asarray(Image.open(tmp_path / "101.png")), labels)
    assert np.asarray(Image.open(tmp_path / "101_overlay.png")).shape[2] == 3
    header, *rows = csv.reader((tmp_path / "a").open())
    assert header == ["image", "class", "share"]
    assert sum(float(share) for _, _, share in rows) == pytest.approx(1, abs=1e-5)
    out = tmp_path / "a.onnx"
    export.main(["--ckpt_path", checkpoint, "--format", "ONNX", "--out", str(out)])
    told = json.loads((tmp_path / "a.onnx.json").read_text())
    assert (told["input_size"], told["label_names"]) == ([3, 32, 32], list(CLASSES))
    import onnxruntime

    pixels = np.asarray(Image.open(image))[:32, :32]
    inputs = ((pixels.astype(np.float32) / 255 - told["mean"]) / told["std"]).transpose(2, 0, 1)[None]
    session = onnxruntime.InferenceSession(str(out))
    (logits,) = session.run(None, {session.get_inputs()[0].name: inputs.astype(np.float32)})
    expected = predictor.net(Tensor(inputs.astype(np.float32))).asnumpy()
    assert np.abs(logits - expected).max() < 1e-4
    export.main(["--ckpt_path", checkpoint, "--format", "MINDIR", "--out", f"{tmp_path}/a.mindir"])
    loaded = nn.GraphCell(ms.load(f"{tmp_path}/a.mindir"))
    assert np.abs(loaded(Tensor(inputs.astype(np.float32))).asnumpy() - expected).max() < 1e-4
    Image.fromarray(pixels).save(tmp_path / "image.png")
    variables: dict[str, Any] = {}
    exec(snippet(out, told, 1).replace("image.jpg", str(tmp_path / "image.png")), variables)
    assert (variables["labels"] == predictor(pixels)).mean() > 0.99  # but for ties and rounding


@pytest.mark.parametrize(
    "more, told",
    [
        ("--mixup 0.8", "command line: mixup is given, but is classification's, and semantic_fpn is a segmentor"),
        ("--image_resize 64", "instead there is crop_size and img_scale"),
        ("--backbone none", "needs a backbone: backbone: cvt_13_224, ..., or semantic_fpn_crossformer_base"),
        ("--model upernet_crossformer_small", "upernet_crossformer_small has its backbone: leave backbone out"),
        ("--test_mode slide --slide_stride 40", "pixels would be left out"),
        ("--backbone crossvit_9", "crossvit_9 has no pyramid of feature maps"),
        ("--num_classes 2", "num_classes is 2, but the data set has 3 classes"),
        ("--dataset imagenet", "dataset is imagenet, which has no label maps"),
    ],
)
def test_what_a_recipe_cannot_say(folder: Path, tmp_path: Path, more: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        Trainer(recipe(folder, tmp_path, more))
    assert "\n" not in str(caught.value)
