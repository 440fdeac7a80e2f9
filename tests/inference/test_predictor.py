"""Predictions: what validation sees, of any image, in any form, and what a user is told when something is wrong."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import MODES, make_data_dir, stripes
from mindspore import Tensor
from PIL import Image
from small import SIDE, SMALL, small

import mindvit
from mindvit.cli import predict
from mindvit.data.datasets.folder import FolderDataset
from mindvit.data.transforms.image import EvalTransform
from mindvit.engine import checkpoint
from mindvit.engine.evaluate import evaluate
from mindvit.errors import UserError
from mindvit.inference.predictor import Unreadable
from mindvit.models import model_info
from mindvit.recipe.commandline import parse
from mindvit.tasks.base import RunContext
from mindvit.tasks.classification.inference import as_csv, as_json
from mindvit.tasks.classification.task import ClassificationTask

NAMES = ("apple", "bear", "cherry tree", "dog", "elk")
FAMILIES = list(SMALL)


pytestmark = pytest.mark.usefixtures("small_networks")


def save(folder: Path, family: str, **recipe: Any) -> Path:
    """A checkpoint of the family's small network, with random weights; `recipe`: keys that it was trained with."""
    values = {
        **parse(["--model", f"small_{family}"], "")[0].flat(),
        "img_size": SMALL[family][1].get("img_size"),
        **recipe,
    }
    meta = {"model": f"small_{family}", "num_classes": 5, "class_names": list(NAMES), "recipe": values}
    return checkpoint.save(folder / f"{family}.ckpt", list(small(family).get_parameters()), meta)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("weights"), "xcit")


@pytest.fixture(scope="module")
def predictor(weights: Path) -> mindvit.Predictor:
    return mindvit.Predictor(weights, batch_size=4, device_target="CPU")


def run(*arguments: Any) -> None:
    predict.main([*map(str, arguments), "--device_target", "CPU"])


def refused(*arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        run(*arguments)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_predictions_are_those_of_validation(family: str, tmp_path: Path) -> None:
    data = make_data_dir(tmp_path, classes=5, train=1, val=2, modes=("jpeg_rgb", "jpeg_cmyk"))
    recipe = {"crop_pct": 0.7, "interpolation": "bilinear", "mean": (100.0, 110.0, 120.0), "std": (50.0, 51.0, 52.0)}
    found = mindvit.Predictor(save(tmp_path, family, **recipe), batch_size=16, device_target="CPU")
    source = FolderDataset(data / "val")
    logits = found.logits(source.paths)
    wanted, _ = parse(
        [
            "--model",
            f"small_{family}",
            "--crop_pct",
            "0.7",
            "--interpolation",
            "bilinear",
            "--mean",
            "100,110,120",
            "--std",
            "50,51,52",
            "--batch_size",
            "10",
        ],
        "",
    )
    ctx = RunContext(wanted, model_info(f"small_{family}"), found.device, 5, 1)
    net = small(family)
    task = ClassificationTask()
    step = task.predict(net, ctx)
    score = evaluate(net, step, task.evaluator(ctx, source), ctx)
    wide = logits.astype(np.float64)
    losses = np.log(np.exp(wide).sum(1, keepdims=True)) - wide  # images classes
    assert score.count == 10 and score.loss == pytest.approx(losses[np.arange(10), source.labels].mean(), abs=1e-5)
    pixels = np.stack([found.prepared(path) for path in source.paths])
    np.testing.assert_array_equal(pixels[0], EvalTransform(SIDE[family], 0.7, "bilinear")(source.read(0)))
    images = Tensor(pixels)
    for label in range(5):
        np.testing.assert_allclose(
            step(images, Tensor(np.full(10, label, np.int32)))[1].asnumpy(), losses[:, label], atol=1e-5
        )
    assert losses.std(0).min() > 1e-4  # the images differ, ten times what is tolerated


def test_every_mode_is_taken_and_names_stand_beside_probabilities(predictor: mindvit.Predictor, tmp_path: Path) -> None:
    for mode, (extension, change) in MODES.items():
        path = tmp_path / f"{mode}{extension}"
        change(stripes(1, 2, 3)).save(path)
        answer = predictor(path)
        assert [name for name, _ in answer] == [name for name, _ in sorted(answer, key=lambda item: -item[1])] and set(
            dict(answer)
        ) == set(NAMES)
        assert sum(value for _, value in answer) == pytest.approx(1, abs=1e-6)
        with Image.open(path) as image:
            assert predictor(image) == answer


def test_an_image_is_the_same_as_file_image_or_array_alone_or_among_others(
    predictor: mindvit.Predictor, tmp_path: Path
) -> None:
    image = stripes(0, 2, 1)
    image.save(tmp_path / "a.png")
    others = [stripes(1, 2, number, (30 + number, 70)) for number in range(6)]
    alone = predictor.logits([str(tmp_path / "a.png")])[0]
    see_through = np.dstack((np.asarray(image), np.full(image.size[::-1], 9, np.uint8)))
    among = predictor.logits(
        [others[0], tmp_path / "a.png", others[1], image, np.asarray(image), see_through, *others[2:]]
    )
    for place in (1, 3, 4, 5):
        np.testing.assert_allclose(among[place], alone, atol=1e-6)
    assert np.abs(among[[0, 2, 6]] - alone).max(1).min() > 1e-4
    assert predictor([image], topk=2) == [predictor(image, topk=2)] and len(predictor(image, topk=2)) == 2
    assert predictor(np.stack([np.asarray(image)] * 2))[1] == predictor([image, image])[1]
    assert predictor([]) == [] and len(predictor(np.asarray(image.convert("L")))) == 5


def test_few_sizes_of_batches_are_compiled(weights: Path) -> None:
    found = mindvit.Predictor(weights, batch_size=6, device_target="CPU")
    image, step, sizes = stripes(0, 2, 1), found.step, []

    def noted(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return step(images)

    found.step = noted  # type: ignore[assignment]
    for count in (3, 4, 2, 7, 1):
        assert len(found([image] * count)) == count
    assert sizes == [4, 4, 4, 6, 4, 4]


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4), np.uint8), np.zeros(4, np.uint8)]
)
def test_an_array_that_is_no_image(predictor: mindvit.Predictor, array: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"is no image: give uint8"):
        predictor(array)


