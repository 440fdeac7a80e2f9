"""The requirements files: none lets a NumPy in that MindSpore can't be imported with, and extras can read each.
scripts/check_requirements.py installs them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mindvit import environment

ROOT = Path(__file__).parents[2]

from check_requirements import EXTRAS, OPTIONAL, checked, refuse_numpy_2  # noqa: E402


def lines(name: str) -> list[str]:
    return [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines() if line.split("#")[0].strip()]


@pytest.mark.parametrize("name", ["requirements.txt", *OPTIONAL])
def test_a_file_that_is_installed_alone_bounds_numpy_as_mindvit_does(name: str) -> None:
    found = {
        item.name: item.specifier for item in map(Requirement, lines(name))
    }  # no -r, no -c: setuptools reads none for extras
    (lowest, _), (highest, minor) = environment.NUMPY[0], environment.NUMPY[1]
    assert found["numpy"].contains(f"{highest}.{minor}.4") and found["numpy"].contains(
        f"{lowest}.{environment.NUMPY[0][1]}.0"
    )
    assert not found["numpy"].contains("2.0.0") and not found["numpy"].contains("1.24.4")


def test_the_developers_file_holds_all_the_others() -> None:
    assert {f"-r {name}" for name in ("requirements.txt", *OPTIONAL)} <= set(lines("requirements-dev.txt"))


def test_the_extras_are_the_optional_files() -> None:
    names = EXTRAS.removeprefix(".[").removesuffix("]").split(",")
    text = (ROOT / "pyproject.toml").read_text()
    assert tuple(f"requirements-{name}.txt" for name in names) == OPTIONAL
    assert all(f'optional-dependencies.{name} = {{ file = ["requirements-{name}.txt"] }}' in text for name in names)


def test_a_plan_with_numpy_2_is_refused() -> None:
    with pytest.raises(
        SystemExit, match="requirements-onnx.txt alone would install numpy 2.4.6, and MindSpore needs one below 2"
    ):
        refuse_numpy_2("requirements-onnx.txt alone", {"onnx": "1.23.2", "numpy": "2.4.6"})
    refuse_numpy_2("requirements-onnx.txt", {"onnx": "1.23.2", "numpy": "1.26.4"})


def test_an_environment_in_which_a_command_fails_is_refused() -> None:
    with pytest.raises(
        SystemExit,
        match="error: -c import no_such_module ended with 1: ModuleNotFoundError: No module named .no_such_module.",
    ):
        checked(sys.executable, "-c", "import no_such_module")
