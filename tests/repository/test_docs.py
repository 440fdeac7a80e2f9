"""Every command, every piece of Python and every recipe in README and docs does what it says; docs/commands.md lists
them.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import shlex
import sys
from pathlib import Path
from typing import Any, Iterator

import mindspore as ms
import numpy as np
import pytest
import yaml
from image_files import make_data_dir, make_folder, stripes
from made_up import CLASSES, WHOLE, publish_by_name, released, run_folder, trained
from small import SIDE, SMALL

from mindvit.cli import benchmark
from mindvit.cli.main import COMMANDS
from mindvit.hub.cache import CACHE, OFFLINE
from mindvit.models import model_info, registry
from mindvit.recipe.commandline import parse
from mindvit.recipe.schema import FIELDS
from mindvit.runtime import device

ROOT = Path(__file__).parents[2]

import docs_commands  # noqa: E402
from docs_commands import BIG, DRY, NPU, OPTIONS, PARSED, RULES, RUN, Command, commands, commands_of  # noqa: E402

ALL = list(dict.fromkeys(commands()))
CPU = ("--device_target", "CPU")
TINY = ("--batch_size", "2", *CPU)


def bash(*hows: str) -> list[Any]:
    """The bash commands that are checked in one of these ways, each once, as parameters."""
    found = {item.text: item.how for item in ALL if item.language == "bash" and item.how.startswith(hows)}
    return [pytest.param(text, id=text, marks=[pytest.mark.big] * (how == BIG)) for text, how in found.items()]


def pieces(language: str) -> list[Any]:
    return [
        pytest.param(item.text, id=f"{item.page}:{item.text.splitlines()[0][:40]}")
        for item in ALL
        if item.language == language
    ]


@pytest.fixture(scope="module")
def zoo() -> Iterator[None]:
    """Every network with few and narrow layers, on small images, under its own name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_entries", dict(registry._entries))
        for name, entry in registry._entries.items():
            family = entry.info.family
            info = dataclasses.replace(entry.info, input_size=SIDE[family])
            registry._entries[name] = registry.Entry(info, entry.build, {**entry.config, **SMALL[family][1]})
        yield


