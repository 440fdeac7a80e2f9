"""The command mindvit: its table of commands, help without MindSpore, recipes by name, the doctor, completion."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Iterator

import pytest

from mindvit import environment
from mindvit.cli import completion, doctor
from mindvit.cli.main import COMMANDS, main
from mindvit.errors import UserError
from mindvit.recipe.commandline import parse
from mindvit.recipe.names import recipe_path, shipped_recipes
from mindvit.version import __version__

ROOT = Path(__file__).parents[2]
ASKED = "train validate predict attention report losses convert export benchmark census prepare config doctor"


def printed(*arguments: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main(arguments)
    return out.getvalue()


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """python -m mindvit ARGUMENTS, or with code as the first argument."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def refused(name: str) -> str:
    with pytest.raises(UserError) as caught:
        recipe_path(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Another folder than the repository's."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def test_all_commands_are_there() -> None:
    assert set(ASKED.split()) <= set(COMMANDS)
    assert all(f"  {name} " in printed("--help") for name in COMMANDS)
    assert printed() == printed("--help")
    assert printed("--version") == f"mindvit {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help(name: str) -> None:
    assert printed(name, "--help").startswith("usage: ")


@pytest.mark.parametrize("name", ["train", "validate", "config"])
def test_help_says_how_it_was_called(name: str) -> None:
    assert printed(name, "--help").startswith(f"usage: mindvit {name} ")
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        importlib.import_module(name).main(["--help"])  # the script in the root
    assert out.getvalue().startswith(f"usage: {name}.py ")


def test_help_imports_no_mindspore() -> None:
    """Of all commands, in one fresh interpreter: numpy and Pillow aren't needed either."""
    code = (
        "import contextlib, io, sys\nfrom mindvit.cli.main import COMMANDS, main\nmain(['--help'])\n"
        "for name in COMMANDS:\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "        main([name, '--help'])\n"
        "print(sorted({'mindspore', 'numpy', 'PIL', 'mindcv', 'matplotlib'} & set(sys.modules)))"
    )
    done = command("-c", code)
    assert (done.stderr, done.stdout.splitlines()[-1]) == ("", "[]")


def test_an_unknown_command_is_told_with_the_nearest() -> None:
    done = command("-m", "mindvit", "trian", "--config", "x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: mindvit has no command 'trian'; did you mean train? (all commands: mindvit --help)\n"
    with pytest.raises(UserError, match="has no option '--verison'"):
        main(["--verison"])


def test_commands_that_compute_refuse_a_wrong_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "problems", lambda: iter(["mindvit needs more"]))
    with pytest.raises(environment.EnvironmentMismatch, match="mindvit needs more"):
        main(["config"])
    assert printed("config", "--help").startswith("usage: ")


def test_every_recipe_that_ships_is_found_by_its_name(elsewhere: Path) -> None:
    recipes = shipped_recipes()
    files = {path for path in (ROOT / "configs").rglob("*.yaml") if path.parent.name != "_base"}
    assert set(recipes.values()) == files
    for name, path in recipes.items():
        variant = name.rpartition("/")[2]
        assert {recipe_path(given) for given in (name, variant, f"{variant}.yaml", f"configs/{name}.yaml")} == {path}


def test_a_recipe_by_name_is_resolved_and_remembered_by_its_name(elsewhere: Path) -> None:
    recipe, given = parse(["--config", "crossvit_9_ascend", "--lr", "0.5"], "")
    assert (recipe.model.model, recipe.schedule.lr, given["config"]) == ("crossvit_9", 0.5, "crossvit_9_ascend")
    assert recipe.origins["model"] == str(ROOT / "configs/crossvit/crossvit_9_ascend.yaml")


def test_a_path_that_exists_wins_over_a_name(elsewhere: Path) -> None:
    (elsewhere / "cvt_digits").mkdir()  # a run's folder, say
    assert recipe_path("cvt_digits") == ROOT / "configs/quickstart/cvt_digits.yaml"
    (elsewhere / "xcit_digits").write_text("lr: 3", "utf-8")
    assert parse(["--config", "xcit_digits"], "")[0].schedule.lr == 3


def test_a_recipe_may_be_based_on_one_that_ships_by_its_name(elsewhere: Path) -> None:
    (elsewhere / "mine.yaml").write_text("base: crossvit_9_ascend\ndata_dir: DIR", "utf-8")
    recipe = parse(["--config", "mine.yaml"], "")[0]
    assert (recipe.model.model, recipe.data.data_dir, recipe.optim.opt) == ("crossvit_9", "DIR", "adamw")
    assert recipe.origins["model"] == str(ROOT / "configs/crossvit/crossvit_9_ascend.yaml")
    (elsewhere / "crossvit_9_ascend").write_text("model: cvt_13_224", "utf-8")  # a file beside it wins
    assert parse(["--config", "mine.yaml"], "")[0].model.model == "cvt_13_224"
    (elsewhere / "other.yaml").write_text("base: crossvit_9_asend", "utf-8")
    with pytest.raises(UserError, match="other.yaml: base: no recipe crossvit_9_asend"):
        parse(["--config", "other.yaml"], "")


def test_a_name_is_a_short_path_in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert str(recipe_path("crossvit_9_ascend")) == "configs/crossvit/crossvit_9_ascend.yaml"


def test_an_unknown_recipe_is_told_with_the_nearest(elsewhere: Path) -> None:
    (elsewhere / "mine_digits.yaml").write_text("lr: 1", "utf-8")
    assert "did you mean crossvit_9_ascend or " in refused("crossvit_9_asend")
    assert "did you mean crossvit/crossvit_9_ascend or " in refused("configs/crossvit/crossvit_9_asend.yaml")
    assert "did you mean mine_digits or " in refused("mine_digit.yaml")
    assert (
        refused("nothing/like_it.yaml")
        == "no recipe nothing/like_it.yaml: neither a file nor the name of a recipe that ships with mindvit"
    )


def test_the_doctor_finds_this_machine() -> None:
    done = command("-m", "mindvit", "doctor", OMP_NUM_THREADS="2", MINDVIT_NATIVE="0")
    assert (done.returncode, done.stderr) == (0, "")
    facts = dict(re.findall(r"^(\S.{14}) (.*)$", done.stdout, re.MULTILINE))
    facts = {name.strip(): text for name, text in facts.items()}
    assert facts["mindvit"].startswith(f"{__version__}, ")
    assert facts["Python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert all(f"{name} " in facts["libraries"] for name in doctor.REQUIRED)
    assert facts["device"].startswith("CPU")
    assert facts["image kernels"] == "off (MINDVIT_NATIVE=0)"
    assert facts["CPU kernels"].startswith(("built: /", "not built: note: ", "off ("))
    assert "MINDVIT_NATIVE=0\n" in done.stdout
    assert "OMP_NUM_THREADS=2\n" in done.stdout
    assert facts["problems"] == "none"


def test_the_doctor_tells_a_broken_mindspore(tmp_path: Path) -> None:
    (tmp_path / "mindspore.py").write_text("raise ImportError('libpython3.so: no such file')", "utf-8")
    done = command(
        "-m",
        "mindvit",
        "doctor",
        PYTHONPATH=str(tmp_path),
        CXX=str(tmp_path / "no_compiler"),
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"^device +can't be used: ImportError: libpython3.so: no such file$", done.stdout, re.MULTILINE)
    for kernels in ("CPU kernels", "image kernels"):
        assert re.search(rf"^{kernels} +not built: note: .*no_compiler", done.stdout, re.MULTILINE)
    assert f"{tmp_path / 'no_compiler'}: does not run" in done.stdout
    assert re.search(r"^cache +.*cache/mindvit: empty$", done.stdout, re.MULTILINE)


def test_the_doctor_tells_a_mindspore_that_ends_the_process(tmp_path: Path) -> None:
    (tmp_path / "mindspore.py").write_text("import os\nos.kill(os.getpid(), 9)", "utf-8")
    done = command("-m", "mindvit", "doctor", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0
    assert re.search(r"^MindSpore +the process that asks MindSpore ended with -9: ", done.stdout, re.MULTILINE)


def test_the_doctor_tells_what_to_do_about_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    original = environment.metadata.version
    monkeypatch.setattr(
        environment.metadata,
        "version",
        lambda name: {"numpy": "2.1.0", "mindspore": "2.2.0"}.get(name) or original(name),
    )
    ((_, text),) = doctor.problems()
    assert text.splitlines() == [
        "mindvit needs numpy 1.25 to 1.26, this is 2.1.0: pip install 'numpy>=1.25,<2'",
        "mindvit needs mindspore 2.7 to 2.10, this is 2.2.0: pip install 'mindspore>=2.7,<2.11'",
    ]
    with pytest.raises(UserError, match="takes none"):
        doctor.main(["--all"])


def test_the_doctor_needs_no_library(tmp_path: Path) -> None:
    """In an environment with nothing in it: every library is told as missing, with what to type."""
    (tmp_path / "mindspore.py").write_text("raise ImportError", "utf-8")
    done = command("-S", "-m", "mindvit", "doctor", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "mindvit needs mindspore, which is not installed: pip install 'mindspore>=2.7,<2.11'" in done.stdout
    assert re.search(r"^not installed +mindspore, numpy, pyyaml, ", done.stdout, re.MULTILINE)


def test_completion_knows_commands_options_and_recipes() -> None:
    code = completion.script("bash") + (
        'complete_words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _mindvit; echo "${COMPREPLY[@]}"; }\n'
        "complete_words mindvit pre\ncomplete_words mindvit train --config crossvit_9_a\n"
        "complete_words mindvit predict --to\n"
        "complete_words mindvit train --drop_path\n"
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["predict prepare", "crossvit_9_ascend", "--topk", "--drop_path_rate"]
    assert completion.script("zsh").endswith(completion.script("bash"))


def test_facts_of_the_probe_are_lines_of_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(doctor, "cpu_kernels", lambda: 1 / 0)
    doctor.probe()
    facts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [fact["fact"] for fact in facts] == ["image kernels", "device", "CPU kernels"]
    assert facts[2]["text"] == "can't be used: ZeroDivisionError: division by zero"


def test_a_wheel_that_lacks_or_invents_files_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    spec = importlib.util.spec_from_file_location("check_wheel", ROOT / "scripts" / "check_wheel.py")
    assert spec is not None and spec.loader is not None
    check_wheel = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check_wheel)
    names = check_wheel.wanted()
    assert {"mindvit/py.typed", "mindvit/data/digits.npz", "mindvit/configs/crossvit/crossvit_9_ascend.yaml"} <= names
    extra = {"mindvit-0.dist-info/entry_points.txt", "mindvit-0.dist-info/licenses/LICENSE"}
    for held, code, says in (
        (names | extra, 0, "as in the repository"),
        ((names | extra) - {"mindvit/py.typed"}, 1, "missing from the wheel: mindvit/py.typed"),
        (names | extra | {"mindvit/old.py"}, 1, "but not in the repository: mindvit/old.py"),
        (names | extra | {"configs/a.yaml"}, 1, "beside the package: configs/a.yaml"),
        (names, 1, "missing from the wheel: entry_points.txt"),
    ):
        with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
            for name in held:
                wheel.writestr(name, "")
        assert check_wheel.main(str(tmp_path / "a.whl")) == code
        assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["predict", "attention", "report", "convert", "export", "benchmark", "census", "prepare"]
)
def test_the_old_names_of_modules_go_on_working(name: str) -> None:
    old, new = importlib.import_module(f"mindvit.tools.{name}"), importlib.import_module(COMMANDS[name].module)
    assert old.main is new.main
    done = command("-m", f"mindvit.tools.{name}", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")
