"""Which folder is which logit: lists of classes, ImageNet's order, checkpoints that name their classes, and what
nobody can know.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
from image_files import make_data_dir, stripes

import train
import validate
from mindvit.data.classes import Head, imagenet, is_ambiguous, open_ordered, read_classes
from mindvit.data.datasets.folder import FolderDataset
from mindvit.data.datasets.list_file import ListDataset
from mindvit.data.datasets.mindrecord import pack
from mindvit.errors import UserError
from mindvit.inference.predictor import Predictor
from mindvit.recipe.options import DataOptions
from mindvit.weights import read_weights

FOREIGN, SMALL_HEAD = Head("a.pth", 1000), Head("a.pth", 4)


def folders(root: Path, names: list[str], split: str = "val") -> Path:
    """root/split/NAME/a.png for each name."""
    for number, name in enumerate(names):
        (root / split / name).mkdir(parents=True)
        stripes(number, len(names), number, (8, 8)).save(root / split / name / "a.png")
    return root


def labels(
    root: Path, head: Optional[Head], split: str = "val", num_classes: Optional[int] = None, **options: Any
) -> dict[str, int]:
    """The label of each class folder that has an image."""
    source = open_ordered(DataOptions(data_dir=str(root), **options), split, head, lambda text: None, num_classes)
    return {Path(source.name(index)).parent.name: int(source.labels[index]) for index in range(len(source))}


def refused(root: Path, head: Optional[Head], split: str = "val", **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        labels(root, head, split, **options)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    return str(caught.value)


def write(path: Path, lines: list[str]) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_the_shipped_list_is_imagenet_s() -> None:
    ids, words = imagenet().columns
    assert len(ids) == len(set(ids)) == len(set(words)) == 1000 and list(ids) == sorted(ids)
    assert all(re.fullmatch(r"n\d{8}", name) for name in ids)
    for number, name, word in (
        (0, "n01440764", "tench"),
        (281, "n02123045", "tabby"),
        (207, "n02099601", "golden retriever"),
        (999, "n15075141", "toilet tissue"),
    ):
        assert (ids[number], words[number]) == (name, word)


def test_a_part_of_imagenet_has_imagenet_s_numbers(tmp_path: Path) -> None:
    data = folders(tmp_path, ["n02123045", "n15075141"])
    told: list[str] = []
    source = open_ordered(DataOptions(data_dir=str(data)), "val", FOREIGN, told.append)
    assert source.labels.tolist() == [281, 999] and len(source.class_names) == 1000
    assert told == [f"classes: 1000, in the order of ImageNet-1K; 998 of them have no folder in {data}/val"]
    assert labels(data, FOREIGN, num_classes=1000) == {"n02123045": 281, "n15075141": 999}
    assert "is unknown; say it with --classes FILE" in refused(
        data, Head("a.pth", 21841)
    )  # of which the list isn't here


def test_fewer_folders_than_the_head_has_classes_are_asked_about(tmp_path: Path) -> None:
    data = folders(tmp_path / "data", ["cat", "dog"])
    text = refused(data, SMALL_HEAD)
    assert (
        "a.pth has a head of 4 classes" in text
        and f"{data}/val has 2 class folders" in text
        and "--classes FILE" in text
        and "new_head" not in text
    )
    names = write(tmp_path / "classes.txt", ["zebra", "dog", "cow", "cat"])
    assert labels(data, SMALL_HEAD, classes=names) == {"cat": 3, "dog": 1}
    assert "has 3 classes, but a.pth has a head of 4" in refused(
        data, SMALL_HEAD, classes=write(tmp_path / "b.txt", ["cat", "dog", "cow"])
    )
    unknown = refused(data, SMALL_HEAD, classes=write(tmp_path / "c.txt", ["cat", "dogs", "cow", "zebra"]))
    assert "c.txt has 4 classes, but not dog, which is a class folder" in unknown
    assert "a.pth tells 4 classes apart, but" in refused(folders(tmp_path / "more", list("abcde")), SMALL_HEAD)
    folders(data, ["cat", "dog"], "train")
    assert "--new_head" in refused(data, SMALL_HEAD, "train") and labels(data, None, "train") == {"cat": 0, "dog": 1}
    assert "num_classes is 9" in refused(data, None, "train", classes=names, num_classes=9)


def test_numbers_in_names_are_sorted_in_two_ways_elsewhere(tmp_path: Path) -> None:
    numbers = [str(number) for number in range(12)]
    data, head = folders(tmp_path / "data", numbers), Head("a.pth", 12)
    text = refused(data, head)
    assert "0, 1, 10 and 9 more here" in text and "--classes FILE" in text and "ls -v" in text
    assert labels(data, head, classes=write(tmp_path / "a.txt", numbers)) == {name: int(name) for name in numbers}
    assert labels(data, head, classes=write(tmp_path / "b.txt", sorted(numbers)))["2"] == 4
    assert labels(data, Head("a.ckpt", 12, tuple(sorted(numbers))))["2"] == 4  # a checkpoint of ours says it itself
    assert labels(folders(tmp_path / "ten", numbers[:10]), Head("a.pth", 10)) == {
        name: int(name) for name in numbers[:10]
    }
    assert [
        is_ambiguous(names)
        for names in (["a2", "a10"], ["Zebra", "ant"], ["ant", "bee"], ["a02", "a10"], ["n01440764", "n15075141"])
    ] == [True, True, False, False, False]


def test_a_checkpoint_that_names_its_classes(tmp_path: Path) -> None:
    data, head = folders(tmp_path / "data", ["a", "c"]), Head("own.ckpt", 3, ("c", "b", "a"))
    assert labels(data, head) == {"a": 2, "c": 0}
    assert "another order of the classes than own.ckpt" in refused(
        data, head, classes=write(tmp_path / "a.txt", ["a", "b", "c"])
    )
    assert labels(data, head, classes=write(tmp_path / "b.txt", ["c", "x", "a"])) == {"a": 2, "c": 0}
    assert "not among" in refused(folders(tmp_path / "other", ["a", "d"]), head)
    folders(
        data, ["a", "b", "c"], "train"
    )  # training that goes on with the head keeps its order, and only with the same classes
    assert labels(data, head, "train") == {"a": 2, "b": 1, "c": 0}
    fewer = folders(tmp_path / "fewer", ["a", "c"], "train")
    assert labels(fewer, head, "train") == {"a": 0, "c": 1} and labels(fewer, head, "train", 3) == {"a": 2, "c": 0}


def test_forms_of_a_list(tmp_path: Path) -> None:
    path = tmp_path / "list"
    index = {"0": ["n01440764", "tench"], "1": ["n02123045", "tabby"]}
    for text in (
        "n01440764 tench, Tinca tinca\nn02123045 tabby, tabby cat\n",
        "n01440764\ttench\nn02123045\ttabby\n\n",
        "n01440764, tench\nn02123045, tabby",
        json.dumps(index),
        '["n01440764", "n02123045"]',
        '{"n02123045": 1, "n01440764": 0}',
        '{"0": "n01440764", "1": "n02123045"}',
    ):
        path.write_text(text, encoding="utf-8")
        assert read_classes(path).names_of(["n02123045"]) == ("n01440764", "n02123045")
    path.write_text(json.dumps(index), encoding="utf-8")
    assert read_classes(path).names_of(["tabby"]) == ("tench", "tabby")
    for text, why in (
        ("", "the file is empty"),
        ("a\n\nb", "line 2 is empty"),
        ('{"0": "a", "2": "b"}', "not JSON that names classes 0, 1, 2"),
        ("[1, [2, 3]]", "not JSON"),
        ("{", "not JSON"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=why):
            read_classes(path)
    path.write_text("crane\ncrane\n", encoding="utf-8")
    with pytest.raises(UserError, match="names class crane more than once"):
        read_classes(path).names_of(["crane"])
    with pytest.raises(UserError, match="can't be read: No such file"):
        read_classes(tmp_path / "none.txt")


def test_list_files_are_numbered_by_label(tmp_path: Path) -> None:
    data = folders(tmp_path / "data", ["a", "b"])
    write(data / "val_list.txt", ["val/a/a.png 7", "val/b/a.png 2"])
    assert labels(data, FOREIGN) == {"a": 7, "b": 2} == labels(data, None)
    assert "has label 7" in refused(data, SMALL_HEAD)
    names = write(tmp_path / "names.txt", list("abcdefgh"))
    source = open_ordered(DataOptions(data_dir=str(data), classes=names), "val", None, lambda text: None)
    assert source.class_names[source.labels[0]] == "h"
    out = tmp_path / "packed"
    out.mkdir()
    pack(ListDataset(data / "val_list.txt"), data, out, "val", 1 << 20, lambda count: None)
    assert labels(out, FOREIGN) == {"a": 7, "b": 2}


def test_packed_folders_are_numbered_as_the_folders(tmp_path: Path) -> None:
    data, out = folders(tmp_path / "data", ["b", "d"]), tmp_path / "packed"
    out.mkdir()
    pack(FolderDataset(data / "val"), data, out, "val", 1 << 20, lambda count: None)
    names = write(tmp_path / "names.txt", ["d", "c", "b", "a"])
    assert "--classes FILE" in refused(out, SMALL_HEAD) and labels(out, SMALL_HEAD, classes=names) == {"b": 2, "d": 0}
    prints = {
        open_ordered(DataOptions(data_dir=str(place), classes=given), "val", None, lambda text: None).fingerprint()
        for place in (data, out)
        for given in (None, names)
    }
    assert len(prints) == 2  # folder or packed is the same, another order isn't


def main(command: Any, *arguments: Any) -> None:
    command.main([*map(str, arguments), "--model", "nano", "--device_target", "CPU", "--batch_size", "8"])


def remove_class(folder: Path) -> None:
    for item in folder.iterdir():
        item.unlink()
    folder.rmdir()


@pytest.mark.usefixtures("small_networks")
def test_foreign_weights_are_measured_in_their_own_order(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = make_data_dir(tmp_path / "data", classes=3, train=8, val=5, modes=("jpeg_rgb",))
    names = sorted(item.name for item in (data / "train").iterdir())
    order = write(tmp_path / "order.txt", names[::-1])
    run = f"--data_dir {data} --results_csv {tmp_path}/r.csv --epoch_size 6 --warmup_epochs 0 --lr 0.02".split()
    main(train, *run, "--ckpt_save_dir", tmp_path / "out", "--classes", order)
    ours, foreign = tmp_path / "out" / "nano-6.ckpt", tmp_path / "foreign.npz"
    arrays, meta = read_weights(ours)
    assert meta["class_names"] == names[::-1]
    assert f"classes: 3, in the order of classes {order}" in capsys.readouterr().out
    right = meta["score"]["correct1"]
    assert right > 10  # of 15
    np.savez(foreign, **{name: value for name, value in arrays.items() if not name.startswith("mindvit.")})
    check = ("--data_dir", data, "--ckpt_path", foreign)
    main(validate, *check, "--classes", order)
    assert f"({right}/15)" in capsys.readouterr().out
    remove_class(data / "val" / names[0])
    unnamed = r"foreign.npz has a head of 3 classes and doesn't name them, .* 2 class folders: which .*--classes FILE"
    with pytest.raises(UserError, match=unnamed):
        main(validate, *check)
    main(validate, *check, "--classes", order)
    assert int(re.findall(r"\((\d+)/10\)", capsys.readouterr().out)[0]) >= right - 5
    remove_class(data / "train" / names[0])
    trained_from_them_is_refused([*run, "--dry_run"], ours, foreign, tmp_path)


def trained_from_them_is_refused(run: list[str], ours: Path, foreign: Path, folder: Path) -> None:
    """Two class folders, weights of three classes that nobody names or that the file names in another order."""
    start = (*run, "--ckpt_path", foreign, "--ckpt_save_dir", folder / "more", "--resume", "none")
    for extra in ((), ("--num_classes", 3)):
        with pytest.raises(UserError, match="foreign.npz has a head of 3 classes .*--classes FILE .*--new_head"):
            main(train, *start, *extra)
    student = (*run, "--ckpt_save_dir", folder / "student", "--distill_type", "soft", "--teacher", "nano")
    other_order = r"nano-6.ckpt has other classes than the student, or another order of them .class 0 is .* and .* here"
    with pytest.raises(UserError, match=other_order):
        main(train, *student, "--teacher_ckpt_path", ours)
    unnamed = "foreign.npz doesn't name its 3 classes, and the 2 class folders don't say their order"
    with pytest.raises(UserError, match=unnamed):
        main(train, *student, "--teacher_ckpt_path", foreign, "--num_classes", 3)


@pytest.mark.usefixtures("small_networks")
def test_a_thousand_classes_without_names_are_imagenet_s(tmp_path: Path) -> None:
    from small import small

    np.savez(
        tmp_path / "a.npz", **{item.name: item.asnumpy() for item in small("xcit", num_classes=1000).get_parameters()}
    )
    found = Predictor(tmp_path / "a.npz", "small_xcit", device_target="CPU")
    assert found.class_names[281] == "tabby" and "named as ImageNet-1K's" in str(found)
    write(tmp_path / "own.txt", [f"own {number}" for number in range(1000)])
    assert (
        Predictor(tmp_path / "a.npz", "small_xcit", tmp_path / "own.txt", device_target="CPU").class_names[281]
        == "own 281"
    )
