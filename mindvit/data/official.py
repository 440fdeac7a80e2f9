"""Data sets that people fine-tune on, unpacked from the archives that their authors publish: a folder a class.

Archives are read and never extracted: of what they hold only images that the data set's own lists name are written, to
paths made here. CIFAR's pickles go through the reader of weights, which runs nothing.
"""

from __future__ import annotations

import functools
import io
import json
import re
import shutil
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Sequence

import numpy as np
from PIL import Image

from mindvit.errors import UserError
from mindvit.weights.pickles import NumpyArray, unpickle

Archives = Mapping[str, Path]  # a file by its official name
Item = tuple[str, str, str, bytes]  # split, class, file name, content
SIDE = 32  # of CIFAR's images, px
MOST = 1 << 28  # bytes of one file in an archive
CLASS = re.compile(r"[\w' .()-]*[\w)]")  # what a class may be called: the name of its folder
DAMAGED = (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True)
class Official:
    """A data set: the files it is published as, where, how many images they hold, and how those are read."""

    archives: tuple[str, ...]
    page: str
    images: int
    read: Callable[[Archives], Iterator[Item]]


def members(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The name of every regular file in a tar archive, in its order, with what reads it."""
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile():
                if member.size > MOST:
                    raise UserError(f"{path}: {member.name} is said to have {member.size} bytes: not read")
                yield member.name.removeprefix("./"), functools.partial(_content, archive, member)


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    assert stream is not None  # which a regular file has
    return stream.read()


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _cifar(path: Path, meta: tuple[str, str], labels: str, split_of: Callable[[str], str]) -> Iterator[Item]:
    """meta: the file of class names and the key there; split_of: a batch's split by its name, empty for other files."""
    batches: dict[str, Any] = {}
    names: Sequence[str] = ()
    for name, content in members(path):
        base = name.rpartition("/")[2]
        if base == meta[0] or split_of(base):
            found = unpickle(io.BytesIO(content()), path)
            if base == meta[0]:
                names = [_class(path, str(text)) for text in found[meta[1]]]
            else:
                batches[base] = found
    count = dict.fromkeys(("train", "val"), 0)
    for base in sorted(batches):
        data, numbers = batches[base]["data"], batches[base][labels]
        pixels = data.value if isinstance(data, NumpyArray) else np.empty((0, 0))
        if pixels.dtype != np.uint8 or pixels.shape != (len(numbers), 3 * SIDE * SIDE):
            raise ValueError(f"{base} has other images than {len(numbers)} of {SIDE} x {SIDE} px")
        for row, number in zip(pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1), numbers):
            split = split_of(base)
            count[split] += 1
            yield split, names[number], f"{count[split]:05d}.png", _png(np.ascontiguousarray(row))


def _cifar10(archives: Archives) -> Iterator[Item]:
    def split_of(base: str) -> str:
        return "val" if base == "test_batch" else "train" * bool(re.fullmatch(r"data_batch_\d", base))

    (path,) = archives.values()
    return _cifar(path, ("batches.meta", "label_names"), "labels", split_of)


def _cifar100(archives: Archives) -> Iterator[Item]:
    def split_of(base: str) -> str:
        return {"train": "train", "test": "val"}.get(base, "")

    (path,) = archives.values()
    return _cifar(path, ("meta", "fine_label_names"), "fine_labels", split_of)


def _listed(path: Path, folder: str, wanted: dict[str, tuple[str, str]]) -> Iterator[Item]:
    """The images that `wanted` gives split and class, by their names in `folder`. UserError if one is missing."""
    missing = set(wanted)
    for name, content in members(path):
        inner = name[len(folder) :] if name.startswith(folder) else ""
        if inner in missing:
            missing.discard(inner)
            split, label = wanted[inner]
            yield split, _class(path, label), inner.rpartition("/")[2], content()
    if missing:
        raise UserError(f"{path} lacks {len(missing)} images, {folder}{min(missing)} first: download it again")


def _matlab(path: Path, *keys: str) -> list[list[int]]:
    from scipy.io import loadmat  # which MindSpore needs too

    found = loadmat(path, variable_names=keys)
    return [np.ravel(found[key]).astype(int).tolist() for key in keys]


def _flowers102(archives: Archives) -> Iterator[Item]:
    """Its three splits: train and val have ten images a class, test the rest. Classes have numbers, from 001 on."""
    images, labels, sets = archives.values()
    (numbers,) = _matlab(labels, "labels")
    splits = dict(zip(("train", "val", "test"), _matlab(sets, "trnid", "valid", "tstid")))
    wanted = {
        f"image_{number:05d}.jpg": (split, f"{numbers[number - 1]:03d}")
        for split, chosen in splits.items()
        for number in chosen
    }
    return _listed(images, "jpg/", wanted)


