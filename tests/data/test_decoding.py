"""Decoding: every mode gives sensible colors or a reason, and nothing takes more memory than it may."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from image_files import make_data_dir, stripes
from PIL import Image, ImageCms
from pipelines import eval_pipeline
from real_inputs import DEEP, huge, png, tiff_12_bits

from mindvit.data import decoding, native
from mindvit.data.datasets.build import open_dataset
from mindvit.data.datasets.folder import FolderDataset
from mindvit.data.decoding import DecodeError, as_rgb, read_image
from mindvit.data.samplers import Shard
from mindvit.data.transforms.image import RESAMPLING, EvalTransform, TrainTransform, centre
from mindvit.errors import UserError
from mindvit.recipe.options import AugmentOptions, DataOptions

GREY = np.asarray(stripes(0, 2, 3).convert("L"))
WHOLE_IMAGE = AugmentOptions(scale=(1.0, 1.0), ratio=(1.0, 1.0), hflip=0.0)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def read(path: Path, content: bytes, **limit: int) -> Image.Image:
    path.write_bytes(content)
    return read_image(str(path), **limit)


def reason(path: Path, content: bytes, **limit: int) -> str:
    with pytest.raises(DecodeError) as caught:
        read(path, content, **limit)
    assert caught.value.name == str(path) and "\n" not in str(caught.value)
    return caught.value.reason


def saved(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "TIFF", **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    "mode",
    [
        "1",
        "L",
        "LA",
        "La",
        "P",
        "PA",
        "RGB",
        "RGBA",
        "RGBa",
        "RGBX",
        "CMYK",
        "YCbCr",
        "LAB",
        "HSV",
        "I",
        "I;16",
        "I;16L",
        "I;16B",
        "I;16N",
        "F",
    ],
)
def test_every_mode_of_pillow_keeps_its_colours(mode: str) -> None:
    image = stripes(1, 3, 3)
    grey, expected = image.convert("L"), pixels(image)
    if mode in ("La", "RGBa"):
        made = image.convert(mode[:-1] + "A")
        made.putalpha(100)  # premultiplied: darker as it is stored
        made = made.convert(mode)
    elif mode == "LAB":
        made = (
            ImageCms.profileToProfile(
                image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
            )
            or image
        )
    elif mode.startswith("I;16"):
        order = ">u2" if mode.endswith("B") else "<u2"
        made = Image.frombytes(mode, image.size, (np.asarray(grey).astype(order) * 257).tobytes())
    else:
        made = DEEP["float"](image) if mode == "F" else image.convert(mode)
    if mode[0] in "1LIF" and mode != "LAB":
        expected = np.repeat(pixels(grey)[..., None], 3, -1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = as_rgb(made)
    assert found.mode == "RGB" and found.size == image.size
    if mode in ("1", "P", "PA"):  # dithered: right on average alone
        assert np.abs(pixels(found).mean((0, 1)) - expected.mean((0, 1))).max() < 3
    else:
        assert np.abs(pixels(found) - expected).max() <= {"LAB": 12, "YCbCr": 4, "HSV": 6, "La": 2, "RGBa": 2}.get(
            mode, 0
        )


@pytest.mark.parametrize("kind", DEEP)
def test_deep_tiffs_are_scaled(tmp_path: Path, kind: str) -> None:
    found = pixels(read(tmp_path / "a.tif", saved(DEEP[kind](stripes(0, 2, 3)))))
    assert np.abs(found - GREY.astype(int)[..., None]).max() <= (0 if kind != "int32_of_16_bits" else 1)


def test_twelve_bits_are_not_black(tmp_path: Path) -> None:
    assert (
        np.abs(pixels(read(tmp_path / "a.tif", tiff_12_bits(stripes(0, 2, 3)))) - GREY.astype(int)[..., None]).max()
        <= 1
    )


def test_a_deep_tiff_whose_zero_is_white_is_turned_round(tmp_path: Path) -> None:
    for kind in ("uint16", "float"):
        content = saved(DEEP[kind](stripes(0, 2, 3)), tiffinfo={262: 0})
        with Image.open(io.BytesIO(content)) as image:
            assert image.tag_v2[262] == 0
        assert np.abs(pixels(read(tmp_path / "a.tif", content)) - (255 - GREY.astype(int))[..., None]).max() == 0


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP", "PNG", "MPO"])
def test_of_several_frames_the_first_is_taken(tmp_path: Path, form: str) -> None:
    stream = io.BytesIO()
    first, *others = (stripes(kind, 3, 1).quantize(64) if form == "GIF" else stripes(kind, 3, 1) for kind in range(3))
    first.save(stream, form, save_all=True, append_images=others)
    with Image.open(io.BytesIO(stream.getvalue())) as image:
        assert image.n_frames == 3
    found = pixels(read(tmp_path / "many.jpg", stream.getvalue()))
    assert np.abs(found - pixels(stripes(0, 3, 1))).mean() < 8 < np.abs(found - pixels(stripes(1, 3, 1))).mean()


@pytest.mark.parametrize(
    "values, why",
    [
        (np.full((4, 4), np.nan, np.float32), "float numbers from nan to nan, whose scale isn't known"),
        (np.array([[0, 1], [np.inf, 0]], np.float32), "float numbers from 0 to inf"),
        (
            np.array([[0, 255.0]], np.float32),
            r"float numbers from 0 to 255, whose scale isn't known (0 to 1 is); save it with 8 or 16 bits",
        ),
        (np.array([[-0.5, 0.5]], np.float32), "float numbers from -0.5 to 0.5"),
        (np.array([[0, 70000]], np.int32), "32-bit numbers from 0 to 70000, whose scale isn't known"),
        (np.array([[-1, 200]], np.int32), "32-bit numbers from -1 to 200"),
    ],
)
def test_values_of_unknown_scale_are_refused_by_name(tmp_path: Path, values: np.ndarray, why: str) -> None:
    assert why in reason(tmp_path / "odd.tif", saved(Image.fromarray(values)))


def test_a_layout_that_pillow_lacks_is_said_and_not_that_it_is_no_tiff(tmp_path: Path) -> None:
    content = bytearray(saved(stripes(0, 2, 0)))
    place = content.index(b"\x06\x01\x03\x00\x01\x00\x00\x00") + 8  # the tag that says what the channels are
    content[place] = 77
    assert reason(tmp_path / "a.tif", bytes(content)).startswith("a TIFF that Pillow can't read: ")


@pytest.mark.parametrize("kind", ["png", "bmp", "gif", "jpeg", "tiff", "webp"])
def test_a_bomb_is_refused_by_its_header(tmp_path: Path, kind: str) -> None:
    side = 16383 if kind == "webp" else 20000
    why, hint = reason(tmp_path / f"bomb.{kind}", huge(kind)), "; raise max_pixels for images that you trust"
    if kind == "webp":  # whose reader looks at Pillow's own limit first
        assert why.endswith(hint) and f"{side * side} pixels" in why
    else:
        assert why == f"{side} x {side} px are {side * side} pixels, and max_pixels is 178956970{hint}"


def test_bombs_take_no_memory(tmp_path: Path) -> None:
    """In a process of its own, whose memory shows what was taken at most."""
    for kind in ("png", "bmp", "gif", "jpeg", "tiff", "webp"):
        (tmp_path / f"bomb.{kind}").write_bytes(huge(kind))
    (tmp_path / "thin.png").write_bytes(png(1, 2_000_000, rows=2_000_000))
    (tmp_path / "long.png").write_bytes(png(2_000_000, 1, rows=1))
    script = """
