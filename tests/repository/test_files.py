"""Environment check, meter, logs, checkpoint files, device choice, documentation."""

from __future__ import annotations

import csv
import importlib
import itertools
import resource
import sys
from importlib import metadata
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from mindvit import environment
from mindvit.engine import checkpoint
from mindvit.engine.meter import Meter
from mindvit.errors import UserError
from mindvit.recipe.options import PrecisionOptions, RuntimeOptions
from mindvit.runtime import console, device, files, platform
from mindvit.weights import read_weights, write

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "name, version, words",
    [
        ("numpy", "2.1.0", "needs numpy 1.25 to 1.26, this is 2.1.0: pip install 'numpy>=1.25,<2'"),
        ("mindspore", "2.6.0", "needs mindspore 2.7 to 2.10, this is 2.6.0"),
        ("mindspore", "2.11.0", "this is 2.11.0"),
        ("mindspore", None, "needs mindspore, which is not installed"),
        ("protobuf", "3.1.0", "or newer, this is 3.1.0: pip install 'protobuf>="),
    ],
)
def test_a_wrong_library_is_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, version: str | None, words: str
) -> None:
    real = metadata.version

    def pretended(asked: str) -> str:
        if asked == name and version is None:
            raise metadata.PackageNotFoundError(asked)
        return str(version) if asked == name else real(asked)

    monkeypatch.setattr(environment.metadata, "version", pretended)
    with pytest.raises(environment.EnvironmentMismatch) as caught:
        environment.check()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_wrong_python_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.sys, "version_info", (3, 13, 0))
    with pytest.raises(environment.EnvironmentMismatch, match="needs Python 3.9 to 3.12"):
        environment.check()


def test_this_environment_is_accepted() -> None:
    environment.check()


def test_meter_leaves_the_first_step_out_and_counts_waits() -> None:
    ticks = itertools.count(0, 0.5)  # every look at the clock is half a second later
    meter = Meter(images=8, clock=lambda: next(ticks))
    assert list(meter.waiting("abc")) == ["a", "b", "c"] and meter.waited == 1.5
    for seconds in (9.0, 2.0, 4.0, 3.0):
        meter.step(seconds)
    assert meter.ms_per_step == 3000 and meter.images_per_second == 8 / 3
    assert meter.recent_images_per_second == 8 / 3.5 and meter.wait_share == 1.5 / 18
    assert Meter(1).ms_per_step == Meter(1).images_per_second == Meter(1).wait_share == 0


def test_rows_with_other_columns_go_to_another_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "runs.csv"
    console.append_csv(path, {"a": 1, "b": "x,y"})
    console.append_csv(path, {"a": 2, "b": 3})
    assert list(csv.reader(path.open())) == [["a", "b"], ["1", "x,y"], ["2", "3"]]
    console.append_csv(path, {"a": 2, "c": 3})
    assert list(csv.reader(path.open())) == [["a", "c"], ["2", "3"]] and len(list(path.parent.glob("*.csv"))) == 2


def test_table_and_duration() -> None:
    assert console.table({"a": 1, "long": None}).splitlines() == ["| a | long |", "| - | ---- |", "| 1 | n/a  |"]
    assert console.duration(3725.4) == "1:02:05"


def test_plain_lines_when_the_output_is_no_terminal(capsys: pytest.CaptureFixture) -> None:
    progress = console.Progress(steps=5, epochs=1, interval=2)
    for _ in range(5):
        progress.update(0, {"loss": "1.5"})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in lines] == ["step 2/5", "step 4/5", "step 5/5"] and all(
        "loss 1.5" in line and "ETA" in line for line in lines
    )


def parameters(value: float) -> list[ms.Parameter]:
    return [ms.Parameter(ms.Tensor(np.full(4, value, np.float32)), name="weight")]


def test_keeper_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    keeper = checkpoint.CheckpointManager(tmp_path, "net", keep=2)
    for epoch in range(1, 5):
        assert keeper.save(epoch, parameters(epoch), {"epoch": epoch}) == tmp_path / f"net-{epoch}.ckpt"
        if epoch == 1:
            assert keeper.save_best(epoch, parameters(epoch), {"epoch": epoch, "score": 1}) == tmp_path / "net-1.ckpt"
            assert read_weights(tmp_path / "net-1.ckpt")[1] == {"epoch": 1, "score": 1}  # one file under two names
            assert (tmp_path / "net-1.ckpt").samefile(tmp_path / "net-best.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net-3.ckpt", "net-4.ckpt", "net-best.ckpt"]
    arrays, meta = read_weights(tmp_path / "net-best.ckpt")
    assert meta == {"epoch": 1, "score": 1} and arrays["weight"].tolist() == [1, 1, 1, 1]
    # of an epoch that is not kept
    assert keeper.save_best(9, parameters(9), {"epoch": 9}) == tmp_path / "net-best.ckpt"
    assert not (tmp_path / "net-9.ckpt").exists() and read_weights(tmp_path / "net-best.ckpt")[1] == {"epoch": 9}


