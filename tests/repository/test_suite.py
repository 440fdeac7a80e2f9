"""The parts that make and CI run: together they are all tests, each once."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from conftest import SLOW
from golden import FOLDER

from mindvit.models import list_models

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


class Words(dict[str, bool]):
    """The names of pytest's -k: true where a test's name has them in it."""

    def __init__(self, test: str):
        super().__init__()
        self.test = test

    def __missing__(self, word: str) -> bool:
        return word in self.test


def test_the_files_that_take_long_are_there() -> None:
    assert {name for name in SLOW if not list((ROOT / "tests").rglob(name))} == set()


def test_every_golden_is_in_one_group() -> None:
    groups = dict(re.findall(r"^(test-goldens-[\w-]+): NETWORKS = (.+)$", MAKEFILE, re.MULTILINE))
    listed = re.search(r"^GOLDENS = (.+)$", MAKEFILE, re.MULTILINE)
    assert listed and sorted(listed[1].split()) == sorted(groups)
    for test in (
        "test_the_filling_is_the_oracles",
        "test_bicubic_matrices",
        *(f"test_logits[{name}]" for name in list_models()),
    ):
        assert [bool(eval(expression, {}, Words(test))) for expression in groups.values()].count(True) == 1, test


def test_ci_runs_every_part() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    run = {
        word
        for line in script.splitlines()
        if line.startswith("make ")
        for word in line.split()[1:]
        if not word.startswith("--")
    }
    of_test = re.search(r"^test: .*\n\t.+\$\(TWO_AT_A_TIME\) (.+)$", MAKEFILE, re.MULTILINE)
    parts = {
        name for name in re.findall(r"^(test-[\w-]+):", MAKEFILE, re.MULTILINE) if not name.startswith("test-goldens-")
    }
    assert of_test
    assert parts - {"test-fast"} <= run | set(of_test[1].split())


def test_every_dense_golden_has_a_test_or_a_reason() -> None:
    listed: list[str] = []
    for section in (FOLDER / "dense_keys.md").read_text("utf-8").split("\n## ")[1:]:
        rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
        keys = [pair for keys, _ in rows for pair in re.findall(r"`([^`]+)` (\d+)", keys)]
        total = re.match(r"dense_\w+\.npz: (\d+) keys", section)
        assert total and sum(int(count) for _, count in keys) == int(total[1]), section[:40]
        listed += [key for key, _ in keys]
        for file, tests in re.findall(r"`(\w+/test_\w+\.py)`: ((?:`test_\w+`(?:, )?)+)", section):
            source = (ROOT / "tests" / file).read_text("utf-8")
            assert all(f"def {name}(" in source for name in re.findall(r"\w+", tests)), (file, tests)
    known = re.compile("|".join(re.escape(key).replace(r"\*", ".+") for key in listed))
    for path in (path for kind in ("detection", "segmentation") for path in FOLDER.glob(f"{kind}*.npz")):
        for key in np.load(path).files:  # some have another first part here
            names = key, key.partition("/")[2], f"miou/{key}"
            assert any(known.fullmatch(name) for name in names), (path.name, key)