import resource, sys
import numpy as np
from mindvit.data import native
from mindvit.data.decoding import DecodeError, read_image
from mindvit.data.transforms.image import EvalTransform, TrainTransform
from mindvit.recipe.options import AugmentOptions
native.loaded()
steps = [EvalTransform(224, 0.875, "bicubic", mode) for mode in ("center", "squash")]
steps += [lambda image, t=TrainTransform(224, "bicubic", (0, 0, 0), o): t(image, np.random.default_rng(0))
          for o in (AugmentOptions(), AugmentOptions(scale=(1.0, 1.0), ratio=(1.0, 1.0)))]
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
for path in sys.argv[1:]:
    try:
        image = read_image(path)
        print(path, image.size, [step(image).shape for step in steps], file=sys.stderr)
    except DecodeError as error:
        print(error)
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *sorted(map(str, tmp_path.iterdir()))],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    *refused, peak = done.stdout.splitlines()
    assert len(refused) == 6 and done.stderr.count("(224, 224, 3)") == 8
    assert int(peak) < 100, done.stdout  # MiB; 256 x 512 million would be 400 GB


def test_the_limit_is_a_key_in_both_directions(tmp_path: Path) -> None:
    data = make_data_dir(tmp_path / "data", classes=1, train=2, val=2)
    with pytest.raises(
        DecodeError,
        match=r"50 x 40 px are 2000 pixels, and max_pixels is 1999; raise max_pixels for images that you trust",
    ):
        open_dataset(DataOptions(data_dir=str(data), max_pixels=1999), "train").read(0)
    source = open_dataset(DataOptions(data_dir=str(data), max_pixels=1000), "val")
    with pytest.raises(
        UserError,
        match=r"00\d_.*max_pixels is 1000; raise max_pixels for images that you trust\); repair or remove it: eval",
    ):
        list(eval_pipeline(source, 2, EvalTransform(8, 1.0, "bicubic"), Shard()))
    assert open_dataset(DataOptions(data_dir=str(data), max_pixels=2000), "train").read(0).size == (50, 40)


