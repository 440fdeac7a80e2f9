"""The door to mindcv, in fresh processes: our names there when asked or where mindcv came first, theirs here, and
nobody's import disturbed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mindvit import create_model, list_models
from mindvit.errors import UserError

ROOT = Path(__file__).parents[2]
CHECK = """
import mindcv, sys
ours, there = mindvit.list_models(), mindcv.list_models()
assert len(ours) >= 64
assert len(set(there)) == len(there) == len(theirs) + 2 * len(ours) - len(set(ours) & theirs), len(there)
for name in ours:
    second, first = (mindcv.models.registry.model_entrypoint(item) for item in ("mindvit_" + name, name))
    assert second.__module__ == "mindvit.models.mindcv", name
    assert (first.__module__ == "mindvit.models.mindcv") != (name in theirs), name
assert {"crossvit_9", "crossvit_15", "crossvit_18"} <= set(ours) & theirs
"""


def python(code: str, *path: Path) -> str:
    """Standard output of a fresh process, which must succeed."""
    lines = [f"import sys; sys.path[:0] = {[str(ROOT), *map(str, path)]!r}", code]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def theirs() -> str:
    """A line that sets `theirs` to the names of an undisturbed mindcv."""
    return f"theirs = set({python('import mindcv; print(mindcv.list_models())').strip()})"


def test_mindvit_first(theirs: str) -> None:
    begin = """
before = list(sys.meta_path)
import mindvit
assert sys.meta_path == before
assert not {"mindcv", "mindspore", "mindvit.models"} & set(sys.modules)
from mindcv.models import crossvit as theirs_of_that_name
import mindcv
assert not mindcv.models.registry.is_model("mindvit_crossvit_9")  # nothing happens to others' modules unasked
mindvit.register_with_mindcv()
mindvit.register_with_mindcv()  # a second time changes nothing
"""
    end = """
import importlib
assert type(mindcv.create_model("crossvit_9")).__module__ == theirs_of_that_name.__name__  # mindcv's own keeps its name
net = mindcv.create_model("mindvit_crossvit_9", num_classes=5, in_channels=1, drop_rate=0.1, drop_path_rate=0.2)
assert type(net).__module__ == "mindvit.models.crossvit" and net.num_classes == 5
before = mindcv.list_models()
assert importlib.reload(mindcv).list_models() == before
"""
    python(begin + theirs + CHECK + end)


def test_mindcv_first(theirs: str, tmp_path: Path) -> None:
    end = f"""
import os, mindspore, numpy
from mindvit.errors import UserError
os.environ.update(MINDVIT_OFFLINE="1", MINDVIT_CACHE={str(tmp_path)!r})
net = mindvit.create_model("crossvit_tiny", num_classes=3)
file = {str(tmp_path / "tiny.ckpt")!r}
mindspore.save_checkpoint(net, file)
again = mindcv.create_model("crossvit_tiny", num_classes=3, checkpoint_path=file, ema=False)
assert all(numpy.array_equal(a.asnumpy(), b.asnumpy()) for a, b in zip(net.get_parameters(), again.get_parameters()))
try:
    mindcv.create_model("crossvit_tiny", pretrained=True)
except UserError as error:
    assert "crossvit_tiny_224.pth isn't there, and MINDVIT_OFFLINE is set" in str(error), error
else:
    raise AssertionError("pretrained")
"""
    python("import mindcv, mindvit\n" + theirs + CHECK + end)


def test_help_waits_for_nobody() -> None:
    code = """
import runpy
sys.argv = ["train.py", "--help"]
try:
    runpy.run_path("train.py", run_name="__main__")
except SystemExit as end:
    assert not end.code
assert not {"mindcv", "mindspore"} & set(sys.modules)
"""
    assert "--teacher_ckpt_path" in python(code)


def test_other_things_called_mindcv(tmp_path: Path) -> None:
    """Broken: the error is its own, the next import a new try; file or folder: as any other import; None: one line."""
    broken, folder = tmp_path / "broken", tmp_path / "folder"
    (broken / "mindcv").mkdir(parents=True)
    (broken / "mindcv" / "__init__.py").write_text("raise RuntimeError('mindcv is broken')\n")
    (folder / "mindcv").mkdir(parents=True)
    code = f"""
import importlib, pathlib
import mindvit
file = pathlib.Path({str(broken)!r}, "mindcv", "__init__.py")
for text in ("mindcv is broken", "broken again"):
    try:
        import mindcv
    except RuntimeError as error:
        assert str(error) == text and error.__cause__ is None and error.__context__ is None, error
    else:
        raise AssertionError
    file.write_text("raise RuntimeError('broken again')  # longer than before")
    importlib.invalidate_caches()
file.write_text("import no_such_thing_that_mindcv_needs")
try:
    mindvit.create_model("mindcv/resnet18")
except ModuleNotFoundError as error:
    assert error.name == "no_such_thing_that_mindcv_needs"
else:
    raise AssertionError
file.write_text("it_is = 'another mindcv'")
import mindcv
assert mindcv.it_is == "another mindcv"
del sys.modules["mindcv"]
places, sys.path[:] = sys.path[:], [{str(folder)!r}]
import mindcv
assert getattr(mindcv, "__file__", None) is None
sys.path[:] = places
sys.modules["mindcv"] = None  # what Python calls not found
try:
    mindvit.register_with_mindcv()
except mindvit.errors.UserError as error:
    assert "mindcv is not installed" in str(error), error
else:
    raise AssertionError
try:
    mindvit.create_model("mindcv/resnet18")
except mindvit.errors.UserError as error:
    assert "mindcv/resnet18 is a network of mindcv, which is not installed: pip install mindcv" in str(error), error
else:
    raise AssertionError
"""
    python(code, broken)


def test_their_networks_here() -> None:
    net = create_model("mindcv/resnet18", num_classes=5, in_channels=1)
    assert type(net).__module__ == "mindcv.models.resnet" and net.classifier.weight.shape == (5, 512)
    assert next(net.get_parameters()).shape[1] == 1
    assert not any(name.startswith(("mindcv/", "mindvit_")) for name in list_models())
    for name, told in (
        ("mindcv/resnet81", "did you mean resnet18"),
        ("mindcv/crossvit_tiny", "mindcv has no network 'crossvit_tiny'"),
    ):
        with pytest.raises(UserError, match=told):  # ours are not theirs, although they are registered there
            create_model(name)
    with pytest.raises(UserError, match="mindcv/resnet18: .* argument 'drop_path_rate'"):
        create_model("mindcv/resnet18", drop_path_rate=0.1)
