"""The size that is given is the size that is computed: image_resize and img_size, in every command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
from image_files import make_data_dir
from small import SMALL

from mindvit.benchmark import census
from mindvit.benchmark.data import measure_data
from mindvit.benchmark.network import Job, measure
from mindvit.cli import export
from mindvit.engine import checkpoint, evaluate, trainer
from mindvit.errors import UserError
from mindvit.inference.predictor import Predictor
from mindvit.models import create_model, input_sizes, registry
from mindvit.recipe.commandline import parse
from mindvit.recipe.schema import Recipe
from mindvit.tasks import task_of
from mindvit.tasks.classification.sizes import sized
from mindvit.weights.checkpoint_info import CheckpointInfo
from mindvit.weights.readers import read

pytestmark = pytest.mark.usefixtures("small_networks")

CONFIGS = Path(__file__).parents[2] / "configs"
NOWHERE = ["--data_dir", "/nowhere/at/all", "--device_target", "CPU"]
WRONG = [
    ("crossformer_tiny", 40, "multiples of 32, such as 32 or 64"),
    ("crossformer_tiny", 16, "multiples of 32, such as 32 (resize"),
    ("cvt_13_224", 2, "at least 3 px"),
    ("crossvit_9", 224, "multiples of 12, such as 216 or 228; this network was published for 240"),
    ("crossvit_9", 8, "multiples of 12, such as 12;"),
]


def recipe(*words: str) -> Recipe:
    return parse(words, "")[0]


def sizes(found: Recipe) -> tuple[Optional[int], Any]:
    return found.augment.image_resize, found.model.img_size


@pytest.mark.parametrize(
    "name, given, expected",
    [
        ("crossvit_9", {}, (240, (240, 224))),
        ("crossvit_15_dagger_384", {}, (408, (408, 384))),
        ("crossvit_9", {"image_resize": 96}, (96, (96, 96))),
        ("crossvit_9", {"image_resize": 384}, (384, (384, 352))),
        ("crossvit_9", {"image_resize": 48}, (48, (48, 48))),
        ("crossvit_9", {"image_resize": 12}, (12, (12, 16))),
        ("crossvit_9", {"image_resize": 408}, (408, (408, 384))),
        ("crossvit_9", {"img_size": 96}, (96, (96, 96))),
        ("crossvit_9", {"img_size": [48, 32]}, (48, (48, 32))),
        ("crossvit_9", {"image_resize": 48, "img_size": (48, 32)}, (48, (48, 32))),
        ("xcit_nano_12_p16_224", {"image_resize": 100}, (100, None)),
        ("crossformer_tiny", {}, (224, None)),
        ("crossformer_tiny", {"image_resize": 448}, (448, None)),
        ("cvt_13_384", {}, (384, None)),
    ],
)
def test_one_size_gives_the_other(name: str, given: dict[str, Any], expected: tuple[int, Any]) -> None:
    assert input_sizes(name, **given) == expected


@pytest.mark.parametrize("name, side, says", WRONG)
def test_a_size_that_a_network_cannot_take_is_refused_before_anything_is_listed_or_built(
    name: str, side: int, says: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "weights.npz", weight=np.zeros(1, np.float32))
    given = recipe("--model", name, "--image_resize", str(side), *NOWHERE)
    weights = recipe(
        "--model", name, "--image_resize", str(side), "--ckpt_path", str(tmp_path / "weights.npz"), *NOWHERE
    )
    for call in (
        lambda: trainer.fit(given),
        lambda: trainer.dry_run(given),
        lambda: evaluate.validate(weights),
        lambda: measure_data(given, warmup=1, steps=1),
        lambda: measure(Job(given.flat(), "train", given.origins)),
        lambda: census.network(name, side),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert says in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="^command line: "):
        trainer.fit(given)


def test_sizes_that_contradict_each_other_are_refused() -> None:
    for words in (("--image_resize", "96", "--img_size", "48,32"), ("--image_resize", "240", "--img_size", "48")):
        with pytest.raises(
            UserError,
            match="command line: image_resize .* doesn't fit img_size .*, with which crossvit_9 takes images of 48 px",
        ):
            sized(recipe("--model", "crossvit_9", *words))
    with pytest.raises(UserError, match="not built for one size"):
        sized(recipe("--model", "xcit_nano_12_p16_224", "--img_size", "96"))


def test_the_command_line_counts_more_than_a_file_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    digits = ("-c", str(CONFIGS / "quickstart" / "crossvit_digits.yaml"))
    for words, expected, line in (
        ((), (48, (48, 32)), ""),
        (("--image_resize", "48"), (48, (48, 32)), ""),
        (
            ("--image_resize", "96"),
            (96, (96, 96)),
            "crossvit_9: img_size is (96, 96) px, as image_resize is 96 (command line)",
        ),
        (
            ("--img_size", "24,16"),
            (24, (24, 16)),
            "crossvit_9: image_resize is 24, img_size (24, 16) px, as img_size is (24, 16) (command line)",
        ),
    ):
        found = sized(recipe(*digits, *words))
        printed = capsys.readouterr().out
        assert sizes(found) == expected and line in printed and sizes(sized(found)) == expected
    official = sized(recipe("-c", str(CONFIGS / "crossvit" / "crossvit_9_ascend.yaml")))
    assert sizes(official) == (240, (240, 224)) and capsys.readouterr().out == ""  # what everybody knows is not said
    (tmp_path / "two.yaml").write_text(f"base: {digits[1]}\nimage_resize: 96", "utf-8")
    with pytest.raises(UserError, match="two.yaml: image_resize 96 doesn't fit img_size"):
        sized(recipe("-c", str(tmp_path / "two.yaml")))


UNSAID = dict.fromkeys(("take", "model", "num_classes", "pretrained"))  # options of mindvit export
CLASSIFIERS = [
    path for path in sorted(CONFIGS.glob("[!_]*/*.yaml")) if task_of(recipe("-c", str(path))).name == "classification"
]


@pytest.mark.parametrize("path", CLASSIFIERS, ids=lambda path: path.stem)
def test_every_shipped_recipe_computes_at_the_size_it_says(path: Path) -> None:
    given = recipe("-c", str(path))
    side, built_for = sizes(sized(given))
    assert side == given.augment.image_resize
    assert built_for is None or built_for[0] == side


def saved(folder: Path, family: str, **stored: Any) -> Path:
    """A checkpoint of a small network whose recipe says `stored`."""
    values = {**recipe("--model", f"small_{family}").flat(), **stored}
    net = create_model(f"small_{family}", 3, img_size=stored.get("img_size"))
    meta = {
        "model": f"small_{family}",
        "num_classes": 3,
        "class_names": ["class_0", "class_1", "class_2"],
        "recipe": values,
    }
    return checkpoint.save(folder / f"{family}.ckpt", list(net.get_parameters()), meta)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data_dir(tmp_path_factory.mktemp("images"), classes=3, train=4, val=2, modes=("jpeg_rgb",))


def test_a_run_builds_what_it_says_and_its_checkpoint_knows_it(data: Path, tmp_path: Path) -> None:
    words = [
        "--model",
        "small_crossvit",
        "--data_dir",
        str(data),
        "--batch_size",
        "4",
        "--device_target",
        "CPU",
        "--ckpt_save_dir",
        str(tmp_path),
    ]
    for more, expected in (
        (["--image_resize", "48"], (48, 48)),
        (["--img_size", "36,32"], (36, 32)),
        ([], SMALL["crossvit"][1]["img_size"]),
    ):
        run = trainer.Trainer(recipe(*words, *more), None)
        assert tuple(run.net.sizes) == expected and run.ctx.preprocessing.size == expected[0]
        kept = run.saver.meta()["recipe"]
        assert (kept["image_resize"], kept["img_size"]) == (expected[0], expected)


def test_checkpoints_of_sizes_that_are_refused_now_are_told_apart(data: Path, tmp_path: Path) -> None:
    path = saved(tmp_path, "crossformer", image_resize=40)
    for call in (
        lambda: Predictor(path, device_target="CPU"),
        lambda: evaluate.validate(recipe("--data_dir", "/nowhere", "--ckpt_path", str(path), "--device_target", "CPU")),
        lambda: export.network(argparse.Namespace(ckpt_path=str(path), **UNSAID, size=None)),
    ):
        with pytest.raises(
            UserError,
            match="crossformer.ckpt: CrossFormer: an image of 40 x 40 px, .*multiples of 32, such as 32 or 64",
        ):
            call()


def test_a_size_that_validation_is_given_is_computed_and_said(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = saved(tmp_path, "crossvit", image_resize=24, img_size=(24, 16))
    words = [
        "--data_dir",
        str(data),
        "--ckpt_path",
        str(path),
        "--device_target",
        "CPU",
        "--mode",
        "1",
        "--batch_size",
        "6",
    ]
    assert evaluate.validate(recipe(*words)).count == 6
    assert "resized" not in capsys.readouterr().out
    evaluate.validate(recipe(*words, "--image_resize", "48"))
    printed = capsys.readouterr().out
    assert (
        "img_size is (48, 48) px, as image_resize is 48 (command line)" in printed
        and "2 resized: pos_embed.0, pos_embed.1" in printed
    )
    (tmp_path / "c.yaml").write_text("model: small_crossvit\nimage_resize: 48\nnum_classes: 3", "utf-8")
    with pytest.raises(UserError, match=r"doesn't fit the network: .*img_size=\(24,16\) takes the file's size"):
        evaluate.validate(recipe(*words, "-c", str(tmp_path / "c.yaml")))


def test_a_checkpoint_of_an_earlier_mindvit_is_measured_as_it_was_trained(tmp_path: Path) -> None:
    path = saved(tmp_path, "crossvit", image_resize=48)  # its network, of 24 px, shrank the images
    trained = CheckpointInfo.of(read(path)).fill(recipe("--ckpt_path", str(path)))
    assert sizes(sized(trained, str(path))) == (48, None)
    given = argparse.Namespace(ckpt_path=str(path), **UNSAID, size=None)
    net, _, exported = export.network(given)
    assert tuple(net.sizes) == (24, 16)
    assert exported.augment.image_resize == 48


def test_tools_take_a_size_as_the_size_that_is_computed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = saved(tmp_path, "crossvit", image_resize=24, img_size=(24, 16))
    given = {"ckpt_path": str(path), **UNSAID}
    for size, expected, resized in ((None, (24, 16), False), (24, (24, 16), False), (48, (48, 48), True)):
        net, _, exported = export.network(argparse.Namespace(**given, size=size))
        assert tuple(net.sizes) == expected
        assert exported.augment.image_resize == expected[0]
        assert ("2 resized" in capsys.readouterr().out) == resized
    assert tuple(census.network("small_crossvit", 48).sizes) == (48, 48)
    found = sized(recipe("--model", "small_crossvit", "--image_resize", "48"))
    assert found.model.img_size == (48, 48) and registry.model_info("small_crossvit").input_size == 24
    assert np.prod(create_model("small_crossvit", img_size=found.model.img_size).grids) == 4 * 3


@pytest.mark.parametrize("stored, told", [({"image_resize": None, "img_size": None}, False), ({"seed": 1}, True)])
def test_going_on_from_an_earlier_mindvit_s_checkpoint_tells_no_change_of_size(
    stored: dict[str, Any], told: bool, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["--model", "small_crossvit", "--data_dir", str(data), "--batch_size", "4", "--device_target", "CPU"]
    path = tmp_path / "small_crossvit-1.ckpt"
    run = trainer.Trainer(recipe(*words, "--ckpt_save_dir", str(tmp_path), "--resume", str(path)), None)
    meta = run.saver.meta()
    checkpoint.save(path, run.parameters(), {**meta, "recipe": {**meta["recipe"], **stored}})
    run.restore(checkpoint.of_file(str(path)))
    printed = capsys.readouterr().out
    assert "resuming from" in printed and ("other values than there: seed" in printed) == told
    assert "image_resize" not in printed and "img_size" not in printed
