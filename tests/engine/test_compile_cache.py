"""Compiled graphs that are kept: what is taken from the cache computes the same, and what can't be trusted is
compiled anew.
"""

from __future__ import annotations

import dataclasses
import fcntl
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Optional

import mindspore as ms
import numpy as np
import pytest
import train_small
from image_files import make_data_dir

from mindvit.data.datasets.build import open_dataset
from mindvit.engine import compile_cache
from mindvit.engine.setup import build, setup, train_step
from mindvit.errors import UserError
from mindvit.recipe.commandline import parse
from mindvit.runtime import console, device
from mindvit.tasks.base import RunContext
from mindvit.tasks.classification.task import ClassificationTask
from mindvit.weights import read_weights

TESTS = Path(__file__).parents[1]
OPTIONS = [
    *train_small.NANO,
    "--batch_size",
    "4",
    "--mixup",
    "0.8",
    "--drop_path_rate",
    "0.2",
    "--ema",
    "True",
    "--skip_nonfinite",
    "1",
    "--gradient_accumulation_steps",
    "2",
]
FROM_CACHE = "s (from the cache)"


class PowerCut(BaseException):
    """Nobody is asked."""


pytestmark = pytest.mark.usefixtures("small_networks")


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images to train and 4 to validate."""
    return make_data_dir(tmp_path_factory.mktemp("images"), classes=2, train=12, val=2, modes=("jpeg_rgb",))


def run(folder: Path, out: Path, cache: object, *more: str) -> str:
    """A run in a process of its own, as every start is; what it printed."""
    command = [
        sys.executable,
        str(TESTS / "helpers" / "train_small.py"),
        "--data_dir",
        str(folder),
        "--ckpt_save_dir",
        str(out),
        "--results_csv",
        str(out / "r.csv"),
        "--compile_cache",
        str(cache),
        *OPTIONS,
        *more,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def weights(out: Path) -> dict[str, np.ndarray]:
    return read_weights(out / "nano-2.ckpt")[0]


def same(one: Path, two: Path) -> bool:
    ours, theirs = weights(one), weights(two)
    assert list(ours) == list(theirs)
    return all(np.array_equal(ours[key], theirs[key]) for key in ours)


def test_a_graph_from_the_cache_computes_the_same_with_any_weights(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert "compiled in" in run(folder, tmp_path / "plain", "none")
    assert FROM_CACHE not in run(folder, tmp_path / "first", cache)
    assert FROM_CACHE in run(folder, tmp_path / "second", cache)
    assert same(tmp_path / "plain", tmp_path / "first") and same(tmp_path / "plain", tmp_path / "second")
    end, middle = str(tmp_path / "plain" / "nano-2.ckpt"), str(tmp_path / "plain" / "nano-1.ckpt")
    assert FROM_CACHE in run(folder, tmp_path / "resumed", cache, "--resume", middle)
    assert same(tmp_path / "plain", tmp_path / "resumed")
    run(folder, tmp_path / "on", "none", "--ckpt_path", end)
    assert FROM_CACHE in run(folder, tmp_path / "on_cached", cache, "--ckpt_path", end)
    assert same(tmp_path / "on", tmp_path / "on_cached") and not same(tmp_path / "on", tmp_path / "plain")
    assert FROM_CACHE not in run(folder, tmp_path / "decay", cache, "--weight_decay", "0.5")
    assert not same(tmp_path / "decay", tmp_path / "plain")
    assert len(list(cache.iterdir())) == 2


# What MindSpore does in these tests: it writes a file, or reads the one that is there.


class Step:
    """Stands in for a training step: notes what its compiling found."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, trouble: Optional[Callable[[], None]] = None) -> None:
        self.trouble, self.on, self.path, self.read = trouble, False, Path(), ""
        monkeypatch.setattr(ms, "set_context", self.set_context)

    def set_context(self, enable_compile_cache: bool, compile_cache_path: str = "") -> None:
        self.on, self.path = enable_compile_cache, Path(compile_cache_path)

    def compile(self) -> None:
        if not self.on:
            self.read = "off"
            return
        graph = self.path / "rank_0" / "graph.mindir"
        self.read = graph.read_text() if graph.exists() else ""
        if not self.read:
            graph.parent.mkdir(exist_ok=True)
            graph.write_text("graph")
        if self.trouble:
            self.trouble()


def setting_of(wanted: str, rank: int = 0) -> Any:
    return SimpleNamespace(
        recipe=SimpleNamespace(runtime=SimpleNamespace(compile_cache=wanted)),
        device=SimpleNamespace(rank=rank, running_level="O2"),
    )


@pytest.fixture(name="named")
def _named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_cache, "key", lambda *_: "key")
    monkeypatch.setattr(sys, "argv", [__file__])  # pytest's workers are started by python -c


def kept(step: Any, root: object, rank: int = 0) -> bool:
    return compile_cache.compile_step(step, (), setting_of(str(root), rank))


@pytest.mark.usefixtures("named")
def test_each_rank_has_a_folder_and_the_cache_is_on_for_its_graph_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Step(monkeypatch)
    assert [kept(step, tmp_path, rank) for rank in (0, 1, 0, 1)] == [False, False, True, True]
    assert sorted(path.name for path in (tmp_path / "key").iterdir() if path.is_dir()) == ["0", "1"] and not step.on
    assert not kept(step, "none") and step.read == "off"


def cut() -> None:
    raise PowerCut


