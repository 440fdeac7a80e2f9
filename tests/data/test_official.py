"""Data sets by name: tiny archives of the official layouts, unpacked; and such as are damaged, wrong or hostile."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
from image_files import stripes
from scipy.io import savemat

from mindvit.cli import prepare
from mindvit.data.official import OFFICIAL, members
from mindvit.errors import UserError


def jpeg(kind: int, number: int) -> bytes:
    stream = io.BytesIO()
    stripes(kind, 3, number, (9, 7)).save(stream, "JPEG")
    return stream.getvalue()


def archive(path: Path, files: dict[str, bytes]) -> Path:
    """A tar archive, compressed, with a folder's entry and a link before its files."""
    with tarfile.open(path, "w:gz") as out:
        link = tarfile.TarInfo("images/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        out.addfile(link)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return path


_PythonPickler: Any = vars(pickle)["_Pickler"]


class Python2(_PythonPickler):
    """Writes texts and bytes as Python 2 wrote its strings, which the official pickles are made of."""

    dispatch = dict(_PythonPickler.dispatch)

    def save_string(self, value: Any) -> None:
        """A string with its length in four bytes."""
        content = value.encode() if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def dumps(value: Any) -> bytes:
    stream = io.BytesIO()
    Python2(stream, 2).dump(value)
    return stream.getvalue()


def batch(labels: list[int], key: str, start: int) -> bytes:
    """As CIFAR's: pixels channel by channel, image `start` + i all of that value."""
    data = np.repeat(np.arange(start, start + len(labels), dtype=np.uint8)[:, None], 3072, 1)
    data[:, :1024] += 100  # red
    return dumps({"batch_label": "b", key: labels, "data": data, "filenames": ["a.png"]})


def cifar10(folder: Path) -> list[Path]:
    files = {
        "cifar-10-batches-py/batches.meta": dumps({"label_names": ["cat", "dog"], "num_vis": 3072}),
        "cifar-10-batches-py/data_batch_2": batch([0], "labels", 2),
        "cifar-10-batches-py/data_batch_1": batch([1, 0], "labels", 0),
        "cifar-10-batches-py/test_batch": batch([1], "labels", 3),
    }
    return [archive(folder / "cifar-10-python.tar.gz", files)]


def cifar100(folder: Path) -> list[Path]:
    meta = {"fine_label_names": ["aquarium_fish", "pickup truck"], "coarse_label_names": ["x"]}
    files = {
        "cifar-100-python/train": batch([1, 0], "fine_labels", 0),
        "cifar-100-python/test": batch([1], "fine_labels", 3),
        "cifar-100-python/meta": dumps(meta),
    }
    return [archive(folder / "cifar-100-python.tar.gz", files)]


def flowers102(folder: Path) -> list[Path]:
    files = {f"jpg/image_{number:05d}.jpg": jpeg(0, number) for number in range(1, 5)}
    images = archive(folder / "102flowers.tgz", files)
    savemat(folder / "imagelabels.mat", {"labels": np.array([[2, 1, 2, 1]], np.uint8)})
    savemat(folder / "setid.mat", {"trnid": [[3, 2]], "valid": [[1]], "tstid": [[4]]})
    return [images, folder / "imagelabels.mat", folder / "setid.mat"]


def food101(folder: Path) -> list[Path]:
    names = {"train": {"apple_pie": ["apple_pie/1", "apple_pie/2"]}, "test": {"pho": ["pho/7"]}}
    files = {f"food-101/images/{name}.jpg": jpeg(1, 1) for name in ("apple_pie/1", "apple_pie/2", "pho/7", "pho/9")}
    files.update({f"food-101/meta/{split}.json": json.dumps(found).encode() for split, found in names.items()})
    return [archive(folder / "food-101.tar.gz", files)]


def pets(folder: Path) -> list[Path]:
    files = {f"./images/{name}.jpg": jpeg(2, 1) for name in ("Abyssinian_1", "great_dane_12", "great_dane_3")}
    lists = {"annotations/trainval.txt": b"Abyssinian_1 1 1 1\ngreat_dane_12 2 2 1\n"}
    lists["annotations/test.txt"] = b"great_dane_3 2 2 1\n"
    return [archive(folder / "images.tar.gz", files), archive(folder / "annotations.tar.gz", lists)]


EXPECTED: dict[str, tuple[Callable[[Path], list[Path]], list[str], str]] = {
    "cifar10": (
        cifar10,
        ["train/cat/00002.png", "train/cat/00003.png", "train/dog/00001.png", "val/dog/00001.png"],
        "cifar10: 3 in train, 1 in val",
    ),
    "cifar100": (
        cifar100,
        ["train/aquarium_fish/00002.png", "train/pickup truck/00001.png", "val/pickup truck/00001.png"],
        "cifar100: 2 in train, 1 in val",
    ),
    "flowers102": (
        flowers102,
        [
            "test/001/image_00004.jpg",
            "train/001/image_00002.jpg",
            "train/002/image_00003.jpg",
            "val/002/image_00001.jpg",
        ],
        "flowers102: ",
    ),
    "food101": (
        food101,
        ["train/apple_pie/1.jpg", "train/apple_pie/2.jpg", "val/pho/7.jpg"],
        "food101: 2 in train, 1 in val",
    ),
    "pets": (
        pets,
        ["train/Abyssinian/Abyssinian_1.jpg", "train/great_dane/great_dane_12.jpg", "val/great_dane/great_dane_3.jpg"],
        "pets: 2 in train, 1 in val",
    ),
}


def test_the_command_knows_all_of_them() -> None:
    assert tuple(OFFICIAL) == prepare.NAMED == tuple(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_official_archives_become_class_folders(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make, expected, told = EXPECTED[name]
    out = tmp_path / "out"
    prepare.main([name, *map(str, reversed(make(tmp_path))), str(out)])
    found = sorted(path for path in out.rglob("*") if path.is_file())
    assert [path.relative_to(out).as_posix() for path in found] == expected
    assert told in capsys.readouterr().out
    if name == "food101":
        assert found[0].read_bytes() == jpeg(1, 1)
    if name == "cifar10":
        from PIL import Image

        assert np.asarray(Image.open(found[0])).tolist()[31][31] == [101, 1, 1]
    with pytest.raises(UserError, match="exists already: give a folder that doesn't"):
        prepare.main([name, *map(str, make(tmp_path)), str(out)])


def refused(tmp_path: Path, name: str, files: list[Path]) -> str:
    """What is said of archives that are refused; nothing may be left of them."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError) as error:
        prepare.main([name, *map(str, files), str(tmp_path / "out")])
    assert sorted(tmp_path.iterdir()) == before
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_damaged_archive_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    files = EXPECTED[name][0](tmp_path)
    whole = files[0].read_bytes()
    files[0].write_bytes(whole[: len(whole) // 2])
    assert f"damaged, or not the archive of {name}" in refused(tmp_path, name, files)
    files[0].write_bytes(b"<html>404</html>")
    assert f"damaged, or not the archive of {name}" in refused(tmp_path, name, files)


def test_an_archive_without_an_image_that_its_list_names(tmp_path: Path) -> None:
    images, annotations = pets(tmp_path)
    archive(images, {"images/Abyssinian_1.jpg": b"x"})
    told = refused(tmp_path, "pets", [images, annotations])
    assert "lacks 2 images, images/great_dane_12.jpg first: download it again" in told


def test_other_files_than_the_official_ones(tmp_path: Path) -> None:
    (path,) = cifar10(tmp_path)
    told = refused(tmp_path, "cifar100", [path])
    assert "cifar100 is made of cifar-100-python.tar.gz, as https://www.cs.toronto.edu/~kriz/cifar.html has" in told
    assert "flowers102 is made of 102flowers.tgz, imagelabels.mat, setid.mat" in refused(tmp_path, "flowers102", [path])
    assert "no such file" in refused(tmp_path, "food101", [tmp_path / "food-101.tar.gz"])
    with pytest.raises(UserError, match=r"\(given: no archive\): mindvit prepare food101 food-101.tar.gz DIR$"):
        prepare.main(["Food-101"])
    path.unlink()
    archive(path, {"cifar-10-batches-py/batches.meta": pickle.dumps({"label_names": ["cat"]}, 2)})
    assert "no images of cifar10 in it" in refused(tmp_path, "cifar10", [path])


class Hostile:
    """A pickle that would run a command."""

    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/owned",)


def test_nothing_in_an_archive_is_run_or_written_outside(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    archive(path, {"cifar-10-batches-py/data_batch_1": pickle.dumps(Hostile(), 2)})
    assert "asks for posix.system, which no weights need: refused, and nothing was run" in refused(
        tmp_path, "cifar10", [path]
    )
    names = pickle.dumps({"label_names": ["../../up"]}, 2)
    archive(path, {"x/batches.meta": names, "x/data_batch_1": batch([0], "labels", 0)})
    assert "has a class '../../up', which can't be the name of a folder" in refused(tmp_path, "cifar10", [path])
    assert [name for name, _ in members(path)] == ["x/batches.meta", "x/data_batch_1"], "links are passed over"
