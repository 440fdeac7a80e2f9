"""What is found below folders as people have them: links, side folders, endings; what is passed over is counted and
named.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from image_files import stripes
from real_inputs import GBK, SIDE_FOLDERS, SPELT, class_folders, endings, ladder, link, list_file, side_folders, unseen

from mindvit.data.datasets.base import LabelledDataset
from mindvit.data.datasets.build import find_images, open_dataset, passed_over, remarks
from mindvit.data.datasets.folder import FolderDataset
from mindvit.data.scan import Scan
from mindvit.errors import UserError
from mindvit.recipe.options import DataOptions
from mindvit.runtime.files import printable


def opened(root: Path, split: str = "train", **data: object) -> LabelledDataset:
    return open_dataset(DataOptions(data_dir=str(root), **data), split)  # type: ignore[arg-type]


def counts(source: LabelledDataset) -> dict[str, int]:
    return dict(zip(source.class_names, np.bincount(source.labels, minlength=len(source.class_names)).tolist()))


@pytest.mark.parametrize(
    "place, target",
    [
        ("a/up", ".."),
        ("a/self", "."),
        ("a/root", "../.."),
        ("a/everything", "/"),
        ("a/deep/up", "../.."),
        ("around", "."),
        ("a/itself", "../a"),
        ("a/p.jpg/x", ".."),
    ],
)
def test_a_link_that_leads_back_is_passed_over_and_named(tmp_path: Path, place: str, target: str) -> None:
    class_folders(tmp_path)
    link(tmp_path / "train" / place, target)
    link((tmp_path / "train" / place).with_name("again"), target)
    source = opened(tmp_path)
    assert counts(source) == {"a": 4, "b": 4}
    assert (
        f"symbolic links {Path(place).parent / 'again'} -> {target} (a loop), {place} -> {target} (a loop)"
        in source.passed_over
    )
    assert f"; passed over in train: {source.passed_over}" == passed_over(
        ("train", source), ("val", opened(tmp_path, "val"))
    )


def test_two_links_in_each_of_many_folders_do_not_multiply(tmp_path: Path) -> None:
    root = ladder(class_folders(tmp_path / "data"))
    source = opened(root)
    assert (
        counts(source) == {"a": 5, "b": 4} and source.name(4).endswith("end.jpg") or source.name(0).endswith("end.jpg")
    )
    assert source.passed_over.count("counted already") == 3 and "and 21 more" in source.passed_over


def test_links_that_assemble_a_data_set_are_followed(tmp_path: Path) -> None:
    store = class_folders(tmp_path / "store", ("x", "y", "z"))
    root = tmp_path / "data"
    link(root / "train" / "a", store / "train" / "x")  # a class
    link(root / "train" / "b" / "more", store / "train" / "y")  # a folder within one
    link(root / "train" / "b" / "one.jpg", store / "train" / "z" / "p000.jpg")  # an image
    link(root / "train" / "b" / "odd.txt", store / "train" / "z" / "p001.jpg")
    link(root / "val", store / "val")
    source = opened(root)
    assert counts(source) == {"a": 4, "b": 5} and source.passed_over == "1 .txt"
    assert [os.path.relpath(source.name(index), root) for index in (0, 4, 8)] == [
        "train/a/p000.jpg",
        "train/b/more/p000.jpg",
        "train/b/one.jpg",
    ]
    assert len(opened(root, "val")) == 6 and all(source.read(index).size == (50, 40) for index in range(9))


def test_an_image_belongs_to_the_class_of_its_real_folder(tmp_path: Path) -> None:
    class_folders(tmp_path)
    link(tmp_path / "train" / "a" / "more", "../b")
    link(tmp_path / "train" / "aa", "b")
    source = opened(tmp_path)
    assert counts(source) == {"a": 4, "b": 4} and {Path(source.name(index)).parent.name for index in range(8)} == {
        "a",
        "b",
    }
    assert (
        source.passed_over
        == "symbolic links aa -> b (a folder that is counted already), a/more -> ../b (a folder that is counted "
        "already)"
    )
    link(tmp_path / "val" / "only" / "loop", "..")
    with pytest.raises(
        UserError,
        match=r"class folder only of .* has no image .*\(passed over: symbolic link only/loop -> \.\. \(a loop\)\)",
    ):
        opened(tmp_path, "val")


def test_broken_links_are_named(tmp_path: Path) -> None:
    class_folders(tmp_path)
    link(tmp_path / "train" / "a" / "gone", tmp_path / "nowhere")
    link(tmp_path / "train" / "a" / "round", "round")
    link(tmp_path / "train" / "a" / "zgone.jpg", "nowhere.jpg")
    source = opened(tmp_path)
    assert (
        counts(source) == {"a": 5, "b": 4}
        and source.passed_over == f"broken links a/gone -> {tmp_path}/nowhere, a/round -> round"
    )
    with pytest.raises(Exception, match=r"zgone.jpg can't be decoded \(a broken link to nowhere.jpg\)"):
        source.read(4)
    with pytest.raises(UserError, match="no image or folder .*gone: a broken link to "):
        find_images([str(tmp_path / "train" / "a" / "gone")])


def test_side_folders_and_files_are_no_classes_and_no_images(tmp_path: Path) -> None:
    side_folders(tmp_path)
    for split, each in (("train", 4), ("val", 2)):
        source = opened(tmp_path, split)
        assert counts(source) == {"a": each, "b": each}
        assert "hidden" in source.passed_over and "1 .ini" in source.passed_over.replace("2", "1")
        assert "folders #recycle, #snapshot, $RECYCLE.BIN and 7 more" in source.passed_over
    folder = tmp_path / "train" / "b"
    link(folder / "@eaDir", tmp_path / "val" / "a")
    (folder / "photos.jpg").mkdir()  # an image's ending is no hindrance for a folder
    stripes(1, 2, 9).save(folder / "photos.jpg" / "x.jpg")
    assert (
        len(Scan(str(folder)).images[""]) == 5
        and len([name for name in SIDE_FOLDERS if not name.startswith(".")]) == 10
    )


def test_every_documented_ending_is_found_and_decoded(tmp_path: Path) -> None:
    class_folders(tmp_path, ("b",))
    paths = endings(tmp_path / "train" / "a")
    source = opened(tmp_path)
    assert source.passed_over == "" and sorted(map(str, paths)) == [source.name(index) for index in range(len(paths))]
    assert all(np.asarray(source.read(index)).std() > 20 for index in range(len(paths)))


def test_files_of_other_kinds_are_counted(tmp_path: Path) -> None:
    class_folders(tmp_path)
    unseen(tmp_path / "train" / "a")
    stripes(0, 2, 0).save(tmp_path / "train" / "stray.jpg")
    os.mkfifo(tmp_path / "train" / "b" / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "train" / "b" / "s.png"))
        source = opened(tmp_path)
    assert counts(source) == {"a": 4, "b": 4}
    assert (
        source.passed_over
        == "3 .heic, 2 .ppm, 1 file without extension, 1 .npy, 1 .txt, 1 image outside of class folders, 2 "
        "special files"
    )
    (tmp_path / "val" / "a").rename(tmp_path / "val" / "c")
    (tmp_path / "val" / "a").mkdir()
    unseen(tmp_path / "val" / "a")
    with pytest.raises(UserError, match=r"class folder a of .*/val has no image .*\(passed over: 3 .heic, 2 .ppm"):
        opened(tmp_path, "val")


def test_deep_folders_are_no_hindrance(tmp_path: Path) -> None:
    place = class_folders(tmp_path, ("a",), train=0) / "train" / "a"
    for depth in range(1, 1011):  # mkdir(parents=True) goes by recursion too
        os.mkdir(f"{place}{'/d' * depth}")
    place = Path(f"{place}{'/d' * 1010}")
    stripes(0, 2, 0).save(place / "x.jpg")
    assert len(FolderDataset(tmp_path / "train")) == 1
    (place / "x.jpg").unlink()
    os.removedirs(place)  # pytest's own clearing up goes down by recursion


def test_predict_and_attention_find_the_same_and_say_what_they_pass_over(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    class_folders(tmp_path, (GBK, "b"))
    place = tmp_path / "train"
    link(place / "b" / "up", "..")
    stripes(0, 2, 0).save(place / "stray.jpg")
    assert len(find_images([str(place), str(place / "stray.jpg")])) == 4 + 4 + 1 + 1
    assert capsys.readouterr().err == f"passed over in {place}: symbolic link b/up -> .. (a loop)\n"
    assert len(find_images([os.fsdecode(os.path.join(os.fsencode(place), GBK))])) == 4 and capsys.readouterr().err == ""
    unseen(tmp_path / "val")
    link(tmp_path / "only" / "loop", ".")
    with pytest.raises(UserError, match=r"only holds no image .*passed over: symbolic link loop -> \. \(a loop\)"):
        find_images([str(tmp_path / "only")])


@pytest.mark.parametrize(
    "labels, told",
    [
        ((0, 1), []),
        ((1, 2), ["of 3 classes, class 0 has no image to train on; labels are counted from 0"]),
        ((3, 900), ["of 901 classes, classes 0 to 2, 4 to 899 have no image to train on; labels are counted from 0"]),
    ],
)
def test_a_list_whose_labels_have_gaps_is_told(tmp_path: Path, labels: tuple[int, int], told: list[str]) -> None:
    class_folders(tmp_path)
    list_file(
        tmp_path, [f"train/{name}/p00{number}.jpg {label}" for name, label in zip("ab", labels) for number in range(2)]
    )
    assert remarks(opened(tmp_path)) == told


@pytest.mark.usefixtures("small_networks")
def test_training_and_prepare_say_it_before_they_begin(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from mindvit.cli import prepare
    from mindvit.engine.trainer import Trainer
    from mindvit.recipe.commandline import parse

    class_folders(tmp_path / "data")
    unseen(tmp_path / "data" / "train" / "a")
    options = ["--model", "nano", "--data_dir", str(tmp_path / "data"), "--device_target", "CPU", "--batch_size", "4"]
    Trainer(parse(options, "")[0]).announce()
    data, *others = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("data: ", "WARNING: "))]
    assert not others and data.endswith(
        "; passed over in train: 3 .heic, 2 .ppm, 1 file without extension, 1 .npy, 1 .txt"
    )
    for split in ("train", "val"):
        list_file(
            tmp_path / "data",
            [f"{split}/a/p{number:03d}.jpg 1" for number in ((0, 1, 2, 3) if split == "train" else (100, 101))],
            split,
        )
    Trainer(parse(options, "")[0]).announce()
    prepare.main([str(tmp_path / "data"), str(tmp_path / "out")])
    told = capsys.readouterr().out
    assert (
        told.count("WARNING: of 2 classes, class 0 has no image to train on; labels are counted from 0\n") == 2
        and "passed over" not in told
    )


def test_classes_without_images_are_told_by_name(tmp_path: Path) -> None:
    class_folders(tmp_path, ("b", "d"))
    source = FolderDataset(tmp_path / "train", ("a", "b", "c", "d", "e"))
    assert remarks(source) == ["of 5 classes, classes 0, 2, 4 (a, c, e) have no image to train on"]


def test_images_that_a_list_names_again_are_told(tmp_path: Path) -> None:
    class_folders(tmp_path)
    list_file(tmp_path, ["train/a/p000.jpg 0", "train/b/p000.jpg 1", "train/a/p000.jpg 0", "train/b/p000.jpg 0"])
    assert remarks(opened(tmp_path)) == [
        f"1 line of {tmp_path}/train_list.txt names an image again that is named already (train/a/p000.jpg in lines 1 "
        "and 3); "
        f"1 line of {tmp_path}/train_list.txt names an image again with another label (train/b/p000.jpg in lines "
        "2 and 4)"
    ]


@pytest.mark.parametrize("encoding, end", [("utf-8", "\n"), ("utf-8-sig", "\r\n"), ("utf-16", "\r\n")])
@pytest.mark.parametrize("between", ["\t", " ", " \t  "])
def test_lists_of_other_systems_are_read(tmp_path: Path, encoding: str, end: str, between: str) -> None:
    class_folders(tmp_path, ("my cats", "b\u2028\u3000"))
    list_file(
        tmp_path,
        [
            f"train/my cats/p000.jpg{between}0",
            f"train\\my cats\\p001.jpg{between}0",
            f"train/b\u2028\u3000/p000.jpg{between}1",
        ],
        encoding=encoding,
        end=end,
    )
    source = opened(tmp_path)
    assert source.labels.tolist() == [0, 0, 1] and [source.name(index) for index in range(3)] == [
        f"{tmp_path}/train/my cats/p000.jpg",
        f"{tmp_path}/train/my cats/p001.jpg",
        f"{tmp_path}/train/b\u2028\u3000/p000.jpg",
    ]


def test_names_that_are_no_utf8_are_read_from_folders_and_lists(tmp_path: Path) -> None:
    class_folders(tmp_path, (GBK, "dog"))
    source = opened(tmp_path)
    assert [printable(name) for name in source.class_names] == ["dog", SPELT] and len(source.fingerprint()) == 8
    (tmp_path / "train_list.txt").write_bytes(b"train/" + GBK + b"/p000.jpg\t0\n")
    assert opened(tmp_path).read(0).size == (50, 40)
