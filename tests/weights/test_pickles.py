"""Pickles are read, and never run; what is damaged or hostile gets one line."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from torchfile import Call, View, save_torch

from mindvit.errors import UserError
from mindvit.weights import pickles, read_weights
from mindvit.weights.readers import read

FLOATS = np.arange(12, dtype=np.float32)


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_weights(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and "\n" not in text
    return text


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return list(found) == list(expected) and all(
        found[name].dtype == value.dtype and np.array_equal(found[name], value) for name, value in expected.items()
    )


@pytest.mark.parametrize("is_legacy", [False, True])
def test_both_formats_of_pytorch(tmp_path: Path, is_legacy: bool) -> None:
    square = FLOATS.reshape(3, 4)
    path = save_torch(
        tmp_path / "any.name",
        {
            "plain": square,
            "half": FLOATS.astype(np.float16),
            "double": FLOATS.astype(np.float64),
            "counter": np.array(7),
            "flags": FLOATS > 3,
            "brain": View((FLOATS.view(np.uint32) >> 16).astype(np.uint16)),
            "transposed": View(FLOATS, 0, (4, 3), (1, 4)),
            "part": View(FLOATS, 4, (2, 2), (4, 2)),
            "expanded": View(FLOATS, 1, (2, 3), (0, 0)),
            "empty": View(FLOATS, 0, (0, 3), (3, 1)),
            "parameter": Call("torch._utils._rebuild_parameter", View(FLOATS), True),
        },
        is_legacy,
    )
    source = read(path)
    assert source.form.startswith("PyTorch") and source.widened == ["brain"]
    assert same(
        source.arrays,
        {
            "plain": square,
            "half": FLOATS.astype(np.float16),
            "double": FLOATS.astype(np.float64),
            "counter": np.array(7),
            "flags": FLOATS > 3,
            "brain": FLOATS,
            "transposed": square.T,
            "part": square[1:, ::2],
            "expanded": np.ones((2, 3), np.float32),
            "empty": np.zeros((0, 3), np.float32),
            "parameter": FLOATS,
        },
    )


def test_tensors_that_share_memory_are_their_own_afterwards(tmp_path: Path) -> None:
    found = read_weights(save_torch(tmp_path / "a.pth", {"a": View(FLOATS), "b": View(FLOATS)}))[0]
    found["a"][0] = 5
    assert found["b"][0] == 0


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_paddle(tmp_path: Path, protocol: int) -> None:
    state = {
        "fc.weight": FLOATS.reshape(3, 4),
        "order": np.asfortranarray(FLOATS.reshape(3, 4)),
        "other_end": FLOATS.astype(">f4"),
        "named": ("linear_0.b_0", FLOATS),
        "StructuredToParameterName@@": {"fc.weight": "linear_0.w_0"},
    }
    path = tmp_path / "a.pdparams"
    path.write_bytes(pickle.dumps(state, protocol))
    source = read(path)
    assert source.form == "Paddle" and source.ignored == ["StructuredToParameterName@@"]
    assert {name: value.tolist() for name, value in source.arrays.items()} == {
        "fc.weight": FLOATS.reshape(3, 4).tolist(),
        "order": FLOATS.reshape(3, 4).tolist(),
        "other_end": FLOATS.tolist(),
        "named": FLOATS.tolist(),
    }


def test_wrappers(tmp_path: Path) -> None:
    other = FLOATS + 1
    path = save_torch(
        tmp_path / "a.pth",
        {
            "optimizer": {"state": {0: {"exp_avg": FLOATS}}, "lr": 1e-3},
            "epoch": 3,
            "model_ema": {"module.w": other},
            "model": {"module.w": FLOATS},
            "args": Call("argparse.Namespace"),
            "config": Call("yacs.config.CfgNode"),
        },
    )
    source = read(path)
    assert same(source.arrays, {"w": FLOATS}) and (source.taken, source.others) == ("model", ["model_ema"])
    assert same(read(path, "model_ema").arrays, {"w": other})
    assert same(read(path, "ema").arrays, {"w": other})  # whatever the script calls it
    assert same(read(path, "model").arrays, {"w": FLOATS})
    with pytest.raises(UserError, match="has no 'swa' to take, but model_ema, model"):
        read(path, "swa")
    bare = save_torch(tmp_path / "b.pth", {"w": FLOATS})
    assert same(read(bare, "model").arrays, {"w": FLOATS})
    for take in ("ema", "model_ema"):
        with pytest.raises(UserError, match="aren't wrapped"):
            read(bare, take)
    averages = save_torch(tmp_path / "g.pth", {"state_dict_ema": {"w": other}})
    assert same(read(averages).arrays, {"w": other}) and read(averages).is_average
    with pytest.raises(UserError, match="has no 'model' to take, but state_dict_ema"):
        read(averages, "model")
    assert "holds several sets of weights, one, two: say which, take='one' or 'two'" in refused(
        save_torch(tmp_path / "c.pth", {"one": {"w": FLOATS}, "two": {"w": FLOATS}})
    )
    assert same(read_weights(save_torch(tmp_path / "d.pth", {"student": {"w": FLOATS}}))[0], {"w": FLOATS})
    assert "no weights by name" in refused(save_torch(tmp_path / "e.pth", {"epoch": 3}))
    assert "no weights by name" in refused(save_torch(tmp_path / "f.pth", [1]))


class Command:
    """Runs a command when an ordinary pickle reader meets it."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("asked", ["posix.system", "builtins.eval", "builtins.getattr", "os.remove"])