def test_a_failed_save_leaves_nothing_and_one_line_tells(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    path = tmp_path / "net-1.ckpt"
    checkpoint.save(path, parameters(1), {})
    before = path.read_bytes()
    big = [ms.Parameter(ms.Tensor(np.zeros(1 << 20, np.float32)), name="weight")]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))  # a disk with room for a quarter of it
    try:
        with pytest.raises(checkpoint.NotSaved, match="net-1.ckpt can't be written: File too large"):
            checkpoint.save(path, big, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before
    assert capfd.readouterr() == ("", "")  # not MindSpore's own line


def test_what_a_killed_save_left_is_cleared_away(tmp_path: Path) -> None:
    for name in (".net-1.unfinished.tmp", ".net-2.unfinished.ckpt", "net-2.ckpt", ".hidden"):
        (tmp_path / name).write_text("")
    (tmp_path / ".net-1.unfinished.tmp").chmod(0o400)
    with checkpoint.run_lock(tmp_path, pytest.fail):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", ".lock", "net-2.ckpt"]


def test_files_without_an_ending_have_no_say_over_their_neighbours(tmp_path: Path) -> None:
    (tmp_path / ".runs.0").write_text("")
    files.write_text(tmp_path / "runs", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".runs.0", "runs"]


def test_a_row_is_added_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    console.append_csv(path, {"a": 1, "b": "x" * 600})
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError):
            console.append_csv(path, {"a": 2, "b": "y" * 600})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    path.write_bytes(before + b"2,torn")
    console.append_csv(path, {"a": 3, "b": "z"})
    assert list(csv.reader(path.open())) == [["a", "b"], ["1", "x" * 600], ["2", "torn"], ["3", "z"]]


