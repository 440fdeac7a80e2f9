"""MindRecord: packed images are the folder's, a cut-off packing goes on, and what is wrong is said in a line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any, Optional, Sequence, Union

import numpy as np
import pytest
from image_files import MODES, make_data_dir, make_list_files

from mindvit.cli.prepare import main
from mindvit.data.datasets import mindrecord
from mindvit.data.datasets.base import FileDataset
from mindvit.data.datasets.build import open_dataset
from mindvit.data.datasets.mindrecord import MindRecordDataset, pack, plan, read_shard
from mindvit.data.decoding import DecodeError
from mindvit.errors import UserError
from mindvit.recipe.options import DataOptions


def opened(folder: Path, split: str = "train", class_names: Optional[Sequence[str]] = None) -> Any:
    return open_dataset(DataOptions(data_dir=str(folder)), split, class_names)


def error_of(*arguments: Union[str, Path]) -> str:
    with pytest.raises(UserError) as caught:
        main([str(argument) for argument in arguments])
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(name="data")
def _data(tmp_path: Path) -> Path:
    return make_data_dir(tmp_path / "data", classes=3, train=5, val=2, modes=tuple(MODES))


def test_a_worker_process_opens_the_files_itself(data: Path, tmp_path: Path) -> None:
    main([str(data), str(tmp_path / "out")])
    packed = opened(tmp_path / "out")
    copy = pickle.loads(pickle.dumps(packed, 5))
    assert copy._files != packed._files
    for index in range(len(packed)):
        assert copy.name(index) == packed.name(index)
        assert copy.content(index) == packed.content(index)


@pytest.mark.parametrize("listed", [False, True])
def test_packed_images_are_those_of_the_folder_or_list(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], listed: bool
) -> None:
    if listed:
        make_list_files(data)
    main([str(data), str(tmp_path / "out")])
    told = capsys.readouterr().out
    for split, count in (("train", 15), ("val", 6)):
        folder, packed = opened(data, split), opened(tmp_path / "out", split)
        assert (
            isinstance(packed, MindRecordDataset)
            and len(packed) == count
            and f"{split}: {count} images of 3 classes in 1 file," in told
        )
        assert (
            packed.class_names == folder.class_names
            and packed.labels.tolist() == folder.labels.tolist()
            and packed.labels.dtype == np.int32
        )
        assert packed.fingerprint() == folder.fingerprint()
        for index in np.random.default_rng(0).permutation(count):
            assert packed.content(index) == Path(folder.name(index)).read_bytes()
            assert np.array_equal(np.asarray(packed.read(index)), np.asarray(folder.read(index)))
            assert packed.name(index).endswith(os.path.relpath(folder.name(index), data))


def test_validation_is_numbered_by_the_training_classes(data: Path, tmp_path: Path) -> None:
    shutil.rmtree(data / "val" / "class_0")
    main([str(data), str(tmp_path / "out")])
    train = opened(tmp_path / "out")
    assert set(opened(tmp_path / "out", "val", train.class_names).labels) == {1, 2}
    with pytest.raises(
        UserError, match=r"val.mindrecord.json has 2 classes, of which class_1 is not among the 2 training classes"
    ):
        opened(tmp_path / "out", "val", ("class_0", "class_2"))


def test_a_shard_ends_before_it_grows_too_big(data: Path) -> None:
    source = opened(data)
    assert isinstance(source, FileDataset)
    sizes = [os.path.getsize(path) for path in source.paths]
    shards = plan(source, data, max(sizes) * 2)
    assert sum(shards, []) == list(range(15)) and len(shards) > 4
    assert all(sum(sizes[index] for index in shard) <= max(sizes) * 2 for shard in shards)
    assert [len(shard) for shard in plan(source, data, 1)] == [1] * 15  # an image that is bigger than a shard is alone


def test_images_of_all_pages_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mindrecord, "PAGE", 32 << 10)
    data = make_data_dir(tmp_path / "data", classes=2, train=20, val=1, modes=("bmp",))
    main([str(data), str(tmp_path / "out"), "--split", "train"])
    folder, packed = opened(data), opened(tmp_path / "out")
    assert len({int(place) // (32 << 10) for place in packed._place}) > 5
    assert all(packed.content(index) == Path(folder.name(index)).read_bytes() for index in range(40))


def test_an_image_too_big_for_a_page_is_refused(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mindrecord, "PAGE", 1 << 10)
    assert "more than a MindRecord page" in error_of(data, tmp_path / "out")


def test_a_packing_that_was_cut_off_goes_on(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = opened(data), tmp_path / "out"
    out.mkdir()
    third = sum(os.path.getsize(path) for path in source.paths) // 3
    written: list[str] = []
    write = mindrecord.write_shard

    def cut_off_in_the_second(path: Path, *arguments: Any) -> None:
        if written:
            (out / ".unfinished").mkdir()
            (out / ".unfinished" / path.name).write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, *arguments)

    monkeypatch.setattr(mindrecord, "write_shard", cut_off_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        pack(source, data, out, "train", third, int)
    with pytest.raises(
        UserError,
        match=r"holds train_0000.mindrecord without train.mindrecord.json: it was not finished; run .*prepare again",
    ):
        opened(out)
    before = (out / "train_0000.mindrecord").stat().st_mtime_ns
    again: list[str] = []
    done: list[int] = []

    def noted(path: Path, *arguments: Any) -> None:
        again.append(path.name)
        write(path, *arguments)

    monkeypatch.setattr(mindrecord, "write_shard", noted)
    paths = pack(source, data, out, "train", third, done.append)
    assert len(paths) >= 3 and again == [path.name for path in paths[1:]] and sum(done) == 15
    assert (out / "train_0000.mindrecord").stat().st_mtime_ns == before and not (out / ".unfinished").exists()
    assert [opened(out).content(index) for index in range(15)] == [Path(path).read_bytes() for path in source.paths]


def test_files_of_another_data_set_are_not_kept(data: Path, tmp_path: Path) -> None:
    main([str(data), str(tmp_path / "out"), "--split", "train"])
    shutil.copy(data / "train" / "class_0" / "000_jpeg_rgb.JPEG", data / "train" / "class_2" / "more.JPEG")
    assert "train_0000.mindrecord holds other images than those of" in error_of(
        data, tmp_path / "out", "--split", "train"
    )


def test_wrong_input_is_one_line(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert error_of(tmp_path / "none", out).startswith(f"data_dir {tmp_path}/none does not exist")
    assert error_of(data, out, "--shard_size", "0") == "command line: --shard_size is 0, but must be at least 1 (MiB)"
    assert "OUT and DATA_DIR are both" in error_of(data, data)
    assert "invalid choice: 'test'" in error_of(data, out, "--split", "test")
    (tmp_path / "file").write_text("")
    assert "can't be written" in error_of(data, tmp_path / "file")
    main([str(data), str(out)])
    assert "is packed already" in error_of(out, tmp_path / "more")


def test_damaged_files_are_told(data: Path, tmp_path: Path) -> None:
    out, shard = tmp_path / "out", tmp_path / "out" / "train_0000.mindrecord"
    main([str(data), str(out), "--split", "train"])
    content, source = shard.read_bytes(), opened(out)
    place, size = int(source._place[7]), int(source._size[7])
    shard.write_bytes(content[:place] + (size + 1).to_bytes(8, "little") + content[place + 8 :])
    with pytest.raises(DecodeError, match="disagree"):
        opened(out).read(7)
    shard.write_bytes(content[: place + 8] + bytes(size) + content[place + 8 + size :])
    with pytest.raises(DecodeError, match="can't be decoded"):
        opened(out).read(7)
    shard.write_bytes(content[:place])
    with pytest.raises(UserError, match="is cut short; remove it"):
        read_shard(shard)
    shard.write_bytes(b"no header")
    with pytest.raises(UserError, match="is no MindRecord file of mindvit's"):
        opened(out)
    shard.write_bytes(content)
    Path(f"{shard}.db").unlink()
    with pytest.raises(UserError, match="its .db is missing or damaged"):
        opened(out)
    meta = out / "train.mindrecord.json"
    meta.write_text(json.dumps({"count": 3}))
    with pytest.raises(UserError, match="train.mindrecord.json can't be read"):
        opened(out)


def test_a_promise_of_other_counts_is_refused(data: Path, tmp_path: Path) -> None:
    main([str(data), str(tmp_path / "out"), "--split", "train"])
    meta = tmp_path / "out" / "train.mindrecord.json"
    meta.write_text(meta.read_text().replace('"count": 15', '"count": 16'))
    with pytest.raises(UserError, match="promises 16 images, but its files hold 15"):
        opened(tmp_path / "out")


def test_names_that_are_no_text_are_spelt_out(data: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(data / "train" / "class_1") + b"/z\xff 'quoted\".jpg")
    shutil.copy(data / "train" / "class_1" / "000_jpeg_rgb.JPEG", odd)
    main([str(data), str(tmp_path / "out"), "--split", "train"])
    packed = opened(tmp_path / "out")
    assert (
        "class_1/z\\xff 'quoted\".jpg" in packed.name(int(np.flatnonzero(packed.labels == 1)[-1]))
        and packed.fingerprint() == opened(data).fingerprint()
    )
