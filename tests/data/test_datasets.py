"""Sources: folders, list files, digits, and what a user is told when they are wrong."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Optional, Sequence

import numpy as np
import pytest
from image_files import MODES, make_data_dir, make_folder, make_list_files
from PIL import Image

from mindvit.data.datasets.build import check_same_classes, open_dataset
from mindvit.data.datasets.digits import DigitsDataset
from mindvit.data.datasets.folder import FolderDataset
from mindvit.data.decoding import DecodeError
from mindvit.errors import UserError
from mindvit.recipe.options import DataOptions

CUT = b"the file itself, cut short"


def error_of(data_dir: Optional[Path], split: str = "train", class_names: Optional[Sequence[str]] = None) -> str:
    """The UserError's text on opening a split; it must be one line."""
    with pytest.raises(UserError) as caught:
        open_dataset(DataOptions(data_dir=None if data_dir is None else str(data_dir)), split, class_names)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folder_is_sorted_nested_and_without_hidden_files(tmp_path: Path) -> None:
    make_folder(tmp_path, classes=3, per_class=2)
    (tmp_path / "class_1" / "more").mkdir()
    shutil.copy(tmp_path / "class_1" / "000_jpeg_rgb.JPEG", tmp_path / "class_1" / "more" / "a.jpg")
    for name in (".hidden.jpg", "notes.txt"):
        (tmp_path / "class_0" / name).write_text("no image")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "readme.txt").write_text("no class")
    source = FolderDataset(tmp_path)
    assert source.class_names == ("class_0", "class_1", "class_2") and source.labels.dtype == np.int32
    assert [os.path.relpath(source.name(index), tmp_path) for index in range(len(source))] == [
        "class_0/000_jpeg_rgb.JPEG",
        "class_0/001_jpeg_rgb.JPEG",
        "class_1/000_jpeg_rgb.JPEG",
        "class_1/001_jpeg_rgb.JPEG",
        "class_1/more/a.jpg",
        "class_2/000_jpeg_rgb.JPEG",
        "class_2/001_jpeg_rgb.JPEG",
    ]
    assert source.labels.tolist() == [0, 0, 1, 1, 1, 2, 2]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_decodes_as_pillow_does(tmp_path: Path, mode: str) -> None:
    make_folder(tmp_path, classes=1, per_class=1, modes=(mode,))
    source = FolderDataset(tmp_path)
    decoded = source.read(0)
    assert decoded.mode == "RGB" and decoded.size == (50, 40)
    with Image.open(source.name(0)) as image:
        if mode == "png_grey16":  # Pillow's own conversion clips at 255
            expected = np.repeat(np.asarray(image).astype(int)[..., None] // 257, 3, -1)
        else:
            expected = np.asarray((image.convert("RGBA") if image.mode == "P" else image).convert("RGB")).astype(int)
    assert np.abs(np.asarray(decoded) - expected).max() == 0
    assert np.asarray(decoded).std() > 20


def test_exif_orientation_is_ignored_and_contents_beat_the_name(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (50, 40), "red").save(folder / "turned.jpg", exif=exif)
    Image.new("RGB", (30, 20), "red").save(folder / "zpng.JPEG", format="PNG")
    source = FolderDataset(tmp_path)
    assert [source.read(0).size, source.read(1).size] == [(50, 40), (30, 20)]


def test_list_files_equal_folders(tmp_path: Path) -> None:
    make_data_dir(tmp_path, classes=3, train=3, val=2)
    os.rename(
        tmp_path / "train" / "class_1" / "000_jpeg_rgb.JPEG", tmp_path / "train" / "class_1" / "000 with spaces.JPEG"
    )
    data = DataOptions(data_dir=str(tmp_path))
    folders = [open_dataset(data, split) for split in ("train", "val")]
    make_list_files(tmp_path)
    with open(tmp_path / "train_list.txt", "a", encoding="utf-8") as file:
        file.write("\n  \n")
    for folder, listed in zip(folders, [open_dataset(data, split) for split in ("train", "val")]):
        assert listed.class_names == ("0", "1", "2")
        assert listed.labels.tolist() == folder.labels.tolist()
        assert [listed.name(index) for index in range(len(listed))] == [
            folder.name(index) for index in range(len(folder))
        ]
    assert (np.asarray(listed.read(1)) == np.asarray(folder.read(1))).all()


def test_list_file_mistakes_name_file_and_line(tmp_path: Path) -> None:
    make_data_dir(tmp_path, classes=1, train=1)
    file, good = tmp_path / "train_list.txt", "train/class_0/000_jpeg_rgb.JPEG"
    for bad in ("nolabel.jpg", f"{good} cat", f"{good} -1", "7"):
        file.write_text(f"{good} 0\n\n{bad}\n")
        assert (
            error_of(tmp_path) == f"{file}, line 3: {bad!r} is not 'relative/path label' with a label of 0, 1, 2, ..."
        )
    file.write_text(f"{good} 0\ntrain/gone/x.jpg 0\n")
    assert (
        error_of(tmp_path)
        == f"{file}, line 2: {tmp_path}/train/gone/x.jpg does not exist; paths are relative to {tmp_path}"
    )
    file.write_text(f"{good} 5\n")
    assert (
        error_of(tmp_path, class_names=("0", "1"))
        == f"{file}, line 1: label 5, but the 2 training classes have labels 0 to 1"
    )
    file.write_text(f"{good} 4000000000\n")
    assert (
        error_of(tmp_path)
        == f"{file}, line 1: label 4000000000 is too large; labels are class numbers, 0 to 999999 at most"
    )
    file.write_text("\n")
    assert "names no image" in error_of(tmp_path)


def test_data_dir_mistakes(tmp_path: Path) -> None:
    accepted = "a folder with train/ and val/ class folders, or with train_list.txt and val_list.txt"
    assert (
        error_of(None)
        == f"data_dir is not given, but dataset: imagenet needs it: {accepted} (--dataset digits needs no folder)"
    )
    assert error_of(tmp_path / "no") == f"data_dir {tmp_path}/no does not exist; give {accepted}"
    (tmp_path / "file").write_text("")
    assert error_of(tmp_path / "file") == f"data_dir {tmp_path}/file is not a folder; give {accepted}"
    assert error_of(tmp_path, "val") == (
        f"data_dir {tmp_path} has neither val/ nor val_list.txt; it has file: give {accepted}, "
        "or name the split with val_split, or let it be split: --val_share 0.2"
    )
    (tmp_path / "train").mkdir()
    assert (
        error_of(tmp_path)
        == f"{tmp_path}/train has no class folder (nothing); it needs one folder of images for each class"
    )
    (tmp_path / "train" / "a.jpg").write_text("")
    assert "(only a.jpg)" in error_of(tmp_path)


def test_class_folder_without_images(tmp_path: Path) -> None:
    make_data_dir(tmp_path)
    (tmp_path / "train" / "empty").mkdir()
    assert error_of(tmp_path).startswith(f"class folder empty of {tmp_path}/train has no image (.jpg")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_data_dir(tmp_path)

    def refuse(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    assert error_of(tmp_path) == f"{tmp_path}/train can't be read (Permission denied); check its permissions"


def test_validation_is_numbered_by_training_classes(tmp_path: Path) -> None:
    make_data_dir(tmp_path, classes=3)
    shutil.rmtree(tmp_path / "val" / "class_0")
    data = DataOptions(data_dir=str(tmp_path))
    train = open_dataset(data, "train")
    val = open_dataset(data, "val", train.class_names)
    check_same_classes(train, val)
    assert set(val.labels) == {1, 2} and val.class_names == train.class_names
    with pytest.raises(UserError, match="lacks class class_0"):
        check_same_classes(train, open_dataset(data, "val"))
    for name in "pqrst":
        shutil.copytree(tmp_path / "val" / "class_1", tmp_path / "val" / name)
    message = (
        "has 7 classes, of which p, q, r and 2 more are not among the 3 training classes; "
        "both splits need the same class names"
    )
    assert error_of(tmp_path, "val", train.class_names) == f"{tmp_path}/val {message}"
    with pytest.raises(UserError, match=message):
        check_same_classes(train, open_dataset(data, "val"))


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "empty"),
        (b"GARBAGE" * 50, "not one of JPEG, PNG, BMP, WEBP, TIFF, GIF"),
        (CUT, "truncated"),
        (None, "No such"),
    ],
)
def test_bad_files_are_named_with_a_reason(tmp_path: Path, content: Optional[bytes], reason: str) -> None:
    make_folder(tmp_path, classes=1, per_class=1, size=(200, 150))
    source = FolderDataset(tmp_path)
    path = tmp_path / "class_0" / "000_jpeg_rgb.JPEG"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:1500] if content == CUT else content)
    with pytest.raises(DecodeError) as caught:
        source.read(0)
    assert caught.value.name == str(path) and reason in caught.value.reason and "0x" not in str(caught.value)


