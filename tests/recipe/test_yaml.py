"""Recipe files: what YAML makes of a text, and paths in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from recipes import read, refused, write

from mindvit.errors import UserError
from mindvit.recipe.commandline import Parser, parse
from mindvit.recipe.files import read_yaml
from mindvit.recipe.schema import (
    FIELDS,
    convert,
)

ROOT = Path(__file__).parents[2]


QUICKSTART = "configs/quickstart/crossvit_digits.yaml"


@pytest.mark.parametrize(
    "text, line",
    [
        ("lr: 1\nseed: 2\nlr: 3", "lr is given twice, in line 1 and in line 3: keep one"),
        ("# a comment\nlr: 1\n\n'lr': 1", "lr is given twice, in line 2 and in line 4"),
        ("base: a.yaml\nbase: b.yaml", "base is given twice, in line 1 and in line 2"),
    ],
)
def test_a_key_that_is_given_twice_names_both_lines(tmp_path: Path, text: str, line: str) -> None:
    wrong = write(tmp_path, a={}, b={}, wrong=text)
    leaf = write(tmp_path, leaf={"base": "wrong.yaml"})
    for path in (wrong, leaf):
        assert refused("-c", path).startswith(f"{wrong}: {line}")


@pytest.mark.parametrize(
    "text, says",
    [
        ("batch_size: 010", "batch_size is '010', but must be an int: a leading 0 may mean octal; write 10"),
        ("batch_size: 0o10", "batch_size is '0o10', but must be an int"),
        ("batch_size: 0x10", "batch_size is '0x10', but must be an int"),
        ("batch_size: 1:30", "batch_size is '1:30', but must be an int"),
        ("batch_size: 0b11", "batch_size is '0b11'"),
        ("scale: [0.1, 01.0]", "scale is [0.1, '01.0'], but must be a list of 2 numbers"),
        ("batch_size: on", "batch_size is 'on'"),
        ("lr: 2020-01-01", "lr is '2020-01-01', but must be a number"),
    ],
)
def test_a_number_that_yaml_reads_as_another_is_refused(tmp_path: Path, text: str, says: str) -> None:
    assert says in refused("-c", write(tmp_path, leaf=text))


@pytest.mark.parametrize(
    "text, key, value",
    [
        ("data_dir: 010", "data_dir", "010"),
        ("data_dir: 1:30", "data_dir", "1:30"),
        ("ckpt_save_dir: 2024_01", "ckpt_save_dir", "2024_01"),
        ("train_split: 1.10", "train_split", "1.10"),
        ("val_split: on", "val_split", "on"),
        ("val_split: 2024-01-02", "val_split", "2024-01-02"),
        ("data_dir: 2012", "data_dir", "2012"),
        ("val_split: 0x1F", "val_split", "0x1F"),
        ("batch_size: 1_000", "batch_size", 1000),
        ("lr: 1e-8", "lr", 1e-8),
        ("lr: 5.0e-4", "lr", 5e-4),
        ("lr: .5", "lr", 0.5),
        ("lr: 1.", "lr", 1.0),
        ("hflip: 0.", "hflip", 0.0),
        ("seed: 7", "seed", 7),
        ("seed: 0", "seed", 0),
        ("clip_grad: yes", "clip_grad", True),
        ("clip_grad: off", "clip_grad", False),
        ("clip_grad: False", "clip_grad", False),
        ("data_dir: ~", "data_dir", None),
        ("data_dir:", "data_dir", None),
        ("data_dir: null", "data_dir", None),
        ("scale: [0.20, 1]", "scale", (0.2, 1.0)),
    ],
)
def test_a_value_is_what_is_written(tmp_path: Path, text: str, key: str, value: Any) -> None:
    found = read(write(tmp_path, leaf=text)).flat()[key]
    assert found == value and type(found) is type(value)


def test_merges_and_the_recipes_that_ship_are_read_as_ever(tmp_path: Path) -> None:
    recipe = read(write(tmp_path, leaf="<<: {lr: 1.0e-3, seed: 3}\nseed: 4"))
    assert (recipe.schedule.lr, recipe.runtime.seed) == (1e-3, 4)
    for path in sorted(ROOT.glob("configs/*/*.yaml")):
        ours, plain = (
            {key: value for key, value in content.items() if key != "base"}
            for content in (read_yaml(path), yaml.safe_load(path.read_text("utf-8")))
        )
        assert {key: convert(value, FIELDS[key][2]) for key, value in ours.items()} == {
            key: convert(value, FIELDS[key][2]) for key, value in plain.items()
        }


PATHS = {
    "data_dir",
    "pretrained",
    "ckpt_path",
    "teacher_ckpt_path",
    "compile_cache",
    "ckpt_save_dir",
    "resume",
    "results_csv",
}


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert {key for key, (_, item, _) in FIELDS.items() if item.metadata["path"]} >= PATHS
    write(tmp_path / "shared", root={"seed": 7})
    leaf = write(
        tmp_path,
        leaf={
            "base": "~/shared/root.yaml",
            "distill_type": "soft",
            "teacher": "crossvit_9",
            **{key: f"~/{key}" for key in PATHS},
        },
    )
    recipe = read(leaf)
    assert {key: recipe.flat()[key] for key in PATHS} == {
        key: str(tmp_path / key) for key in PATHS
    } and recipe.runtime.seed == 7
    recipe, given = parse(["-c", "~/leaf.yaml", "--data_dir=~/else", "--ckpt_path", "~", "--results_csv", "a~b"], "")
    assert (recipe.data.data_dir, recipe.model.ckpt_path, recipe.log.results_csv) == (
        str(tmp_path / "else"),
        str(tmp_path),
        "a~b",
    )
    assert given["config"] == str(leaf)
    tool = Parser()
    tool.add_argument("places", nargs="+")
    tool.add_argument("--out", type=Path)
    found = tool.parse_args(["~/a", "./~b", "~nobody-of-this-name/c", "--out=~/d"])
    assert (found.places, found.out) == ([str(tmp_path / "a"), "./~b", "~nobody-of-this-name/c"], tmp_path / "d")
    with pytest.raises(UserError, match="unknown argument '--uot=d'; did you mean --out"):
        tool.parse_args(["a", "--uot=d"])