@pytest.mark.usefixtures("named")
def test_what_was_not_written_whole_is_compiled_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step(monkeypatch, cut)
    with pytest.raises(PowerCut):
        kept(step, tmp_path)
    assert not step.on
    step = Step(monkeypatch)
    assert not kept(step, tmp_path) and step.read == "" and kept(step, tmp_path) and step.read == "graph"
    with pytest.raises(PowerCut):
        kept(Step(monkeypatch, cut), tmp_path)  # while it reads: who knows what it has done there
    step = Step(monkeypatch)
    assert not kept(step, tmp_path) and step.read == ""


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize("name, content", [("rank_0/graph.mindir", "gra"), ("whole.json", "{"), ("whole.json", "")])
def test_a_file_that_lost_its_end_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str
) -> None:
    step = Step(monkeypatch)
    kept(step, tmp_path)
    (tmp_path / "key" / "0" / name).write_text(content)
    assert not kept(step, tmp_path) and step.read == "" and kept(step, tmp_path)


@pytest.mark.usefixtures("named")
def test_files_that_come_later_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step(monkeypatch)
    kept(step, tmp_path)
    (tmp_path / "key" / "0" / "late").write_text("what a device's compiler keeps")
    assert kept(step, tmp_path) and kept(step, tmp_path)


@pytest.mark.usefixtures("named")
def test_the_second_of_two_processes_goes_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step(monkeypatch)
    kept(step, tmp_path)
    with (tmp_path / "key" / "0.lock").open("w") as other:
        for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH):
            fcntl.flock(other, kind)
            assert not kept(step, tmp_path) and step.read == "off"
    assert kept(step, tmp_path)


@pytest.mark.usefixtures("named")
def test_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    step, file = Step(monkeypatch), tmp_path / "file"
    file.touch()
    with pytest.raises(
        UserError,
        match=r"^compile_cache is .*file, but that can't be written: Not a directory \(give another folder, or none\)$",
    ):
        kept(step, file)
    monkeypatch.setattr(device, "graphs_folder", lambda wanted: file)
    assert not kept(step, "auto") and step.read == "off"
    assert capsys.readouterr().out.count("compiled graphs are not kept") == 1


@pytest.mark.usefixtures("named")
def test_a_program_that_is_no_file_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    console.log_once.cache_clear()
    monkeypatch.setattr(sys, "argv", ["-c"])
    for _ in range(2):  # graphs, of which the first alone says so
        assert not kept(Step(monkeypatch), tmp_path) and not list(tmp_path.iterdir())
    assert capsys.readouterr().out.count("compiled graphs are not kept: this program is no file") == 1


@pytest.mark.usefixtures("named")
def test_an_error_of_compiling_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(5, "of the compiler")

    with pytest.raises(OSError, match="of the compiler"):
        kept(Step(monkeypatch, fail), tmp_path)


@pytest.mark.parametrize(
    "target, wanted, found",
    [
        ("Ascend", "auto", "~/mindvit/graphs"),
        ("CPU", "auto", None),
        ("GPU", "auto", None),
        ("Ascend", "none", None),
        ("CPU", "some/where", "some/where"),
    ],
)
def test_auto_keeps_graphs_on_ascend(
    monkeypatch: pytest.MonkeyPatch, target: str, wanted: str, found: Optional[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "~")
    monkeypatch.setattr(ms, "get_context", {"device_target": target}.get)
    assert device.graphs_folder(wanted) == (found and Path(found))


def setting_for(folder: Path, *more: str) -> RunContext:
    recipe = parse(["--data_dir", str(folder), *OPTIONS, *more], "")[0]
    return setup(recipe, open_dataset(recipe.data, "train"))


TASK = ClassificationTask()


def key_of(setting: RunContext) -> str:
    return compile_cache.key(train_step(build(setting, TASK), setting, TASK), setting)


def test_a_graph_is_known_by_all_that_it_depends_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = setting_for(folder)
    names = {key_of(plain)}
    where = ["--ckpt_save_dir", "elsewhere", "--compile_cache", "elsewhere", "--log_interval", "7", "--resume", "none"]
    assert names == {key_of(setting_for(folder)), key_of(setting_for(folder, *where))}

    def another(name: str) -> None:
        assert name not in names
        names.add(name)

    for option in (
        ["--weight_decay", "0.5"],
        ["--seed", "1"],
        ["--batch_size", "8"],
        ["--ema_decay", "0.9"],
        ["--num_classes", "3"],
        ["--lr", "1"],
    ):
        another(key_of(setting_for(folder, *option)))
    for change in (
        {"ranks": 2},
        {"target": "GPU"},
        {"jit_level": "O1"},
        {"amp_level": "O2"},
        {"half": ms.float16},
        {"half": ms.bfloat16},
    ):
        chosen = dataclasses.replace(plain.device, **change)
        monkeypatch.setattr(compile_cache, "step_options", lambda setting: None)  # which some of these change too
        another(compile_cache.key(SimpleNamespace(get_parameters=list), dataclasses.replace(plain, device=chosen)))  # type: ignore[arg-type]
    for recompute in (False, True):
        runtime = dataclasses.replace(plain.recipe.runtime, recompute=recompute)
        recipe = dataclasses.replace(plain.recipe, runtime=runtime)
        another(compile_cache.key(SimpleNamespace(get_parameters=list), dataclasses.replace(plain, recipe=recipe)))  # type: ignore[arg-type]
    monkeypatch.undo()
    for owner, name in ((device, "chip"), (device, "machine"), (device, "has_kernels")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda: None)
            step = train_step(build(plain, TASK), plain, TASK)
            another(compile_cache.key(step, plain))
    with monkeypatch.context() as patch:
        patch.setattr(ms, "__version__", "9")
        another(key_of(plain))
    assert (compile_cache.SOURCES / "layers" / "attention.py").is_file()
    (tmp_path / "one.py").write_text("1")
    with monkeypatch.context() as patch:
        patch.setattr(compile_cache, "SOURCES", tmp_path)
        another(key_of(plain))
        (tmp_path / "one.py").write_text("2")
        another(key_of(plain))
