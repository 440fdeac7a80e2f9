"""A folder without a split: each class is divided, the same tomorrow, and images that come later leave it as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_files import blobs

from mindvit.data.datasets.base import LabelledDataset
from mindvit.data.datasets.build import open_dataset
from mindvit.data.datasets.split_folder import choose
from mindvit.data.scan import SPLIT
from mindvit.errors import UserError
from mindvit.recipe.options import DataOptions


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """10 cats, 5 dogs and a cow."""
    for name, count in (("cat", 10), ("cow", 1), ("dog", 5)):
        (tmp_path / name).mkdir()
        for number in range(count):
            add(tmp_path / name / f"{number}.png")
    return tmp_path


def add(path: Path) -> None:
    blobs(0, (8, 8)).save(path)


def opened(folder: Path, share: float | None = 0.2, seed: int = 0) -> dict[str, LabelledDataset]:
    data = DataOptions(data_dir=str(folder), val_share=share, split_seed=seed)
    train = open_dataset(data, "train")
    return {"train": train, "val": open_dataset(data, "val", train.class_names)}


def images(splits: dict[str, LabelledDataset]) -> dict[str, set[str]]:
    return {
        split: {"/".join(dataset.name(number).split("/")[-2:]) for number in range(len(dataset))}
        for split, dataset in splits.items()
    }


def test_each_class_is_divided(folder: Path) -> None:
    splits = opened(folder)
    assert splits["val"].class_names == splits["train"].class_names == ("cat", "cow", "dog")
    assert [splits["val"].labels.tolist().count(number) for number in range(3)] == [2, 0, 1]
    parts = images(splits)
    assert not parts["train"] & parts["val"]
    assert len(parts["train"] | parts["val"]) == 16


def test_the_split_is_kept_whatever_is_asked_for_later(folder: Path) -> None:
    first = images(opened(folder))
    assert images(opened(folder, share=0.5, seed=3)) == first
    assert opened(folder)["train"].passed_over == ""
    assert images(opened(folder, share=None)) == first  # as validate.py and predict open it


def test_another_seed_is_another_split(folder: Path) -> None:
    names = [f"cat/{number}" for number in range(100)]
    first, second = (choose(names, [0] * 100, 0.2, seed) for seed in (0, 1))
    assert first != second
    assert [*first.values()].count("val") == [*second.values()].count("val") == 20


def test_new_images_are_for_training_and_lost_ones_are_told(folder: Path) -> None:
    before = images(opened(folder))
    add(folder / "cat" / "new.png")
    (folder / "dog" / "0.png").unlink()
    splits = opened(folder)
    assert images(splits)["train"] - before["train"] == {"cat/new.png"}
    new, gone = splits["train"].remarks
    assert new.startswith("1 images that") and "cat/new.png" in new
    assert gone.startswith("1 images that") and "dog/0.png" in gone


def test_a_folder_that_cannot_be_written_is_split_all_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError

    kept = images(opened(folder))
    (folder / SPLIT).unlink()
    monkeypatch.setattr("mindvit.data.datasets.split_folder.os.replace", refuse)
    splits = opened(folder)
    assert images(splits) == kept
    assert "can't be written" in splits["train"].remarks[0]
    assert sorted(path.name for path in folder.iterdir()) == ["cat", "cow", "dog"]


@pytest.mark.parametrize("text", ["", "image,split\ncat/0.png,test\n", "cat/0.png,train\n"])
def test_a_file_that_is_no_split(folder: Path, text: str) -> None:
    (folder / SPLIT).write_text(text)
    with pytest.raises(UserError, match="needs the columns image and split"):
        opened(folder)


def test_nothing_to_validate(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    add(tmp_path / "cat" / "0.png")
    with pytest.raises(UserError, match="no image for val"):
        opened(tmp_path)


def test_without_being_asked_nothing_is_split(folder: Path) -> None:
    with pytest.raises(UserError, match="or let it be split: --val_share 0.2"):
        opened(folder, share=None)