@pytest.mark.parametrize("form", ["zip", "legacy", "paddle"])
def test_a_pickle_that_wants_more_is_refused_by_name_and_not_run(tmp_path: Path, form: str, asked: str) -> None:
    target = tmp_path / "target"
    target.write_text("")
    marker = tmp_path / "ran"
    command = {
        "posix.system": Command(os.system, f"touch {marker}"),
        "builtins.eval": Command(eval, f"open({str(marker)!r}, 'w')"),
        "builtins.getattr": Command(getattr, FLOATS, "tolist"),
        "os.remove": Command(os.remove, str(target)),
    }[asked]
    path = tmp_path / "evil.pth"
    if form == "paddle":
        path.write_bytes(pickle.dumps({"w": FLOATS, "x": command}, 4))
    else:
        save_torch(path, {"w": FLOATS, "x": command}, form == "legacy")
    text = refused(path)
    name = asked if form == "paddle" else asked.replace("builtins.", "__builtin__.")
    assert (name.replace("os.remove", "posix.remove") in text) and "nothing was run" in text
    assert not marker.exists() and target.exists()


@pytest.mark.parametrize(
    "opcodes, what",
    [
        (b"cos\nsystem\n(S'touch MARK'\ntR.", "os.system"),
        (b"(S'touch MARK'\nios\nsystem\n.", "os.system"),  # INST
        (b"(cos\nsystem\nS'touch MARK'\no.", "os.system"),  # OBJ
        (b"\x8c\x02os\x8c\x06system\x93(S'touch MARK'\ntR.", "os.system"),  # STACK_GLOBAL
        (b"ccollections\nOrderedDict.fromkeys\n.", "OrderedDict.fromkeys"),  # an attribute of something allowed
        (b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.", "__globals__"),
        (b"cargparse\nNamespace\n)\x81}\x8c\x01xK\x01sb.", "no weights by name"),  # a state for an inert value
        (b"cargparse\nNamespace\n}\x8c\x08__init__K\x01sb.", "damaged"),  # a state for the stand-in's class itself
        (b"c_codecs\nencode\n}\x8c\x01xK\x01sb.", "damaged"),  # and for a function
        (b"\x8e" + b"\xff" * 7 + b"\x7f" + b"x.", "damaged"),  # a text of 2**63 bytes
        (
            b"N" + b"r\xff\xff\xff\x7f.",
            "no weights by name",
        ),  # a memo of 2**31 places: the interpreter in C would make it
        (b"(" * 200000 + b".", "damaged"),
        (b"cnumpy\ndtype\nS'O8'\nK\x00K\x01\x87R.", "type 'O8'"),
    ],
)
def test_handwritten_pickles(tmp_path: Path, opcodes: bytes, what: str) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / "evil.pdparams"
    path.write_bytes(b"\x80\x04" + opcodes.replace(b"MARK", str(marker).encode()))
    assert what in refused(path)
    assert (
        not marker.exists()
        and not vars(pickles.STANDS_FOR["_codecs.encode"])
        and "x" not in vars(pickles.STANDS_FOR["argparse.Namespace"])
    )


@pytest.mark.parametrize(
    "view",
    [
        View(FLOATS, 5, (3, 4), (4, 1)),
        View(FLOATS, 0, (2, 2), (12, 1)),
        View(FLOATS, -1, (2,), (1,)),
        View(FLOATS, 0, (2, 2), (1,)),
        View(FLOATS, 0, (2,), (-1,)),
        View(FLOATS, 12, (1,), (1,)),
    ],
)
def test_tensors_outside_their_storage(tmp_path: Path, view: View) -> None:
    for is_legacy in (False, True):
        assert "damaged" in refused(save_torch(tmp_path / "a.pth", {"w": view}, is_legacy))


def test_bombs(tmp_path: Path) -> None:
    huge = View(FLOATS, 0, (1 << 20, 1 << 20), (0, 0))  # terabytes out of one number
    assert "more than 100 times" in refused(save_torch(tmp_path / "a.pth", {"w": huge}))
    zeros = np.zeros(8 << 20, np.float32)
    assert "more than 100 times" in refused(
        save_torch(tmp_path / "b.pth", {"w": zeros}, compression=zipfile.ZIP_DEFLATED)
    )
    np.savez_compressed(tmp_path / "c.npz", w=zeros)
    assert "more than 100 times" in refused(tmp_path / "c.npz")
    assert same(
        read_weights(save_torch(tmp_path / "d.pth", {"w": FLOATS}, compression=zipfile.ZIP_DEFLATED))[0], {"w": FLOATS}
    )  # compressed, but sane


@pytest.mark.parametrize("is_legacy", [False, True])
def test_the_other_byte_order(tmp_path: Path, is_legacy: bool) -> None:
    assert "big-endian" in refused(save_torch(tmp_path / "a.pth", {"w": FLOATS}, is_legacy, "big"))


@pytest.mark.parametrize("form", ["zip", "legacy", "paddle", "npz"])
def test_truncated_and_flipped(tmp_path: Path, form: str) -> None:
    path = tmp_path / "a.bin"
    if form == "paddle":
        path.write_bytes(pickle.dumps({"w": FLOATS}, 4))
    elif form == "npz":
        np.savez(path.with_suffix(".npz"), w=FLOATS)
        path = path.with_suffix(".npz")
    else:
        save_torch(path, {"w": FLOATS}, form == "legacy")
    whole = path.read_bytes()
    for length in (20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "damaged" in refused(path) or form == "legacy"  # cut within a name, that name is refused
    if form in ("zip", "npz"):  # which have checksums
        at = whole.index(FLOATS.tobytes())
        path.write_bytes(whole[:at] + b"\x99" + whole[at + 1 :])
        assert "damaged" in refused(path)


def test_damaged_safetensors(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.safetensors", save({"w": FLOATS})
    for content in (
        whole[:-1],
        whole[:30],
        struct.pack("<Q", 1 << 60) + whole[8:],
        struct.pack(">Q", 64) + whole[8:],
        whole.replace(b"[12]", b"[13]"),
        whole.replace(b"[0,48]", b"[0,99]"),
    ):
        path.write_bytes(content)
        assert "damaged safetensors" in refused(path)


def test_bfloat16_in_safetensors(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"BF16","shape":[3,4],"data_offsets":[0,24]}}'
    path = tmp_path / "a.bin"
    path.write_bytes(struct.pack("<Q", len(header)) + header + (FLOATS.view(np.uint32) >> 16).astype("<u2").tobytes())
    source = read(path)
    assert same(source.arrays, {"w": FLOATS.reshape(3, 4)}) and source.widened == ["w"]
    path.write_bytes(
        path.read_bytes()
        .replace(b'"BF16"', b'"F8_E4M3"')
        .replace(struct.pack("<Q", len(header)), struct.pack("<Q", len(header) + 3))
    )
    assert "damaged" in refused(path) or "F8_E4M3" in refused(path)


@pytest.mark.parametrize(
    "content, what",
    [
        (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"hello" * 10, "no checkpoint, truncated or damaged"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    text = refused(path)
    assert what in text and "accepted are MindSpore .ckpt" in text


@pytest.mark.parametrize("form", ["zip", "legacy", "paddle"])
def test_a_name_that_nobody_knows_is_never_imported(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "settings_of_somebody.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\ndef run(text): exec(text)\n"
    )
    path = tmp_path / "a.bin"
    if form == "paddle":
        asked = b"csettings_of_somebody\nrun\n(S'import os'\ntR"
        plain = pickle.dumps({"w": FLOATS}, 2)
        path.write_bytes(plain[:-1] + b"S'x'\n" + asked + b"s.")  # one more item
    else:
        save_torch(path, {"w": FLOATS, "x": Call("settings_of_somebody.run", "import os")}, form == "legacy")
    source = read(path)
    assert same(source.arrays, {"w": FLOATS}) and source.ignored == ["x"]
    assert not (tmp_path / "ran").exists()
