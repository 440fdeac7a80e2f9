"""Losses of two logs beside each other, and what is found of an NPU's installation."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import pytest

from mindvit.cli import losses, npu
from mindvit.errors import UserError
from mindvit.runtime import ascend


def log(path: Path, values: Sequence[object], first: int = 1) -> Path:
    """A run's screen with these losses."""
    lines = ["device: CPU", "training starts"]
    for step, value in enumerate(values, first):
        lines.append(f"epoch 1/2  step {step}/20  loss {value}  lr 1.00e-04  norm 8.5  img/s 8  ETA 0:00:47")
    path.write_text("\n".join(lines), "utf-8")
    return path


def test_equal_losses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = log(tmp_path / "a", [2.0, 1.5, 1.0]), log(tmp_path / "b", [2.0, 1.5, 1.0])
    losses.main([str(one), str(two)])
    printed = capsys.readouterr().out
    assert "| 2 | 1.5000 | 1.5000 | 0.00% |" in printed
    assert "3 steps in common; the largest difference is 0.00%, at step 1: within 2.00%" in printed


def test_the_largest_difference_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = log(tmp_path / "a", [2.0] * 20), log(tmp_path / "b", [2.0] * 16 + [2.1] + [2.0] * 3)
    with pytest.raises(SystemExit) as end:
        losses.main([str(one), str(two)])
    assert end.value.code == 1
    assert "20 steps in common; the largest difference is 5.00%, at step 17: more than 2.00%" in capsys.readouterr().out
    losses.main([str(one), str(two), "--tolerance", "0.06"])


def test_a_loss_that_is_no_number_is_a_difference(tmp_path: Path) -> None:
    one, two = log(tmp_path / "a", [2.0, 2.0]), log(tmp_path / "b", [2.0, "nan"])
    with pytest.raises(SystemExit):
        losses.main([str(one), str(two), "--tolerance", "1000"])


def test_only_steps_in_common_count(tmp_path: Path) -> None:
    one = losses.read_losses(log(tmp_path / "a", [9.0, 2.0, 1.0]))
    two = losses.read_losses(log(tmp_path / "b", [2.0, 1.1, 7.0], first=2))
    assert [(row.step, row.first, row.second) for row in losses.differences(one, two)] == [(2, 2.0, 2.0), (3, 1.0, 1.1)]


def test_logs_without_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no line with a step and its loss: .*--log_interval 1"):
        losses.read_losses(log(tmp_path / "a", []))
    with pytest.raises(UserError, match="can't be read: No such file"):
        losses.read_losses(tmp_path / "none")
    with pytest.raises(UserError, match="the loss of step 1 is 'x', which is no number"):
        losses.read_losses(log(tmp_path / "b", ["x"]))
    with pytest.raises(UserError, match="no step in common: the first has 1 to 1, the second 5 to 6"):
        losses.differences({1: 2.0}, {5: 1.0, 6: 1.0})


@pytest.mark.parametrize(
    "text, version",
    [
        ("package_name=Ascend-cann-toolkit\nversion=8.2.RC1\ninnerversion=V100R001C82", "8.2.RC1"),
        ("# CANN\nruntime_running_version=[7.7.0:CANN-8.3.RC1]", "8.3.RC1"),
        ("Version=25.0.rc1.1\nascendhal_version=7.35.23", "25.0.rc1.1"),
        ("nothing", ""),
    ],
)
def test_versions_are_read(tmp_path: Path, text: str, version: str) -> None:
    (tmp_path / "info").write_text(text, "utf-8")
    assert npu.version_in(str(tmp_path / "info")) == version


def test_no_file_is_no_version(tmp_path: Path) -> None:
    assert npu.version_in(str(tmp_path / "none")) == ""


@pytest.mark.parametrize("version, good", [("8.1.RC1", False), ("8.2.RC1", True), ("9.1.0", True), ("9.2.0", False)])
def test_cann_that_mindspore_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, good: bool) -> None:
    (tmp_path / "aarch64-linux").mkdir()
    (tmp_path / "aarch64-linux" / "ascend_toolkit_install.info").write_text(f"version={version}\n", "utf-8")
    monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    assert f"CANN {version} ({'supported' if good else 'NOT supported: CANN 8.2 to 9.1 is'})" in npu.describe()


def test_a_machine_without_cann(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(npu, "DRIVER", str(tmp_path / "none"))
    monkeypatch.setattr(npu, "TOOLKITS", (str(tmp_path),))
    assert npu.describe().startswith("no driver, no CANN\nsupported: Atlas A2 and A3")


def test_what_is_supported_of_a_chip() -> None:
    assert ascend.support("Ascend910B3") == "(Atlas A2, supported)"
    assert "best effort" in ascend.support("Ascend910A")
    assert "not supported" in ascend.support("Ascend310P3")
