"""Benchmarks of the data pipeline: the arithmetic with a clock of our own, and a few images. No time is asserted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest
from clock import Clock
from image_files import make_data_dir

from mindvit.benchmark import data as databench
from mindvit.benchmark import network as benchmark
from mindvit.cli import benchmark as tool
from mindvit.data.workers import Processes
from mindvit.recipe.commandline import parse


@pytest.fixture(name="nano", autouse=True)
def _nano(monkeypatch: pytest.MonkeyPatch, small_networks: None) -> None:
    monkeypatch.setattr(benchmark, "PEAK_SIDE", 512)


def test_data_rates_with_a_clock_of_our_own() -> None:
    clock, cpu = Clock(), Clock()

    def batches() -> Iterator[tuple[np.ndarray, ...]]:
        for number in range(5):
            clock.now, cpu.now = clock.now + (50 if number < 2 else 2), cpu.now + (50 if number < 2 else 3)
            yield (np.zeros(4), np.zeros(4))

    assert databench.timed(batches(), 2, 3, clock, cpu) == (4 * 3 / 6, 1000 * 9 / 12)


def test_data_mode_measures_both_pipelines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_data_dir(tmp_path / "data", classes=2, train=4, val=2)
    tool.main(
        [
            "--mode",
            "data",
            "--model",
            "nano",
            "--data_dir",
            str(tmp_path / "data"),
            "--auto_augment",
            "rand-m9",
            "--num_parallel_workers",
            "2",
            "--python_multiprocessing",
            "auto",
            "--warmup",
            "1",
            "--steps",
            "2",
            "--out",
            str(tmp_path / "out"),
        ]
    )
    rows = json.loads((tmp_path / "out" / "benchmark_data.json").read_text())
    assert [(row["pipeline"], row["made by"], row["workers"], row["resolution"]) for row in rows] == [
        ("train", "threads", 2, "16x16"),
        ("eval", "threads", 2, "16x16"),
        ("train", "processes", 2, "16x16"),
        ("eval", "processes", 2, "16x16"),
    ]
    assert all(0 <= row["of the main process"] <= row["CPU-ms an image"] for row in rows)
    assert (
        rows[0]["augmentation"] == "crop 0.08-1 + flip 0.5 + rand-m9"
        and rows[1]["augmentation"] == "none"
        and rows[0]["kB"] > 0.5
    )
    assert (
        all(row["img/s"] > 0 and row["CPU-ms an image"] >= 0 for row in rows)
        and "| pipeline" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "options, chosen",
    [
        ([], [(1, False), (2, False), (4, False), (1, True), (2, True), (4, True)]),
        (["--python_multiprocessing", "True"], [(1, True), (2, True), (4, True)]),
        (["--python_multiprocessing", "False", "--num_parallel_workers", "3"], [(3, False)]),
    ],
)
def test_data_mode_takes_the_workers_that_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, options: list[str], chosen: list[tuple[int, bool]]
) -> None:
    monkeypatch.setattr(databench, "default_workers", lambda ranks: 4)
    found = databench.choices(parse(options, "")[0])
    assert [(workers, isinstance(workers, Processes)) for workers in found] == chosen


def test_made_up_images_are_as_big_as_imagenets_and_the_same_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databench.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = databench.made_up_folder(2)
    files = sorted((folder / "train" / "made_up").iterdir())
    assert (
        len(files) == 2
        and all(95_000 < file.stat().st_size < 120_000 for file in files)
        and files[0].read_bytes() != files[1].read_bytes()
    )
    assert np.array_equal(np.asarray(databench.made_up(1)), np.asarray(databench.made_up(1))) and databench.made_up(
        0
    ).size == (500, 375)
    before = files[0].stat().st_mtime_ns
    assert databench.made_up_folder(2) == folder and files[0].stat().st_mtime_ns == before
    assert sorted(entry.name for entry in folder.parent.iterdir()) == ["2"]