def test_digits_split() -> None:
    train, val = DigitsDataset("train"), DigitsDataset("val")
    assert (len(train), len(val)) == (1437, 360) and train.class_names == val.class_names == tuple("0123456789")
    assert not {train.name(i).split("/")[-1] for i in range(1437)} & {val.name(i).split("/")[-1] for i in range(360)}
    for source in (train, val):
        assert (
            np.bincount(source.labels, minlength=10).min() / len(source) > 0.07
            and np.bincount(source.labels).max() / len(source) < 0.13
        )
    pixels = np.stack([np.asarray(val.read(index)) for index in range(360)])
    assert pixels.shape == (360, 8, 8, 3) and pixels.dtype == np.uint8 and (pixels[..., 0] == pixels[..., 2]).all()
    assert set(np.unique(pixels)) == {round(value * 255 / 16) for value in range(17)}


def test_digits_can_be_told_apart() -> None:
    """Labels belong to their images: the nearest training digit is nearly always of the same class."""
    train, val = DigitsDataset("train"), DigitsDataset("val")
    known, asked = (
        np.stack([np.asarray(s.read(i))[..., 0].ravel() for i in range(len(s))]).astype(np.float32)
        for s in (train, val)
    )
    near = ((asked**2).sum(1)[:, None] - 2 * asked @ known.T + (known**2).sum(1)).argmin(1)
    assert (train.labels[near] == val.labels).mean() > 0.96