def test_a_broken_file_is_named(predictor: mindvit.Predictor, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"broken.png can't be decoded"):
        predictor([stripes(0, 2, 0), str(tmp_path / "broken.png")])


def test_the_command_s_formats_agree(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "in" / "deeper"
    folder.mkdir(parents=True)
    for number in range(5):
        stripes(number % 2, 2, number).save(folder / f"{number}.jpg")
    (folder / "2.png").write_bytes(b"nothing")
    texts = {}
    for kind in ("json", "csv", "table"):
        with pytest.raises(Unreadable, match=r"1 of 6 images can't be decoded") as caught:
            run(
                tmp_path / "in",
                "--ckpt_path",
                weights,
                "--format",
                kind,
                "--topk",
                2,
                "--batch_size",
                4,
                "--out",
                tmp_path / "out" / f"it.{kind}",
            )
        assert caught.value.exit_code == 1
        told = capsys.readouterr()
        assert told.out == "" and told.err.count("2.png") == 1 and "can't be decoded" in told.err
        texts[kind] = (tmp_path / "out" / f"it.{kind}").read_text("utf-8")
    found = json.loads(texts["json"])
    assert [item["image"] for item in found] == [str(folder / f"{number}.jpg") for number in range(5)]
    rows = list(csv.DictReader(texts["csv"].splitlines()))
    assert [(row["image"], int(row["rank"]), row["class"], float(row["probability"])) for row in rows] == [
        (item["image"], rank, kind["name"], kind["probability"])
        for item in found
        for rank, kind in enumerate(item["classes"], 1)
    ]
    lines = texts["table"].splitlines()
    assert lines[0].split() == ["image", "class", "probability"] and len(lines) == 11
    assert len({line.index("%") for line in lines[1:]}) == 1
    assert all(
        kind["name"] in line and f"{100 * kind['probability']:.1f}"[:-1] in line
        for line, kind in zip(lines[1:], (kind for item in found for kind in item["classes"]))
    )


def test_a_csv_quotes_and_a_json_of_nothing_is_a_list() -> None:
    assert list(as_csv([('a,"b".png', [("x\ny", 0.5)])])) == [
        "image,rank,class,probability",
        '"a,""b"".png",1,"x\ny",0.500000',
    ]
    assert (
        json.loads("".join(as_json([]))) == []
        and json.loads("".join(as_json([("a", [("b", 1.0)])])))[0]["image"] == "a"
    )


def test_other_weights_need_a_model_and_may_have_names(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    np.savez(tmp_path / "plain.npz", **{item.name: item.asnumpy() for item in small("xcit").get_parameters()})
    stripes(0, 2, 0).save(tmp_path / "a.png")
    plain = ["--ckpt_path", tmp_path / "plain.npz"]
    assert "doesn't say which network it belongs to: --model NAME" in refused(tmp_path / "a.png", *plain)
    assert "plain.npz has weights of XCiT (names of facebookresearch/xcit), but the network is" in refused(
        tmp_path / "a.png", *plain, "--model", "small_cvt"
    )
    assert "plain.npz doesn't fit xcit_nano_12_p16_224 with 5 classes" in refused(
        tmp_path / "a.png", *plain, "--model", "xcit_nano_12_p16_224"
    )
    run(tmp_path / "a.png", *plain, "--model", "small_xcit", "--format", "json")
    assert {item["name"] for item in json.loads(capsys.readouterr().out)[0]["classes"]} == set("01234")
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n", "utf-8")
    run(tmp_path / "a.png", *plain, "--model", "small_xcit", "--format", "json", "--classes", tmp_path / "names.txt")
    assert {item["name"] for item in json.loads(capsys.readouterr().out)[0]["classes"]} == set(NAMES)
    (tmp_path / "names.txt").write_text("one\ntwo\n", "utf-8")
    assert "has 2 lines, but the network has 5 classes" in refused(
        tmp_path / "a.png", *plain, "--model", "small_xcit", "--classes", tmp_path / "names.txt"
    )


def test_a_file_may_tell_its_network_alone(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "told.ckpt", list(small("xcit").get_parameters()), {"model": "small_xcit"})
    found = mindvit.Predictor(path, device_target="CPU")
    assert found.class_names == tuple("01234") and str(found).startswith("small_xcit, 32 px, 5 classes; device: CPU")


def test_wrong_input_is_one_line(weights: Path, tmp_path: Path) -> None:
    stripes(0, 2, 0).save(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "b.png").write_bytes(b"nothing")
    rest = ["--ckpt_path", weights]
    assert refused(tmp_path / "c.png", *rest).startswith("no image or folder ")
    assert "holds no image" in refused(tmp_path / "empty", *rest)
    assert "no file with weights" in refused(tmp_path / "a.png", "--ckpt_path", tmp_path / "no.ckpt")
    assert "is a checkpoint of small_xcit" in refused(tmp_path / "a.png", *rest, "--model", "small_cvt")
    assert "unknown model 'xcit_99'" in refused(tmp_path / "a.png", *rest, "--model", "xcit_99")
    assert "'0' is not an int of at least 1" in refused(tmp_path / "a.png", *rest, "--topk", 0)
    assert "can't be written" in refused(tmp_path / "a.png", *rest, "--out", tmp_path / "a.png" / "x")
    assert "1 of 1 images can't be decoded" in refused(tmp_path / "b.png", *rest)


def test_weights_that_give_no_numbers_are_told(tmp_path: Path) -> None:
    net = small("xcit")
    arrays = {item.name: item.asnumpy().copy() for item in net.get_parameters()}
    arrays["head.bias"][0] = np.nan
    np.savez(tmp_path / "nan.npz", **arrays)
    with pytest.raises(UserError, match=r"logits that are NaN or infinite"):
        mindvit.Predictor(tmp_path / "nan.npz", "small_xcit", device_target="CPU")(stripes(0, 2, 0))


def test_help_needs_no_mindspore(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "mindvit.inference.predictor", None)  # importing it would raise
    with pytest.raises(SystemExit) as ended:
        run("--help")
    assert ended.value.code == 0 and "--topk" in capsys.readouterr().out
