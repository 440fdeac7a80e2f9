"""The comparison with peers: its ratios, its names, and sides that answer, sleep and fail."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Sequence

import pytest
from image_files import make_folder

ROOT = Path(__file__).parents[2]

import compare  # noqa: E402
import compare_data  # noqa: E402
import conditions  # noqa: E402
import lock_held  # noqa: E402
import side  # noqa: E402
import side_data  # noqa: E402
from compare import ONNX, Figures, Side, SideFailed, command, in_turn, ratio, rows, started, torch_name  # noqa: E402

from mindvit.errors import UserError  # noqa: E402
from mindvit.models import model_info  # noqa: E402

ANSWERING = """
import sys; sys.path.insert(0, {folder!r})
from side import answers_only, serve
answers = answers_only()
print("a library's chatter")
def make(mode):
    if mode == "forward": raise SystemExit("no forward here")
    return lambda: None
serve(answers, {{"what": "test"}}, make)
"""


def figures(*rounds: Sequence[float], **more: Any) -> Figures:
    return Figures(rounds=[list(part) for part in rounds], **more)


@pytest.fixture(name="answering")
def _answering() -> list[str]:
    return [sys.executable, "-c", ANSWERING.format(folder=str(ROOT / "benchmarks"))]


def test_ratios_are_of_medians_over_all_rounds() -> None:
    ours, theirs = figures((0.1, 0.2), (0.3, 9.0)), figures((0.5, 0.5), (0.5, 0.1))
    assert ours.ms == pytest.approx(250) and ratio(ours, theirs) == pytest.approx(2.0)
    assert (
        ratio(ours, None) is None
        and ratio(ours, figures((1.0,), error="gone")) is None
        and ratio(figures(), theirs) is None
    )


def test_the_table_holds_rates_ratios_and_flops() -> None:
    found = {
        "mindvit": figures((0.1,), compile=2.04, peak=1.26),
        "torch eager": figures((0.15,)),
        "mindcv": figures((0.5,), compile=30.0),
    }
    row = rows("crossvit_9", "train", found, 8, 2_000_000_000)
    assert list(row) == [
        "model",
        "mode",
        "multiply-adds (G)",
        "mindvit img/s",
        "GFLOP/s",
        "compile, s",
        "mindcv img/s",
        "torch eager img/s",
        "torch.compile img/s",
        "x mindcv",
        "x torch eager",
        "x torch.compile",
        "mindcv compile, s",
        "mindvit GiB",
        "torch eager GiB",
    ]
    assert list(row.values()) == [
        "crossvit_9",
        "train",
        2.0,
        80.0,
        960,
        2.0,
        16.0,
        53.3,
        None,
        "5.00x",
        "1.50x",
        None,
        30.0,
        1.3,
        None,
    ]
    assert rows("crossvit_9", "forward", found, 8, 2_000_000_000)["GFLOP/s"] == 320
    single = rows("crossvit_9", "forward", {**found, ONNX: figures((0.0925,))}, 1, 2_000_000_000, (ONNX,))
    assert (single["mindvit ms"], single["onnxruntime ms"], single["x onnxruntime"]) == (100, 92.5, "0.93x")
    assert "mindcv ms" not in single


def test_a_side_is_left_out_where_it_has_no_such_network() -> None:
    def has(who: str, model: str) -> bool:
        return command(who, model, 8, 224, "python") is not None

    assert (
        has("mindcv", "crossvit_9")
        and not has("mindcv", "cvt_13_224")
        and has("torch eager", "cvt_13_224")
        and not has("torch eager", "cvt_13_384")
        and has("torch eager", "crossformer_tiny")
    )
    assert has("torch eager", "upernet_crossformer_small") and not has("torch eager", "upernet")
    assert command("torch.compile", "crossvit_9", 8, 240, None) is None
    script = str(ROOT / "benchmarks" / "side_torch.py")
    assert command("torch.compile", "crossvit_9", 8, 240, "PYTHON") == [
        "PYTHON",
        script,
        "crossvit_9_240",
        "8",
        "240",
        "compile",
        "float32",
    ]
    assert (command("torch eager", "crossvit_9", 8, 240, "PYTHON", "bfloat16") or [])[-2:] == ["eager", "bfloat16"]
    ours = [command(side, "crossvit_9", 8, 240, None, "bfloat16") or [] for side in ("mindvit", "mindvit float32")]
    assert [command[-1] for command in ours] == ["bfloat16", "float32"]


def test_names_in_timm_and_transformers() -> None:
    assert [
        torch_name(name)
        for name in (
            "crossvit_15_dagger_384",
            "crossvit_tiny",
            "xcit_tiny_12_p16_384_distill",
            "cvt_21_224",
            "cvt_13_384",
        )
    ] == ["crossvit_15_dagger_408", "crossvit_tiny_240", "xcit_tiny_12_p16_384", "cvt_21", None]
    assert all(model_info(name) for name in compare.IN_MINDCV)


def sleeps(one: Side) -> bool:
    """Whether the system has stopped it, within ten seconds."""
    stat, deadline = Path(f"/proc/{one.process.pid}/stat"), time.monotonic() + 10
    while stat.read_text().rsplit(")", 1)[1].split()[0] != "T" and time.monotonic() < deadline:
        time.sleep(0.01)
    return stat.read_text().rsplit(")", 1)[1].split()[0] == "T"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="a process's state is read from Linux's /proc")
def test_a_side_answers_and_sleeps_in_between(answering: list[str]) -> None:
    one = Side(answering, os.environ)
    try:
        assert one.about == {"what": "test"} and sleeps(one)
        assert (
            list(one.ask(mode="train", steps=0)) == ["compile"]
            and (answer := one.ask(mode="train", steps=3))
            and len(answer["seconds"]) == 3
            and answer["peak"] > 0
        )
        assert sleeps(one)
        with pytest.raises(SideFailed, match="ended with 1: no forward here"):
            one.ask(mode="forward", steps=1)
    finally:
        one.close()


def test_sides_take_turns_and_one_that_fails_is_left_out(answering: list[str]) -> None:
    commands = {
        "mindvit": answering,
        "mindcv": [sys.executable, "-c", "raise SystemExit('no mindcv')"],
        "torch eager": ["/no/such/python"],
    }
    found = {name: Figures() for name in commands}
    with started(commands, os.environ, found) as sides:
        assert list(sides) == ["mindvit"] and found["mindvit"].what == "test"
        in_turn(sides, "train", found, rounds=3, steps=2)
        in_turn(sides, "forward", {**found, "mindvit": (failing := Figures())}, rounds=3, steps=2)
    assert [len(part) for part in found["mindvit"].rounds] == [2, 2, 2] and found["mindvit"].error is None
    assert (
        found["mindcv"].error == "ended with 1: no mindcv"
        and "No such file" in str(found["torch eager"].error)
        and "no forward here" in str(failing.error)
    )


def test_the_first_step_of_a_turn_is_not_counted() -> None:
    times = iter([0.0, 5.0, 5.0, 6.0, 6.0, 8.0])
    assert side.seconds_of(lambda: None, 2, lambda: next(times)) == [1.0, 2.0]


def test_a_request_compiles_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    answers = io.StringIO()

    def make(mode: str) -> side.Step:
        made.append(mode)
        return lambda: None

    monkeypatch.setattr(sys, "stdin", io.StringIO('{"mode": "train", "steps": 0}\n{"mode": "train", "steps": 1}\n'))
    side.serve(answers, {"what": "x"}, make)
    lines = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert made == ["train"] and [list(line) for line in lines] == [["what"], ["compile"], ["seconds", "peak"]]


def test_instruction_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {key: compare.isa_environment("avx2")[key] for key in compare.AVX2} == {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
    }
    monkeypatch.setattr("mindvit.runtime.device.machine", lambda: "a laptop, 2 cores")
    with pytest.raises(UserError, match=r"--isa avx512, but this machine has none \(a laptop, 2 cores\)"):
        compare.isa_environment("avx512")


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--rounds", "0"], "--rounds is 0, but must be at least 1"),
        (["--torch_python", "/no/python"], "/no/python is no program"),
        (["--peers", "jax"], "invalid choice: 'jax'"),
        (["--models", "crosvit"], "unknown model 'crosvit'"),
        (["--data", "--folder", "/no"], "/no has no train/"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        compare.main([*arguments, "--out", str(tmp_path)])
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_the_whole_comparison_is_kept(
    answering: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        compare,
        "command",
        lambda who, *_: answering if who != "torch.compile" else [sys.executable, "-c", "raise SystemExit('too old')"],
    )
    asked = ["--models", "crossvit_9", "--modes", "train", "--rounds", "2", "--steps", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(conditions, "measure", lambda: conditions.Conditions(1.2, 180.4, 9.6))
    with pytest.raises(UserError, match="other programs keep 1.2 cores busy, .* at most 1 is, or --any_load"):
        compare.main(asked)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="some sides failed: crossvit_9 train torch.compile: ended with 1: too old"):
        compare.main([*asked, "--any_load"])
    text, kept = (
        (tmp_path / "compare_native.md").read_text(),
        json.loads((tmp_path / "compare_native.json").read_text()),
    )
    assert text in capsys.readouterr().out and "Batch 8, float32, 2 rounds of 1 steps in turn" in text
    assert kept["rows"][0]["machine"] == "180 / 10 / 1.2"
    assert len(kept["rows"][0]["sides"]["mindvit"]["rounds"]) == 2 and kept["rows"][0]["x torch.compile"] is None


def test_what_others_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 400 ticks of all cores 100 were idle and 60 waiting for a disk: 60 % of the cores were busy."""
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 5 10 900 40 0 0 5 0 0\n")
    monkeypatch.setattr(conditions, "STAT", stat)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    later = "cpu  250 15 50 1000 100 10 10 25 0 0\n"
    assert conditions.busy_cores(2.0, lambda seconds: stat.write_text(later)) == pytest.approx(2.4)  # type: ignore