def _food101(archives: Archives) -> Iterator[Item]:
    """Its lists stand at the end of the archive, so it is read twice."""
    (path,) = archives.values()
    lists = {"food-101/meta/train.json": "train", "food-101/meta/test.json": "val"}
    found = {lists[name]: json.loads(content()) for name, content in members(path) if name in lists}
    wanted = {
        f"{name}.jpg": (split, label)
        for split in ("train", "val")
        for label, names in found[split].items()
        for name in names
    }
    return _listed(path, "food-101/images/", wanted)


def _pets(archives: Archives) -> Iterator[Item]:
    images, annotations = archives.values()
    lists = {"annotations/trainval.txt": "train", "annotations/test.txt": "val"}
    found = {lists[name]: content().decode("ascii") for name, content in members(annotations) if name in lists}
    wanted = {}
    for split in ("train", "val"):
        for line in found[split].splitlines():
            name = line.split()[0]
            wanted[f"{name}.jpg"] = split, name.rpartition("_")[0]
    return _listed(images, "images/", wanted)


OFFICIAL = {
    "cifar10": Official(("cifar-10-python.tar.gz",), "https://www.cs.toronto.edu/~kriz/cifar.html", 60000, _cifar10),
    "cifar100": Official(("cifar-100-python.tar.gz",), "https://www.cs.toronto.edu/~kriz/cifar.html", 60000, _cifar100),
    "flowers102": Official(
        ("102flowers.tgz", "imagelabels.mat", "setid.mat"),
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        8189,
        _flowers102,
    ),
    "food101": Official(
        ("food-101.tar.gz",), "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/", 101000, _food101
    ),
    "pets": Official(
        ("images.tar.gz", "annotations.tar.gz"), "https://www.robots.ox.ac.uk/~vgg/data/pets/", 7349, _pets
    ),
}


def _class(path: Path, name: str) -> str:
    if not CLASS.fullmatch(name):
        raise UserError(f"{path} has a class {name!r}, which can't be the name of a folder: not read")
    return name


def archives_of(name: str, given: Sequence[str]) -> dict[str, Path]:
    """The files of a data set by their official names, in the order of its table. UserError for others."""
    wanted = OFFICIAL[name]
    found = {Path(file).name: Path(file) for file in given}
    if set(found) != set(wanted.archives) or len(found) != len(given):
        what = f"given: {', '.join(given) or 'no archive'}"
        raise UserError(
            f"{name} is made of {', '.join(wanted.archives)}, as {wanted.page} has them ({what}): "
            f"mindvit prepare {name} {' '.join(wanted.archives)} DIR"
        )
    for path in found.values():
        if not path.is_file():
            raise UserError(f"{path}: no such file (get it from {wanted.page})")
    return {official: found[official] for official in wanted.archives}


def unpack(name: str, archives: Archives, out: Path, progress: Callable[[int], object]) -> dict[str, int]:
    """Write a data set's images to OUT/SPLIT/CLASS, all of them or none.

    Args:
        name: of OFFICIAL.
        archives: its files by their official names.
        out: a folder that doesn't exist yet; splits are train, val and, of Flowers102, test.
        progress: called with 1 for each image.

    Returns:
        The number of images of each split.

    Raises:
        UserError: an archive is damaged or another one, or `out` exists.
        OSError: `out` can't be written.
    """
    if out.exists():
        raise UserError(f"{out} exists already: give a folder that doesn't")
    unfinished = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    counts: dict[str, int] = {}
    try:
        for split, label, file, content in _whole(name, archives):
            folder = unfinished / split / label
            folder.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
            counts[split] = counts.get(split, 0) + 1
            progress(1)
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return counts


def _whole(name: str, archives: Archives) -> Iterator[Item]:
    """The images of a data set. UserError where its files can't be read to their ends."""
    files = ", ".join(map(str, archives.values()))
    count = 0
    try:
        for item in OFFICIAL[name].read(archives):
            count += 1
            yield item
    except UserError:
        raise
    except DAMAGED as error:
        reason = f"no {error} in it" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise UserError(f"{files}: damaged, or not the archive of {name} ({reason}): download it again") from None
    if not count:
        raise UserError(f"{files}: no images of {name} in it: download it again")
