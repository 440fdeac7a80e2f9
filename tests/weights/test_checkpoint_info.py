"""What a checkpoint says of itself reaches every command, whatever it was converted to; which weights they take."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np
import pytest
from image_files import stripes
from mindspore import Parameter, Tensor
from small import SMALL, small
from torchfile import save_torch

import mindvit
from mindvit.cli import attention, convert, export, predict
from mindvit.engine import checkpoint
from mindvit.engine.evaluate import wanted_set
from mindvit.engine.setup import build
from mindvit.errors import UserError
from mindvit.inference import export as exporting
from mindvit.models import model_info
from mindvit.recipe.commandline import parse
from mindvit.runtime.device import Device
from mindvit.tasks.base import RunContext
from mindvit.tasks.classification.distill import build_teacher
from mindvit.tasks.classification.task import ClassificationTask
from mindvit.weights import load_weights, names, read_weights
from mindvit.weights.checkpoint_info import CheckpointInfo
from mindvit.weights.readers import read

pytestmark = pytest.mark.usefixtures("small_networks")
NAMES = ["apple", "bear", "cherry tree", "dog", "elk"]
Weights = dict[str, np.ndarray]


def random_weights(family: str, seed: int, **arguments: Any) -> Weights:
    random = np.random.default_rng(seed)
    return {
        item.name: random.standard_normal(item.shape).astype(np.float32)
        for item in small(family, **arguments).get_parameters()
    }


def save_run(
    path: Path, family: str, weights: Weights, average: Optional[Weights] = None, best: str = "ema", **recipe: Any
) -> Path:
    """What train.py leaves: weights, their average, a moment, and all that it says."""
    flat = {
        **parse(["--model", f"small_{family}", "--img_size", "none"], "")[0].flat(),
        "img_size": SMALL[family][1].get("img_size"),
        **recipe,
    }
    meta = {
        "model": f"small_{family}",
        "num_classes": 5,
        "class_names": NAMES,
        "recipe": flat,
        "epoch": 3,
        "step": 12,
        "steps": 4,
        "best": 7,
        "tally": {},
        "score": {"correct1": 7},
        "ema_score": {"correct1": 9},
        "best_weights": best,
        "mindvit": "0.0.1",
        "data": "abc",
    }
    arrays = {
        **weights,
        **{f"mindvit.ema.{name}": value for name, value in (average or {}).items()},
        **{f"mindvit.moment1.{name}": value for name, value in weights.items()},
    }
    return checkpoint.save(path, [Parameter(Tensor(value), name=name) for name, value in arrays.items()], meta)


@pytest.fixture(scope="module")
def both() -> tuple[Weights, Weights]:
    return random_weights("xcit", 1), random_weights("xcit", 2)


@pytest.fixture(scope="module")
def run_with_average(both: tuple[Weights, Weights], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("run") / "xcit-3.ckpt", "xcit", *both)


def holds(net: Any, expected: Weights, prefix: str = "") -> bool:
    found = {item.name[len(prefix) :]: item.asnumpy() for item in net.get_parameters()}
    return set(found) == set(expected) and all(np.array_equal(found[name], value) for name, value in expected.items())


def converted(source: Path, out: Path, *more: str) -> Path:
    convert.main([str(source), "--out", str(out), *more])
    return out


def refused(action: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        action([str(item) for item in arguments])
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    return str(caught.value)


def setting(*options: str) -> RunContext:
    return RunContext(
        parse(["--model", "small_xcit", *options], "")[0],
        model_info("small_xcit"),
        Device("CPU", "O0", "O0", "O0", None),
        5,
        1,
    )


def by_library(path: Path, take: list[str], _: Path) -> Any:
    net = small("xcit")
    load_weights(net, path, take=take[1] if take else None)
    return net


def by_predictor(path: Path, take: list[str], _: Path) -> Any:
    return mindvit.Predictor(path, device_target="CPU", take=take[1] if take else None).net


def by_export(path: Path, take: list[str], _: Path) -> Any:
    return export.network(
        Namespace(
            ckpt_path=str(path),
            take=take[1] if take else None,
            model=None,
            pretrained=None,
            size=None,
            num_classes=None,
        )
    )[0]


def by_convert(path: Path, take: list[str], folder: Path) -> Any:
    net = small("xcit")
    load_weights(net, read_weights(converted(path, folder / "c.safetensors", *take))[0])
    return net


def by_train(path: Path, take: list[str], _: Path) -> Any:
    return build(setting("--ckpt_path", str(path), *take), ClassificationTask())


def by_teacher(path: Path, take: list[str], _: Path) -> Any:
    options = ["--distill_type", "hard", "--teacher", "small_xcit", "--teacher_ckpt_path", str(path)]
    return build_teacher(setting(*options, *(["--teacher_take", take[1]] if take else [])))


CONSUMERS = [by_library, by_predictor, by_export, by_convert, by_train, by_teacher]


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_every_command_takes_the_average_where_it_scored_better_and_what_it_is_told_to(
    consumer: Any, run_with_average: Path, both: tuple[Weights, Weights], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    raw, average = both
    prefix = "mindvit.teacher." if consumer is by_teacher else ""
    assert holds(consumer(run_with_average, [], tmp_path), average, prefix)
    if consumer not in (by_library, by_predictor):
        assert "taken: ema, which scored better in validation (also there: model)" in capsys.readouterr().out
    assert holds(consumer(run_with_average, ["--take", "model"], tmp_path), raw, prefix)
    assert holds(consumer(run_with_average, ["--take", "ema"], tmp_path), average, prefix)


def test_the_weights_where_they_scored_better_or_nobody_knows(both: tuple[Weights, Weights], tmp_path: Path) -> None:
    raw, average = both
    told = read(save_run(tmp_path / "a.ckpt", "xcit", raw, average, best="model"))
    assert np.array_equal(told.arrays["head.bias"], raw["head.bias"]) and (told.taken, told.others) == (
        "model",
        ["ema"],
    )
    assert not told.is_average and set(told.arrays) == set(raw)
    old = read(save_run(tmp_path / "b.ckpt", "xcit", raw, average, best=None))  # type: ignore[arg-type]
    assert np.array_equal(old.arrays["head.bias"], raw["head.bias"]) and old.others == ["ema"]


def test_a_file_without_average_says_so_in_every_command(both: tuple[Weights, Weights], tmp_path: Path) -> None:
    path = save_run(tmp_path / "a.ckpt", "xcit", both[0], best="model")
    stripes(0, 2, 0).save(tmp_path / "a.png")
    assert read(path).taken is None and read(path, "model").taken is None
    for command, arguments in (
        (predict.main, [tmp_path / "a.png", "--ckpt_path", path]),
        (convert.main, [path, "--out", tmp_path / "b.ckpt"]),
        (attention.main, [tmp_path / "a.png", "--ckpt_path", path, "--out", tmp_path / "out"]),
        (export.main, ["--ckpt_path", path, "--format", "MINDIR", "--out", tmp_path / "b.mindir"]),
    ):
        assert "a.ckpt: holds no moving average of the weights" in refused(command, *arguments, "--take", "ema")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.ckpt", "a.png"]


def test_what_validate_s_short_forms_mean() -> None:
    def asked(*options: str) -> Optional[str]:
        return wanted_set(parse(["--ckpt_path", "a.ckpt", *options], "")[0])

    assert [asked(), asked("--ema"), asked("--ema", "False"), asked("--take", "swa")] == [None, "ema", "model", "swa"]
    assert asked("--ema", "--take", "model_ema") == "model_ema"
    with pytest.raises(UserError, match="--ema True means --take ema, but --take is model: give one of them"):
        asked("--ema", "--take", "model")


def test_a_recipe_s_take_is_not_that_of_another_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("pretrained: deit.pth\ntake: model_ema\nema: True\n")
    assert wanted_set(parse(["-c", str(tmp_path / "a.yaml"), "--ckpt_path", "best.ckpt"], "")[0]) is None
    assert wanted_set(parse(["-c", str(tmp_path / "a.yaml")], "")[0]) == "model_ema"


def preprocessing_of(predictor: mindvit.Predictor) -> tuple[Any, ...]:
    found = predictor.preprocessing
    return found.size, found.crop_pct, found.interpolation, found.statistics


OWN_MEAN, OWN_STD = (100.0, 110.0, 120.0), (50.0, 51.0, 52.0)


@pytest.mark.parametrize("family", ["crossvit", "xcit"])
def test_all_that_a_run_says_travels_with_every_conversion(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    size: dict[str, Any] = {"img_size": (36, 32)} if family == "crossvit" else {}
    side = 36 if family == "crossvit" else 48
    weights, average = (random_weights(family, seed, **size) for seed in (1, 2))
    images: dict[str, Any] = {
        "image_resize": side,
        "crop_pct": 0.75,
        "interpolation": "bilinear",
        "mean": OWN_MEAN,
        "std": OWN_STD,
    }
    first = save_run(tmp_path / "run.ckpt", family, weights, average, **images, **size)
    steps = [("timm.safetensors", ["--to", "timm"]), ("a.ckpt", [])]
    if family == "xcit":
        steps += [("b.safetensors", []), ("paddle.safetensors", ["--to", "paddlevit"])]
    expected, path = mindvit.Predictor(first, device_target="CPU"), first
    statistics = tuple(tuple(value / 255 for value in values) for values in (OWN_MEAN, OWN_STD))
    assert preprocessing_of(expected) == (side, 0.75, "bilinear", statistics)
    for name, more in steps:
        path = converted(path, tmp_path / name, *more)
        found = mindvit.Predictor(path, device_target="CPU")
        assert holds(found.net, average)
        assert found.class_names == expected.class_names == tuple(NAMES)
        assert preprocessing_of(found) == preprocessing_of(expected)
        says_what_it_was(path)
    assert json.loads((tmp_path / "timm.safetensors.json").read_text("utf-8")) == {
        "architecture": f"small_{family}",
        "task": "classification",
        "num_classes": 5,
        "label_names": NAMES,
        "input_size": [3, side, side],
        "crop_pct": 0.75,
        "crop_mode": "center",
        "interpolation": "bilinear",
        "mean": list(statistics[0]),
        "std": list(statistics[1]),
    }
    only_the_average_is_left(path, tmp_path)


def says_what_it_was(path: Path) -> None:
    meta = read_weights(path)[1]
    assert (meta["score"], meta["ema_score"]) == ({"correct1": 7}, {"correct1": 9})
    assert (meta["best_weights"], meta["taken"]) == ("ema", "ema")
    run = {"epoch": 3, "step": 12, "steps": 4, "best": 7, "tally": {}, "data": "abc", "mindvit": "0.0.1"}
    assert meta["run"] == run and "step" not in meta
    assert CheckpointInfo.of(read(path)).recipe["crop_pct"] == 0.75
    while "before" in meta:
        meta = meta["before"]
    assert meta["source"] == "run.ckpt"


def only_the_average_is_left(path: Path, folder: Path) -> None:
    assert read(path, "ema").taken == "ema"
    alone = "holds the moving average of the weights alone"
    assert alone in refused(convert.main, path, "--out", folder / "d.ckpt", "--take", "model")
    with pytest.raises(UserError, match="but not the state of a run"):
        checkpoint.of_file(str(path))


def test_a_new_head_and_another_size_are_what_the_file_says_then(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    weights = random_weights("crossvit", 1, img_size=(36, 32))
    first = save_run(tmp_path / "run.ckpt", "crossvit", weights, img_size=(36, 32), image_resize=36)
    kept = read_weights(converted(first, tmp_path / "a.ckpt", "--resize"))[0]
    assert all(
        np.array_equal(kept[name], value) for name, value in weights.items()
    )  # of a file of ours there is nothing to resize unless a size is given
    for wrong in (["--img_size", "24", "16"], ["--img_size", "24,16"]):
        told = refused(convert.main, first, "--out", tmp_path / "b.ckpt", *wrong)
        assert "--img_size is 24,16, but the weights in" in told and "are for 36,32: leave it out" in told
    assert "must be an int, px, or two" in refused(
        convert.main, first, "--out", tmp_path / "b.ckpt", "--img_size", "large"
    )
    assert not (tmp_path / "b.ckpt").exists()
    assert (
        read_weights(converted(first, tmp_path / "c.ckpt", "--img_size", "36"))[0].keys() == weights.keys()
    )  # means 36,32
    found = mindvit.Predictor(
        converted(first, tmp_path / "d.ckpt", "--img_size", "24,16", "--resize"), device_target="CPU"
    )
    assert found.preprocessing.size == 24 and found.net.sizes == (24, 16) and found.class_names == tuple(NAMES)
    info = CheckpointInfo.of(read(converted(first, tmp_path / "e.ckpt", "--new_head", "--num_classes", "3")))
    assert (info.num_classes, info.class_names, info.img_size) == (3, (), (36, 32))


def test_weights_of_others_tell_their_size_channels_and_classes(tmp_path: Path) -> None:
    weights = random_weights("crossvit", 1, img_size=(36, 32), in_channels=1, num_classes=7)
    path = save_torch(tmp_path / "timm.pth", names.outwards(weights, names.origin("timm", "crossvit")).arrays)
    told = CheckpointInfo.of(read(path))
    assert (told.model, told.num_classes, told.in_channels, told.img_size) == (None, 7, 1, (36, 32))
    filled = told.fill(parse(["--model", "small_crossvit"], "")[0])
    assert (filled.augment.image_resize, filled.model.img_size, filled.model.num_classes) == (36, (36, 32), None)
    assert "doesn't say which network it belongs to: --model NAME" in refused(
        convert.main, path, "--out", tmp_path / "a.ckpt"
    )
    out = converted(path, tmp_path / "a.ckpt", "--model", "small_crossvit")
    found = read(out)
    assert all(np.array_equal(found.arrays[name], value) for name, value in weights.items())
    again = CheckpointInfo.of(found)
    assert (again.model, again.num_classes, again.in_channels, again.img_size) == ("small_crossvit", 7, 1, (36, 32))
    recipe = again.fill(parse([], "")[0])
    assert (recipe.augment.image_resize, recipe.model.img_size) == (36, (36, 32))
    for family, arguments in (
        ("cvt", {"in_channels": 2}),
        ("crossformer", {"in_channels": 4}),
        ("xcit", {"in_channels": 5}),
    ):
        told = CheckpointInfo.of(read(save_torch(tmp_path / "b.pth", random_weights(family, 1, **arguments))))
        assert (told.in_channels, told.img_size, told.num_classes) == (arguments["in_channels"], None, 5)


def test_a_recipe_s_own_keys_win_and_the_checkpoint_s_fill_the_others(tmp_path: Path) -> None:
    path = save_run(
        tmp_path / "a.ckpt",
        "xcit",
        random_weights("xcit", 1),
        dataset="digits",
        crop_pct=0.75,
        image_resize=48,
        new_head=True,
    )
    told = CheckpointInfo.of(read(path))
    for options in ([], ["--model", "small_xcit"]):
        filled = told.fill(parse([*options, "--crop_pct", "0.5"], "")[0])
        assert (filled.model.model, filled.augment.crop_pct, filled.augment.image_resize, filled.data.dataset) == (
            "small_xcit",
            0.5,
            48,
            "digits",
        )
        assert (
            filled.model.num_classes == 5 and not filled.model.new_head and filled.origins["image_resize"] == str(path)
        )
    assert told.fill(parse(["--data_dir", str(tmp_path)], "")[0]).data.dataset == "imagenet"
    with pytest.raises(UserError, match="is a checkpoint of small_xcit, but the model asked for is small_cvt"):
        told.fill(parse(["--model", "small_cvt"], "")[0])
    same = CheckpointInfo("a.ckpt", model="xcit_nano_12_p16_224")  # the same network, for larger images
    assert same.network("xcit_nano_12_p16_384_distill").name == "xcit_nano_12_p16_384_distill"


def test_an_exported_file_has_its_classes_and_preprocessing_beside_it(
    run_with_average: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "export", lambda net, image, form, path, batch, metadata: (image, batch, metadata))
    export.main(
        [
            "--ckpt_path",
            str(run_with_average),
            "--format",
            "MINDIR",
            "--out",
            str(tmp_path / "a.mindir"),
            "--batch_size",
            "1",
            "--size",
            "48",
        ]
    )
    said = json.loads((tmp_path / "a.mindir.json").read_text("utf-8"))
    assert said["label_names"] == NAMES and said["input_size"] == [3, 48, 48] and said["architecture"] == "small_xcit"
    out = capsys.readouterr().out
    assert (
        "taken: ema" in out
        and "((3, 48, 48), 1, {" in out
        and "'input_size': '[3, 48, 48]'" in out
        and "a.mindir.json: classes and preprocessing" in out
    )