def test_a_results_file_is_checked_without_a_trace(tmp_path: Path) -> None:
    console.check_csv(tmp_path / "new" / "runs.csv", "results_csv")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").write_text("")
    for path, says in (
        (tmp_path / "file" / "runs.csv", "can't be written: "),
        (tmp_path, "can't be written: Is a directory"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            console.check_csv(path, "results_csv")
        assert str(caught.value).startswith(f"results_csv {path} ") and caught.value.exit_code == 2


def test_validation_says_how_far_it_is(capsys: pytest.CaptureFixture) -> None:
    assert list(console.validating(range(5), 5, 8, interval=2)) == [0, 1, 2, 3, 4]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["validating 2/5", "validating 4/5"] and all(
        "img/s" in line for line in lines
    )
    assert (
        list(console.validating(range(5), 5, 8, interval=1, shown=False)) == [0, 1, 2, 3, 4]
        and capsys.readouterr().out == ""
    )


def test_validation_has_a_bar_of_its_own_on_a_terminal(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "90")
    with console.Progress(steps=4, epochs=2, interval=1) as progress:
        progress.update(0, {"loss": "1.5"})
        progress.update(0, {"loss": "1.4"})
        progress.hide()
        assert progress.bar is None
        capsys.readouterr()
        list(console.validating(range(3), 3, 8, "validating the moving average", interval=1))
        shown = capsys.readouterr()
        assert "validating the moving average:   0%" in shown.err and "epoch" not in shown.err and shown.out == ""
        progress.update(1, {"loss": "1.3"})
        assert progress.bar is not None and progress.bar.n == 3 and progress.bar.initial == 0
    # what comes next begins on a line of its own
    assert progress.bar is None and capsys.readouterr().err.endswith("\r")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint.save(tmp_path / "net.ckpt", parameters(1), {})

    def fails(_: list, name: str, **settings: object) -> None:
        Path(name).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write.ms, "save_checkpoint", fails)
    with pytest.raises(checkpoint.NotSaved, match="net.ckpt can't be written: No space left"):
        checkpoint.save(path, parameters(2), {})
    assert [item.name for item in tmp_path.iterdir()] == ["net.ckpt"] and read_weights(path)[0]["weight"][0] == 1


class Calls:
    """Stands for MindSpore's context: what was asked for, and which devices there are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nodes: tuple[str, ...], usable: tuple[str, ...]):
        self.context: dict[str, object] = {}
        self.devices: list[str] = []
        self.usable = usable
        monkeypatch.setattr(device.glob, "glob", lambda pattern: [node for node in nodes if pattern.startswith(node)])
        monkeypatch.setattr(device.ms, "set_device", self.set_device)
        monkeypatch.setattr(device.ms, "set_context", lambda **settings: self.context.update(settings))

    def set_device(self, target: str) -> None:
        self.devices.append(target)
        if target not in self.usable:
            raise RuntimeError(f"Unsupported device target {target}.\nmore lines")


HALF = PrecisionOptions(amp_level="O2")


def test_ascend_gets_o2_and_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch, ("/dev/davinci", "/dev/nvidia"), ("Ascend", "GPU", "CPU"))
    chosen, line = device.set_up(RuntimeOptions(), HALF)
    assert calls.devices == ["Ascend"] and calls.context == {"mode": ms.GRAPH_MODE, "jit_config": {"jit_level": "O2"}}
    assert (chosen.target, chosen.jit_level, chosen.amp_level, chosen.half) == ("Ascend", "O2", "O2", ms.float16)
    assert line.startswith("device: Ascend")


def test_only_half_precision_on_ascend_may_saturate() -> None:
    def made(target: str, half: object) -> device.Device:
        return device.Device(target, "O2", "O2", "O2", half)  # type: ignore[arg-type]

    assert made("Ascend", ms.float16).saturates
    assert not any(
        made(*case).saturates
        for case in (("Ascend", ms.bfloat16), ("Ascend", None), ("GPU", ms.float16), ("CPU", ms.float16))
    )


def test_a_gpu_is_second_and_says_what_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch, ("/dev/nvidia",), ("GPU", "CPU"))
    chosen, line = device.set_up(RuntimeOptions(), PrecisionOptions(amp_level="O2", amp_type="bfloat16"))
    assert calls.devices == ["GPU"] and (chosen.jit_level, chosen.half) == ("O0", ms.bfloat16)
    assert "no Ascend found" in line and "jit level O0" in line and "\n" not in line


def test_a_gpu_that_cannot_be_used_is_passed_over_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch, ("/dev/nvidia",), ("CPU",))
    chosen, line = device.set_up(RuntimeOptions(), HALF)
    assert calls.devices == ["GPU", "CPU"] and (chosen.target, chosen.amp_level, chosen.half) == ("CPU", "O0", None)
    assert (
        "GPU can't be used: Unsupported device target GPU." in line and "AMP O0, float32" in line and "\n" not in line
    )
    with pytest.raises(UserError, match="device_target is GPU, but GPU can't be used"):
        device.set_up(RuntimeOptions(device_target="GPU"), HALF)


@pytest.mark.parametrize("levels", [("O1", None), ("O2", None), ("O3", None), ("O0", "O1"), ("O2", "O0")])
def test_half_precision_that_a_cpu_has_no_operators_for_is_one_line(
    levels: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch, (), ("CPU",))
    amp_level, val_amp_level = levels
    options = {"amp_level": amp_level, "val_amp_level": val_amp_level, "amp_on_cpu": True}
    monkeypatch.setattr(device, "of", lambda *_: platform.PORTABLE)
    with pytest.raises(
        UserError, match="amp_type is bfloat16 with amp_on_cpu, but .*: amp_type: float16, or leave amp_on_cpu out"
    ) as caught:
        device.set_up(RuntimeOptions(), PrecisionOptions(amp_type="bfloat16", **options))
    assert "\n" not in str(caught.value) and not calls.context
    assert device.set_up(RuntimeOptions(), PrecisionOptions(**options))[0].half == ms.float16
    left_off = PrecisionOptions(amp_type="bfloat16", **{**options, "amp_on_cpu": False})
    assert device.set_up(RuntimeOptions(), left_off)[0].half is None
    assert (
        device.set_up(RuntimeOptions(), PrecisionOptions(amp_type="bfloat16", amp_on_cpu=True))[0].half is None
    )  # O0: there is none


def test_ranks_come_from_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.launched_ranks() == (0, 1)
    for key, value in {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "8", "RANK_ID": "3"}.items():
        monkeypatch.setenv(key, value)
    assert device.launched_ranks() == (3, 8)
    Calls(monkeypatch, (), ("CPU",))
    with pytest.raises(UserError, match="distribute is False, but the launcher started 8 processes"):
        device.set_up(RuntimeOptions(distribute=False), PrecisionOptions())


def test_generated_documentation_is_up_to_date(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr(sys, "argv", ["write_docs.py", "--check"])
    with pytest.raises(SystemExit) as end:
        importlib.import_module("write_docs").main()
    assert end.value.code == 0, capsys.readouterr().out
