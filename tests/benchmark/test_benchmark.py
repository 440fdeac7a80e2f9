"""Benchmarks: the arithmetic with a clock of our own, rows and tables, a small network and a few images. No time is
asserted.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from clock import Clock

from mindvit.benchmark import network as benchmark
from mindvit.benchmark.network import COLUMNS, Job, as_json, first_line, measure
from mindvit.benchmark.profile import profile_table, read_profile
from mindvit.benchmark.timing import Timing, fastest, flops, time_steps
from mindvit.cli import benchmark as tool
from mindvit.errors import UserError
from mindvit.models import registry
from mindvit.recipe.schema import build

NANO = {"model": "nano", "batch_size": 4, "device_target": "CPU"}


@pytest.fixture(name="nano", autouse=True)
def _nano(monkeypatch: pytest.MonkeyPatch, small_networks: None) -> None:
    monkeypatch.setattr(benchmark, "PEAK_SIDE", 512)


def test_median_p90_and_rates() -> None:
    timing = Timing([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 9.0], 20.0, images=6)
    assert timing.ms == pytest.approx(600) and timing.p90 == pytest.approx(1000) and timing.rate == pytest.approx(10)
    assert timing.sustained == pytest.approx(6 * 11 / 20)


def test_flops_of_forward_and_training() -> None:
    assert flops(1.84e9, 100, "forward") == pytest.approx(2 * 1.84e11) and flops(1.84e9, 100, "train") == pytest.approx(
        6 * 1.84e11
    )


@pytest.mark.parametrize("queued", [False, True])
def test_only_the_steps_after_the_warm_up_are_timed(queued: bool) -> None:
    clock, lasts = Clock(), itertools.chain([50.0, 50.0], itertools.cycle([1.0, 3.0]))
    waiting: list[float] = []

    def step() -> float:
        waiting.append(next(lasts))
        return waiting[-1]

    def wait(_: Any) -> None:
        clock.now += sum(waiting)
        clock.waits += 1
        waiting.clear()

    timing = time_steps(step, wait, images=2, warmup=2, steps=4, queued=queued, clock=clock)
    assert timing.seconds == [1.0, 3.0, 1.0, 3.0] and timing.whole == 8.0 and timing.images == 2
    assert clock.waits == (2 + 1 + 4 if queued else 2 + 4)


def test_the_fastest_of_some_calls_but_not_the_first() -> None:
    clock, lasts = Clock(), iter([0.5, 4.0, 2.0, 3.0])

    def call() -> None:
        clock.now += next(lasts)

    assert fastest(call, rounds=3, clock=clock) == 2.0


def row_of(mode: str, **values: Any) -> dict[str, Any]:
    return measure(Job({**NANO, **values}, mode, warmup=1, steps=3))


def test_the_row_of_a_training_step_adds_up() -> None:
    row = row_of("train", gradient_accumulation_steps=2, mixup=0.8)
    assert tuple(row) == COLUMNS and row["error"] is None and row["with cache"] is None
    macs = registry.model_info("nano").macs
    assert (row["model"], row["mode"], row["devices"], row["batch size"], row["resolution"]) == (
        "nano",
        "train",
        "1 x CPU",
        4,
        "16x16",
    )
    assert (
        row["img/s"] == pytest.approx(4 * 2 / row["ms/step"] * 1000, rel=0.01)
        and row["img/s per device"] == row["img/s"]
    )
    assert row["GFLOP/s per device"] == pytest.approx(6 * macs * row["img/s"] / 1e9, abs=0.06)
    assert row["share of peak"] == pytest.approx(row["GFLOP/s per device"] / row["peak GFLOP/s"], rel=0.01)
    assert (
        row["graph compile"] > 0
        and row["p90 ms"] >= row["ms/step"]
        and row["peak memory"].endswith("GiB")
        and row["precision"] == "O0 float32"
    )


def test_the_forward_row_and_a_profile(capsys: pytest.CaptureFixture[str]) -> None:
    row = measure(Job(NANO, "forward", warmup=1, steps=3, profile=True))
    assert row["GFLOP/s per device"] == pytest.approx(
        2 * registry.model_info("nano").macs * row["img/s"] / 1e9, abs=0.06
    )
    assert "| operator " in capsys.readouterr().out


def test_another_size_is_counted_anew_and_another_build_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = benchmark.setup(build(NANO, {}), benchmark.NoImages(5))
    assert benchmark.multiply_adds(setting, "train") == registry.model_info("nano").macs and setting.num_classes == 5
    resized = benchmark.setup(build({**NANO, "model": "small_xcit", "image_resize": 48}, {}), benchmark.NoImages(5))
    counted = benchmark.multiply_adds(resized, "train")
    assert counted is not None and 0 < counted < registry.model_info("xcit_nano_12_p16_224").macs / 10
    rebuilt = benchmark.setup(build({**NANO, "model": "crossvit_9", "img_size": 48}, {}), benchmark.NoImages(5))
    assert benchmark.multiply_adds(rebuilt, "train") is None


def test_a_segmentors_multiply_adds_are_counted_at_the_size_of_its_crops() -> None:
    values = {**NANO, "model": "semantic_fpn", "backbone": "nano_pyramid", "crop_size": 64, "dataset": "scenes"}
    assert benchmark.number_of_classes(build(values, {})) == 11
    assert benchmark.number_of_classes(build({**values, "dataset": "segmentation"}, {})) == benchmark.CLASSES
    values["num_classes"] = 12
    row = measure(Job({**values, "head_channels": 16, "neck_channels": 32}, "forward", warmup=1, steps=2))
    assert row["resolution"] == "64x64"
    finest = 16 * 16 * (9 * 32 * 32 + 9 * 32 * 16 + 16 * 12)  # the pyramid's convolution, the head's, the classifier
    assert 1 < row["multiply-adds (G)"] * 1e9 / finest < 2
    assert row["share of peak"] > 0


def test_outputs_that_are_no_numbers_end_a_measurement() -> None:
    with pytest.raises(UserError, match="nano: the outputs are NaN or infinite"):
        row_of("train", lr=1e30)


def test_a_profile_is_summed_over_files_and_sorted(tmp_path: Path) -> None:
    (tmp_path / "a" / "FRAMEWORK").mkdir(parents=True)
    head = (
        "op_side,op_type,op_name,full_op_name,op_occurrences,op_total_time(ms),op_avg_time(ms),total_proportion,"
        "subgraph,pid\n"
    )
    (tmp_path / "a" / "FRAMEWORK" / "cpu_op_detail_info_0.csv").write_text(
        head + "Host,Add,Add-op0,Default/Add-op0,4,2.0,0.5,20,Default,7\n"
        "Host,MatMul,MatMul-op0,Default/net-Net/MatMul-op0,8,8.0,1,80,Default,7\n"
        + "Host,Custom,Custom-op0,Default/fc1-Linear/fused-Linear/Custom-op0,2,6.0,3,0,Default,7\n"
        + "Host,Custom,Custom-op1,Gradients/Default/fc2-Linear/fused-Linear/Custom-op1,2,4.0,2,0,Default,7\n"
        + "Host,Custom,Custom-op2,Default/Custom-op2,2,1.0,1,0,Default,7\n"
    )
    (tmp_path / "cpu_op_detail_info_1.csv").write_text(
        head + "Host,Add,Add-op0,Default/Add-op0,4,2.0,0.5,20,Default,7\n"
    )
    assert read_profile(tmp_path, "CPU", 2) == [
        ("Linear (ours)", 2, 5.0),
        ("MatMul", 4, 4.0),
        ("Add", 4, 2.0),
        ("others (ours)", 1, 0.5),
    ]
    (tmp_path / "op_statistic_1.csv").write_text(
        "Device_id,OP Type,Core Type,Count,Total Time(us),Ratio(%)\n0,MatMulV2,AI_CORE,6,3000,99\n"
    )
    assert read_profile(tmp_path, "Ascend", 2) == [("MatMulV2", 3, 1.5)]
    with pytest.raises(UserError, match=r"wrote no gpu_op_type_info"):
        read_profile(tmp_path, "GPU", 2)
    lines = profile_table([(f"op{number}", 1, 12.0 - number) for number in range(12)]).splitlines()
    assert (
        len(lines) == 2 + 10 + 1
        and lines[2].split("|")[-2].strip() == "15.4 %"
        and lines[-1] == "78.0 ms a step in 12 operators of 12 kinds"
    )


def test_a_network_that_fails_is_a_row_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ran(command: list[str], check: bool) -> subprocess.CompletedProcess:
        task = json.loads(Path(command[-1]).read_text())
        good = task["values"]["model"] == "crossvit_9"
        Path(command[-1]).write_text(
            json.dumps({**dict.fromkeys(COLUMNS), "model": "crossvit_9", "ms/step": 5.0} if good else task)
        )
        return subprocess.CompletedProcess(command, 0 if good else -9)

    monkeypatch.setattr(tool.subprocess, "run", ran)
    with pytest.raises(
        UserError, match=r"^crossvit_9_dagger: the process ended with -9 \(killed: too little memory\?\)$"
    ) as caught:
        tool.main(["crossvit_9*", "--out", str(tmp_path)])
    assert caught.value.exit_code == 1
    rows = json.loads((tmp_path / "benchmark_train.json").read_text())
    assert (
        [row["model"] for row in rows] == ["crossvit_9", "crossvit_9_dagger"]
        and list(rows[1]) == list(COLUMNS)
        and rows[1]["error"]
    )
    text = capsys.readouterr().out
    head = next(line for line in text.splitlines() if line.startswith("| model"))
    assert [cell.strip() for cell in head.split("|")[1:-1]] == [*tool.SHOWN, "error"]
    csv_lines = (tmp_path / "benchmark_train.csv").read_text().splitlines()
    assert csv_lines[0].split(",") == list(COLUMNS) and len(csv_lines) == 3


def test_with_a_compile_cache_the_second_process_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def child(task: Job) -> dict[str, Any]:
        asked.append(task)
        return {
            **dict.fromkeys(COLUMNS),
            "model": "crossvit_9",
            "graph compile": 20.0 if task.compile_only else 2.0,
            "ms/step": 7.0,
        }

    monkeypatch.setattr(tool, "child", child)
    row = tool.in_child(Job({"model": "crossvit_9"}, "train"), str(tmp_path / "cache"))
    assert (row["graph compile"], row["with cache"], row["ms/step"]) == (20.0, 2.0, 7.0)
    assert [task.compile_only for task in asked] == [True, False] and asked[0].compile_cache == asked[1].compile_cache
    assert Path(str(asked[0].compile_cache)).parent == tmp_path / "cache" and not list(
        Path(str(asked[0].compile_cache)).iterdir()
    )


def test_a_task_goes_through_a_file_into_another_process(tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    task = Job({**build(NANO, {}).flat()}, "train", warmup=1, steps=2)
    path.write_text(as_json(task))
    benchmark.main([str(path)])
    assert json.loads(path.read_text())["model"] == "nano"
    path.write_text(as_json(Job({**NANO, "lr": 1e30}, "train", warmup=1, steps=2)))
    with pytest.raises(SystemExit):
        benchmark.main([str(path)])
    assert "NaN or infinite" in json.loads(path.read_text())["error"]
    assert (
        first_line(RuntimeError("\n  Out of memory \n---- C++ Call Stack")) == "RuntimeError: Out of memory"
        and first_line(KeyError()) == "KeyError"
    )


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["crosvit_9"], "unknown model 'crosvit_9'; did you mean crossvit_9"),
        (["--steps", "0"], "--steps is 0, but must be at least 1"),
        (["--mode", "fast"], "argument --mode: invalid choice: 'fast'"),
        (["--batchsize", "3"], "unknown argument '--batchsize'; did you mean --batch_size"),
        (["crossvit_9", "--warmup", "x"], "argument --warmup: invalid int value: 'x'"),
        (["--mode", "data", "--data_dir", "/no/where"], "/no/where does not exist"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        tool.main([*arguments, "--out", str(tmp_path)])
    assert says in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_under_a_launcher_one_network_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("mindvit.runtime.device.launched_ranks", lambda: (1, 2))
    with pytest.raises(
        UserError, match="2 networks .* under a launcher: its ranks meet only once, so give one at a time"
    ):
        tool.main(["crossvit_9*"])
    with pytest.raises(UserError, match="leave it out under a launcher"):
        tool.main(["crossvit_9", "--compile_cache", str(tmp_path)])
    monkeypatch.setattr(benchmark, "measure", lambda task: {"model": task.values["model"]})
    tool.main(["crossvit_9", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()  # rank 1 prints and keeps nothing


def test_without_out_the_table_is_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tool, "child", lambda task: {**dict.fromkeys(COLUMNS), "model": task.values["model"]})
    tool.main(["crossvit_9"])
    assert "| crossvit_9 |" in capsys.readouterr().out and list(tmp_path.iterdir()) == []


def test_models_may_come_before_and_after_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tasks: list[Job] = []

    def child(task: Job) -> dict[str, Any]:
        tasks.append(task)
        return {**dict.fromkeys(COLUMNS)}

    monkeypatch.setattr(tool, "child", child)
    tool.main(["crossvit_9", "cvt_13*4", "--mode", "forward", "--out", str(tmp_path)])
    tool.main(["--batch_size", "3", "--out", str(tmp_path), "crossvit_15"])
    tool.main(["--out", str(tmp_path)])
    assert [task.values["model"] for task in tasks] == [
        "crossvit_9",
        "cvt_13_224",
        "cvt_13_384",
        "crossvit_15",
        "crossvit_9",
    ]
    assert [(task.mode, task.values["batch_size"]) for task in tasks[2:]] == [
        ("forward", 8),
        ("train", 3),
        ("train", 8),
    ]
    assert tasks[0].values["mode"] == 0  # the recipe's key of that name: graph mode


def test_python_runs_the_tool() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "mindvit.cli.benchmark", "--steps", "-1"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 2 and run.stderr == "error: command line: --steps is -1, but must be at least 1\n"