@pytest.fixture(scope="module")
def place(zoo: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything lies that the pages name: the repository's files, images, weights, runs."""
    here = tmp_path_factory.mktemp("place")
    for name in ("configs", *(path.name for path in ROOT.glob("requirements*.txt"))):
        (here / name).symlink_to(ROOT / name)
    (here / "docs").mkdir()
    (here / "docs" / "images").symlink_to(ROOT / "docs" / "images")
    (here / "results").mkdir()
    (here / "results" / "goldens.md").symlink_to(ROOT / "results" / "goldens.md")
    make_data_dir(here / "DIR", classes=CLASSES, train=2, val=2)
    for number, name in enumerate(("a.jpg", "b.jpg", "image.jpg", "IMAGE.png")):
        stripes(0, 2, number).save(here / name)
    make_folder(here / "folder", per_class=2)
    (here / "imagenet.txt").write_text("\n".join(f"name {kind}" for kind in range(CLASSES)), "utf-8")
    digits, images = (
        (
            "--config",
            str(ROOT / "configs/quickstart/crossvit_digits.yaml"),
            "--img_size",
            "24,16",
            "--image_resize",
            "24",
        ),
        ("--data_dir", "DIR", "--model", "crossvit_9"),
    )
    trained(here / "runs/quickstart/crossvit_9-best.ckpt", *digits, classes=10)
    for run in ("crossvit_9", "mine"):
        trained(here / "runs" / run / "crossvit_9-best.ckpt", *images)
    trained(
        here / "runs/crossformer_digits/crossformer_tiny-best.ckpt",
        "--model",
        "crossformer_tiny",
        "--dataset",
        "digits",
    )
    for run in ("quickstart", "mine", "a", "b", "RUN_DIR"):
        run_folder(here / "runs" / run, *digits)
    released(here / "weights.safetensors", "cvt_13_224")
    publish_by_name(here / "cache")
    return here


@pytest.fixture(autouse=True)
def no_network(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the pages ask for by name is in the cache; nothing is fetched."""
    monkeypatch.setenv(CACHE, str(place / "cache"))
    monkeypatch.setenv(OFFLINE, "1")


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Networks that run operator by operator: compiling them is what the other tests do."""
    original = device.set_up
    monkeypatch.setattr(
        device, "set_up", lambda runtime, precision: original(dataclasses.replace(runtime, mode=1), precision)
    )
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


def filled(words: list[str], place: Path) -> list[str]:
    """The words of a command with files of this place for what the pages write in capitals."""
    model = words[words.index("--model") + 1] if "--model" in words else None
    classes = 1000 if words[1] in ("mindvit.cli.convert", "mindvit.cli.export") else CLASSES
    if model == "NAME":
        model = words[words.index("NAME")] = "crossvit_9"
    fixed = {
        "IMAGE": "IMAGE.png",
        "FOLDER": "folder",
        "RUN_DIR": "runs/RUN_DIR",
        "DATA_DIR": "DIR",
        "OUT": "packed",
    }
    result = []
    for before, word in zip(["", *words], words):
        if word == "SOURCE":
            word = str(released(place / "SOURCE.pth", model or "crossvit_9", classes))
        elif word == "FILE" and before in ("--config", "-c"):
            word = "configs/crossvit/crossvit_9_ascend.yaml"
        elif word == "FILE" and before == "--resume":
            word = "none"
        elif word == "FILE":
            word = (
                str(released(place / f"{model}.safetensors", model, classes))
                if model
                else "runs/quickstart/crossvit_9-best.ckpt"
            )
        elif word == "DIR" and before == "--out":
            word = "out"
        result.append(fixed.get(word, word))
    return result


def python_words(words: list[str]) -> list[str]:
    """What stands after `python` in a command, `mindvit NAME ...` and `python -m mindvit NAME ...` being the module
    that NAME stands for.
    """
    words = words[2:] if words[:3] == ["python", "-m", "mindvit"] else words
    if words[0] != "mindvit":
        return words[1:]
    if words[1] not in COMMANDS:
        return ["-m", "mindvit.cli.main", *words[1:]]
    return (
        [f"{words[1]}.py", *words[2:]]
        if (ROOT / f"{words[1]}.py").exists()
        else ["-m", COMMANDS[words[1]].module, *words[2:]]
    )


def call(words: list[str]) -> None:
    """`python WORDS`, in this process."""
    if words[0] == "-m":
        importlib.import_module(words[1]).main(words[2:])
    else:
        assert re.fullmatch(r"\w+\.py", words[0]) and (ROOT / words[0]).exists(), words
        importlib.import_module(words[0][:-3]).main(words[1:])


@pytest.mark.parametrize("text", bash(RUN, BIG, "run"))
def test_a_command_runs(
    text: str, place: Path, uncompiled: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(place)
    words = filled(python_words(shlex.split(text)), place)
    if words[0] == "validate.py":
        words += [
            "--image_resize",
            str(SIDE["xcit" if "xcit" in text else "crossvit"]),
            "--batch_size",
            "90" if "digits" in text else "10",
            *CPU,
        ]
        words += ["--img_size", "24,16"] if "crossvit" in text else []
    elif words[1:2] and words[1].endswith((".predict", ".attention")):
        words += CPU
    began = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
    call(words)
    printed = capsys.readouterr().out
    written = [path for path in place.rglob("*") if path.is_file() and began.get(path) != path.stat().st_mtime_ns]
    assert printed.strip() or written
    if "--out" in words:
        out = place / words[words.index("--out") + 1]
        assert out in written or any(out in path.parents for path in written)


@pytest.mark.parametrize("text", bash(OPTIONS, DRY))
def test_options_files_and_values_of_a_command_are_taken(
    text: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(place)
    words = shlex.split(text.partition(" '>' ")[0].partition(" > ")[0])  # where its output goes is the shell's business
    if words[0] == "env":
        words = words[words.index("msrun" if "msrun" in words else "python") :]
    if words[0] == "msrun":
        from mindspore.parallel.cluster import run

        monkeypatch.setattr(sys, "argv", words)
        given = run.get_args()
        assert given.worker_num >= given.local_worker_num > 0 and given.task_script == "python"
        words = ["python", *given.task_script_args]
    call_words = filled(python_words(words), place)
    if call_words[:2] == ["-m", "mindvit.cli.benchmark"]:
        parse(call_words[2:], "", benchmark.EXTRA)
    elif call_words[0] == "train.py":
        call([word for word in call_words if word != "--dry_run"] + ["--print_config"])
        assert "# command line" in capsys.readouterr().out or len(call_words) <= 4
    else:
        parse(call_words[1:], "")


@pytest.mark.parametrize("text", bash(f"{PARSED};"))
def test_options_of_the_comparison_are_taken(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    compare = importlib.import_module("compare")
    seen: list[Any] = []
    monkeypatch.setattr(compare, "networks", seen.append)
    compare.main([sys.executable if word == "VENV/bin/python" else word for word in shlex.split(text)[2:]])
    assert seen[0].torch_python == sys.executable


@pytest.mark.big
@pytest.mark.parametrize("text", bash(DRY))
def test_training_is_tried(
    text: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(place)
    words = [
        word for word in filled(python_words(shlex.split(text)), place) if word not in ("--dry_run", "--print_config")
    ]
    recipe = parse(words[1:], "")[0]
    family = model_info(recipe.model.model).family
    words += ["--image_resize", str(SIDE[family]), *TINY, *(("--img_size", "24,16") if family == "crossvit" else ())]
    words += ["--resume", "none"]
    if "--ckpt_path" in words:
        words += ["--ckpt_path", str(released(place / f"{recipe.model.model}.start.safetensors", recipe.model.model))]
    if recipe.distill.teacher and recipe.distill.teacher.startswith("mindcv/"):
        words += ["--distill_type", "none"]  # 83 million parameters
    call([*words, "--dry_run"])
    assert "ms/step" in capsys.readouterr().out


@pytest.mark.parametrize("text", pieces("python"))
def test_a_piece_of_python_runs(text: str, place: Path, uncompiled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Line by line; where a line's comment is a value, it is that line's."""
    monkeypatch.chdir(place)
    if "Predictor" not in text:
        monkeypatch.setattr(registry, "_entries", WHOLE)  # networks as they are
    if "crossvit_9_224.pth" in text:
        released(place / "crossvit_9_224.pth", "crossvit_9", 1000)
    space: dict[str, Any] = {}
    exec("import mindvit", space)  # said once a page
    for statement in ast.parse(text).body:
        source = ast.get_source_segment(text, statement) or ""
        if not isinstance(statement, ast.Expr):
            exec(source, space)
            continue
        value = eval(source, space)
        comment = text.splitlines()[(statement.end_lineno or 1) - 1][statement.end_col_offset :].strip().lstrip("# ")
        said = literal(comment)
        assert said is None or value == said, source


def literal(comment: str) -> Any:
    """What a comment says a value is: the whole of it, or its first word; None if it says none."""
    for text in (comment, comment.split(" ")[0]):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            continue
        return None if "..." in text else value
    return None


@pytest.mark.parametrize("text", pieces("yaml"))
def test_a_recipe_on_a_page_is_one(text: str, tmp_path: Path) -> None:
    content = yaml.safe_load(text)
    bases = content.get("base", [])
    content["base"] = [
        str(ROOT / base) if str(base).startswith("configs") else base
        for base in ([bases] if isinstance(bases, str) else bases)
    ]
    if all(str(base).startswith("/") for base in content["base"]):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content), "utf-8")
        parse(["--config", str(tmp_path / "recipe.yaml")], "")
    assert set(content) - {"base"} <= set(FIELDS)


def test_what_is_installed_and_made_is_there() -> None:
    makefile, ci = (ROOT / "Makefile").read_text("utf-8"), (ROOT / ".ci" / "run").read_text("utf-8")
    for item in ALL:
        words = shlex.split(item.text) if item.language == "bash" else [""]
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), item
            assert item.how != "`.ci/run`" or re.search(rf"^make( .*)? {words[1]}( |$)", ci, re.MULTILINE), item
        elif words[0] == "pip":
            assert (ROOT / words[-1]).exists(), item


def test_the_tests_that_are_named_exist() -> None:
    for _, how in RULES:
        for path, name in re.findall(r"(tests/[\w/]+\.py)::(\w+)", how):
            assert f"def {name}(" in (ROOT / path).read_text("utf-8")


def test_old_names_stand_beside_keys_that_exist() -> None:
    keys = 0
    for line in (ROOT / "docs" / "migrate.md").read_text("utf-8").splitlines():
        cells = line.split(" | ")
        if len(cells) == 2 and re.match(r"\| (`--|`[A-Z_]+[.`]|`weight_|`re_)", line) and "`-" not in cells[1]:
            for word in re.findall(r"`([^`]+)`", cells[1]):
                if word not in ("norm_and_bias", "random") and not word.startswith(("randaug", "train.py")):
                    assert word in FIELDS, line
                    keys += 1
    assert keys > 60


def test_nothing_goes_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert commands_of("python a.py \\\n    --b 1   # why\n\n# only a comment\n$ make it | head\n") == [
        "python a.py --b 1",
        "make it '|' head",
    ]
    with pytest.raises(ValueError, match="nothing checks 'rm -r /'"):
        assert Command("x.md", "bash", "rm -r /").how
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(docs_commands, "ROOT", tmp_path)
    for text, why in (("text\n\n    python train.py\n", "only indented"), ("```\nmake test\n```\n", "language ''")):
        (tmp_path / "README.md").write_text(text, "utf-8")
        with pytest.raises(ValueError, match=why):
            commands()
    (tmp_path / "README.md").write_text(f"{NPU}\n```bash\nmake a\n```\n\n```bash\nmake b\n```\n", "utf-8")
    assert [(item.text, item.npu) for item in commands()] == [("make a", True), ("make b", False)]
    handled = {param.id for hows in ((RUN, BIG, "run"), (OPTIONS, DRY), (f"{PARSED};",)) for param in bash(*hows)}
    shell = [item for item in ALL if item.language == "bash"]
    assert all(
        item.text in handled or item.text.split()[0] in ("make", "pip", "source") or item.how.startswith("tests/")
        for item in shell
    )
    assert len(ALL) > 50 and np.mean([item.language == "bash" for item in ALL]) > 0.8
