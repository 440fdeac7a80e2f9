"""What is wrong, odd or there twice among the images of a data set."""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from mindvit.data.datasets.base import FileDataset, LabelledDataset
from mindvit.data.decoding import ORIENTATION, DecodeError, decode, named, opened
from mindvit.data.exif import UPRIGHT

BROKEN, LEAK, TWO_CLASSES, TWICE, NEAR_LEAK, NEAR, ODD = (
    "broken",
    "in train and val",
    "in two classes",
    "twice",
    "nearly the same in train and val",
    "nearly the same",
    "odd",
)
KINDS = (BROKEN, TWO_CLASSES, LEAK, NEAR_LEAK, TWICE, NEAR, ODD)  # the gravest first
ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp", ".dib"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
}
THUMBNAIL = 16  # px
NEAR_BITS = 7  # of 128 that may differ between images that are nearly the same
RISE = 3  # of grey, of 255, that counts: less is noise in a smooth part
NEAR_GREY = 6.0  # and the mean difference of their thumbnails, of 255
FLAT = 3.0  # standard deviation of a thumbnail's grey below which there is nothing to see
SMALL, LONG = 32, 5.0  # px of the shorter side; longest over shortest side
PIECES = 8  # that a 128-bit hash is cut into: two hashes that differ in fewer bits share one


@dataclass(frozen=True)
class Seen:
    """One image as it was found. content: a digest of its bytes, or of its pixels where it is no file; mode, format: of
    the file; size: width and height, px; hash: (16,) uint8; thumbnail: (THUMBNAIL, THUMBNAIL) uint8 grey.
    """

    split: str
    index: int
    name: str
    label: int
    content: bytes = b""
    mode: str = ""
    format: str = ""
    size: tuple[int, int] = (0, 0)
    turned: bool = False
    hash: np.ndarray = field(default_factory=lambda: np.zeros(16, np.uint8))
    thumbnail: np.ndarray = field(default_factory=lambda: np.zeros((THUMBNAIL, THUMBNAIL), np.uint8))
    broken: str = ""


@dataclass(frozen=True)
class Finding:
    """Something that a person should look at. kind: one of KINDS; images: which; what: in words."""

    kind: str
    images: tuple[Seen, ...]
    what: str


def difference_hash(image: Image.Image) -> np.ndarray:
    """(16,) uint8, 128 bits: where grey rises to the right, and where it rises downward, on grids of 9 x 8 and 8 x 9
    places. Sizes, qualities and formats of one image change few of them.
    """
    grey = image.convert("L")
    wide, high = (np.asarray(grey.resize(size, Image.Resampling.BOX), np.int16) for size in ((9, 8), (8, 9)))
    return np.packbits(np.concatenate([(np.diff(wide, axis=1) > RISE).ravel(), (np.diff(high, axis=0) > RISE).ravel()]))


def look(dataset: LabelledDataset, split: str, index: int) -> Seen:
    """Read, decode and hash one image; what can't be decoded is told by `broken`."""
    name, label = dataset.name(index), int(dataset.labels[index])
    try:
        if not isinstance(dataset, FileDataset):
            image = dataset.read(index)
            content, mode, kind, turned = image.tobytes(), image.mode, "", False
        else:
            with named(name):
                content = Path(name).read_bytes()
                with opened(io.BytesIO(content)) as header:
                    mode, kind = header.mode, header.format or ""
                    turned = header.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT
                image = decode(io.BytesIO(content), dataset.max_pixels)
    except DecodeError as error:
        return Seen(split, index, name, label, broken=error.reason)
    grey = image.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return Seen(
        split,
        index,
        name,
        label,
        digest,
        mode,
        kind,
        image.size,
        turned,
        difference_hash(image),
        np.asarray(grey, np.uint8),
    )


def find(images: Sequence[Seen]) -> list[Finding]:
    """What should be looked at among these images, the gravest first."""
    whole = [image for image in images if not image.broken]
    found = [Finding(BROKEN, (image,), image.broken) for image in images if image.broken]
    groups: defaultdict[bytes, list[Seen]] = defaultdict(list)
    for image in whole:
        groups[image.content].append(image)
    found += [_together(group, False) for group in groups.values() if len(group) > 1]
    found += [_together(group, True) for group in near([group[0] for group in groups.values()])]
    found += [Finding(ODD, (image,), what) for image in whole for what in odd(image)]
    return sorted(found, key=lambda finding: KINDS.index(finding.kind))


def odd(image: Seen) -> Iterator[str]:
    """What is unusual about an image by itself, in words."""
    width, height = image.size
    if min(image.size) < SMALL:
        yield f"small: {width} x {height} px"
    if max(image.size) > LONG * min(image.size):
        yield f"long: {width} x {height} px"
    if image.thumbnail.std() < FLAT:
        yield "one colour"
    if image.turned:
        yield "turned by its EXIF orientation, which is ignored: the network sees it as it is stored"
    ending = Path(image.name).suffix.lower()
    if image.format in ENDINGS and ending not in ENDINGS[image.format]:
        yield f"a {image.format} file named {ending}"


def near(images: Sequence[Seen]) -> list[list[Seen]]:
    """Groups of images that are the same to the eye: hashes with at most NEAR_BITS other bits, and thumbnails of nearly
    the same grey. Images of one colour are left out: their hashes say nothing.
    """
    images = [image for image in images if image.thumbnail.std() >= FLAT]
    hashes = np.array([image.hash for image in images], np.uint8).reshape(-1, 16)
    parent = list(range(len(images)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for first, second in _near_pairs(hashes):
        difference = images[first].thumbnail.astype(np.int16) - images[second].thumbnail
        if np.abs(difference).mean() <= NEAR_GREY:
            parent[root(second)] = root(first)
    groups: defaultdict[int, list[Seen]] = defaultdict(list)
    for number, image in enumerate(images):
        groups[root(number)].append(image)
    return [group for group in groups.values() if len(group) > 1]


def _near_pairs(hashes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs with at most NEAR_BITS other bits, some of them more than once: fewer than PIECES differ, so that one piece
    of 16 bits is the same.
    """
    for piece in np.ascontiguousarray(hashes).view(np.uint16).T:
        order = np.argsort(piece, kind="stable")
        starts = np.flatnonzero(np.diff(piece[order], prepend=-1))
        for group in np.split(order, starts[1:]):
            for place, first in enumerate(group[:-1]):
                others = group[place + 1 :]
                bits = np.unpackbits(hashes[others] ^ hashes[first], axis=1).sum(1)
                for second in others[bits <= NEAR_BITS]:
                    yield int(first), int(second)


def _together(group: Sequence[Seen], nearly: bool) -> Finding:
    """What it means that these are the same image."""
    leak = len({image.split for image in group}) > 1
    if len({image.label for image in group}) > 1 and not nearly:
        return Finding(TWO_CLASSES, tuple(group), "one image with several labels" + ", in train and val" * leak)
    kind = (NEAR_LEAK if leak else NEAR) if nearly else (LEAK if leak else TWICE)
    return Finding(kind, tuple(group), f"{len(group)} files")