def test_a_large_image_is_read_where_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's limit, lowered here instead of an image of 200 megapixels, is raised by the key, warns of nothing, and
    isn't touched without it.
    """
    data = make_data_dir(tmp_path / "data", classes=1, train=3, val=1, modes=("webp", "tiff", "jpeg_rgb"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    monkeypatch.setattr(native, "LARGE", 400)
    crop = TrainTransform(8, "bicubic", (0.0, 0.0, 0.0), AugmentOptions(scale=(0.9, 1.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = open_dataset(DataOptions(data_dir=str(data), max_pixels=2000), "train")
        large = [crop(source.read(index), np.random.default_rng(index)) for index in range(3)]
    assert Image.MAX_IMAGE_PIXELS == 2000
    monkeypatch.setattr(native, "LARGE", 10**9)
    assert all((crop(source.read(index), np.random.default_rng(index)) == large[index]).all() for index in range(3))
    decoding.allow(1999)
    assert Image.MAX_IMAGE_PIXELS == 2000


def test_a_large_file_is_read_as_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data_dir(
        tmp_path / "data",
        classes=1,
        train=12,
        val=1,
        modes=("jpeg_rgb", "png_palette", "bmp", "webp", "tiff", "png_grey16"),
    )
    source = FolderDataset(data / "train")
    plain = [pixels(source.read(index)) for index in range(12)]
    monkeypatch.setattr(decoding, "READ_AT_ONCE", 100)
    assert all((pixels(source.read(index)) == plain[index]).all() for index in range(12))


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_images_of_ordinary_shape_are_resized_as_a_whole(crop_mode: str) -> None:
    """Up to a ratio of 28, to the last bit as the papers' code does."""
    random = np.random.default_rng(0)
    for width, height in ((500, 375), (1, 1), (17, 30), (256, 256), (9, 250), (560, 20), (3, 84)):
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        for name, method in RESAMPLING.items():
            size, short = (24, 24), int(24 / 0.875)
            if crop_mode == "center":
                size = (short * width // min(width, height), short * height // min(width, height))
            left, top = round((size[0] - 24) / 2), round((size[1] - 24) / 2)
            expected = pixels(image.resize(size, method).crop((left, top, left + 24, top + 24)))
            assert (EvalTransform(24, 0.875, name, crop_mode)(image) == expected).all(), (width, height, name)


@pytest.mark.parametrize("size", [(1, 40), (2, 99), (90, 3), (7, 600), (5000, 11)])
def test_the_centre_of_a_thin_image_is_that_of_the_whole(size: tuple[int, int]) -> None:
    x, y = np.meshgrid(np.linspace(0, 3, size[0]), np.linspace(0, 3, size[1]))
    image = Image.fromarray(
        np.stack([128 + 60 * np.sin(9 * (x + y)), 128 + 60 * np.cos(x - y), 100 + 20 * x], -1).astype(np.uint8)
    )
    resized = (27 * size[0] // min(size), 27 * size[1] // min(size))
    left, top = round((resized[0] - 24) / 2), round((resized[1] - 24) / 2)
    for name, method in RESAMPLING.items():
        expected = pixels(image.resize(resized, method).crop((left, top, left + 24, top + 24)))
        found = pixels(centre(image, (resized[0], resized[1]), (left, top), 24, method))
        assert np.abs(found - expected).max() <= (40 if name == "nearest" else 2) and (found == expected).mean() > 0.75


def test_very_long_images_keep_their_colours() -> None:
    image = Image.new("RGB", (1, 300_000), "red")
    image.paste("blue", (0, 150_000, 1, 300_000))
    train = TrainTransform(32, "bicubic", (0.0, 0.0, 0.0), WHOLE_IMAGE)
    for found in (EvalTransform(32, 0.875, "bicubic", "squash")(image), train(image, np.random.default_rng(0))):
        assert (found[:15] == (255, 0, 0)).all() and (found[17:] == (0, 0, 255)).all()
    assert native.shortened(Image.new("RGB", (65_536, 2))).size == (65_536, 2)