def test_data_ratios() -> None:
    found = {
        "mindvit": [{"img/s": rate, "CPU-ms": 3.0} for rate in (100, 300, 200)],
        "mindcv": [{"img/s": 160.0, "CPU-ms": 4.0}],
    }
    assert compare_data.row("train", 2, found) == {
        "pipeline": "train",
        "workers": 2,
        "mindvit img/s": "200",
        "mindcv img/s": "160",
        "mindvit CPU-ms": "3.00",
        "mindcv CPU-ms": "4.00",
        "x mindcv": "1.25x",
    }


def test_a_pipeline_has_as_many_cores_as_workers() -> None:
    before = os.sched_getaffinity(0)
    told = [sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"]
    with compare_data.held_to(1):
        assert subprocess.check_output(told) == b"1\n"
    assert os.sched_getaffinity(0) == before


def asked(arguments: Sequence[str], *modes: str) -> tuple[dict[str, Any], dict[str, Figures]]:
    """What a side says of itself, and its figures for each mode after one round of two steps; small_side.py knows
    small networks.
    """
    python, *script = arguments
    found = {mode: Figures() for mode in modes}
    one = Side([python, str(ROOT / "tests" / "helpers" / "small_side.py"), *script], os.environ)
    try:
        for mode in modes:
            in_turn({"it": one}, mode, {"it": found[mode]}, rounds=1, steps=2)
    finally:
        one.close()
    return one.about, found


def test_mindvits_side_gives_a_row(small_networks: None) -> None:
    about, found = asked(command("mindvit", "nano", 2, 16, None) or (), "train", "forward")
    assert (about["name"], about["size"]) == ("nano", 16) and about["what"].startswith("mindvit ")
    for mode, item in found.items():
        assert item.error is None and item.compile > 0 and [len(part) for part in item.rounds] == [2]
        row = rows("nano", mode, {"mindvit": item}, 2, model_info("nano").macs)
        assert row["mindvit img/s"] > 0 and row["GFLOP/s"] is not None


def test_mindcvs_side_gives_figures() -> None:
    about, found = asked(
        [sys.executable, str(ROOT / "benchmarks" / "side_mindcv.py"), "tiny", "2", "32"], "train", "forward"
    )
    assert about["name"] == "tiny" and about["size"] == 32 and about["what"].startswith("mindcv ")
    assert all(item.error is None and item.ms and item.compile > 0 for item in found.values())


def test_both_data_pipelines_give_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "train", classes=2, per_class=16)
    for name, value in (("SPLITS", ("train",)), ("WORKERS", (1,)), ("BATCHES", 1)):
        monkeypatch.setattr(compare_data, name, value)
    compare.main(["--data", "--folder", str(tmp_path), "--rounds", "1", "--out", str(tmp_path / "out")])
    kept = json.loads((tmp_path / "out" / "compare_data.json").read_text())
    assert [(row["pipeline"], row["workers"]) for row in kept["rows"]] == [("train", 1)] and kept["told"].startswith(
        str(tmp_path)
    )
    assert all(
        part["img/s"] > 0 and part["CPU-ms"] > 0
        for who in compare_data.SIDES
        for part in kept["rows"][0]["rounds"][who]
    )


def test_the_lock_is_measured_where_the_training_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "train", classes=2, per_class=16)
    for name, value in (("PIPELINES", ("train",)), ("WORKERS", (1,)), ("BATCHES", 4)):
        monkeypatch.setattr(lock_held, name, value)
    lock_held.main(["--folder", str(tmp_path), "--rounds", "1", "--out", str(tmp_path / "out")])
    threads, processes = json.loads((tmp_path / "out" / "lock_held.json").read_text())["rows"]
    assert (threads["made by"], processes["made by"]) == ("threads", "processes")
    assert 0 < float(threads["lock-ms"]) < float(threads["main CPU-ms"]) == float(threads["CPU-ms"])
    assert 0 < float(processes["lock-ms"]) <= float(processes["main CPU-ms"]) < float(processes["CPU-ms"])


@pytest.mark.parametrize("who", compare_data.SIDES)
def test_evaluation_pipelines_give_figures(who: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "train", classes=2, per_class=16)
    monkeypatch.setattr(side_data, "WARMUP", 1)
    found = side_data.measured(who, "eval", tmp_path, 1, 1)
    assert found["img/s"] > 0 and found["CPU-ms"] > 0
