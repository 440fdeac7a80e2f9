"""Worker processes: the same batches and errors as threads give, and nothing left of them."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import make_folder
from pipelines import eval_pipeline, train_pipeline
from probes import Broken, Probe, Stubborn

from mindvit.data import loader, worker, workers
from mindvit.data.arrays import ArraySpec
from mindvit.data.datasets.digits import DigitsDataset
from mindvit.data.datasets.folder import FolderDataset
from mindvit.data.datasets.names import Names
from mindvit.data.samplers import Shard
from mindvit.data.shared_memory import Unavailable
from mindvit.data.transforms.image import EvalTransform
from mindvit.data.workers import SLOTS, FromWorker, Processes
from mindvit.errors import UserError
from mindvit.recipe.options import AugmentOptions, DataOptions

TWO_PIXELS = (ArraySpec("images", (2, 2, 2, 3), "uint8"), ArraySpec("labels", (2,), "int32", -1))
AUGMENT = AugmentOptions(auto_augment="randaug-m9-mstd0.5-inc1", vflip=0.5)


@pytest.fixture(name="source")
def _source(tmp_path: Path) -> FolderDataset:
    """21 images of three classes."""
    return FolderDataset(make_folder(tmp_path / "images", classes=3, per_class=7))


@pytest.fixture(name="pool", scope="module")
def _pool() -> Iterator[Processes]:
    """Two processes for all tests: what one leaves behind must not harm the next."""
    pool = Processes(2)
    yield pool
    pool.close()


def batches(
    source: Any, who: int, batch_size: int = 2, shard: Shard = loader.WHOLE, first: int = 0, **data: Any
) -> Any:
    """Training's of epoch 1."""
    options = DataOptions(batch_size=batch_size, **data)
    return train_pipeline(source, options, AUGMENT, shard=shard, epoch=1, seed=3, workers=who, first=first)


def probed(source: Any, who: int, transform: Any, **data: Any) -> Any:
    """Training's, two images each, with another transform."""
    options = DataOptions(batch_size=2, shuffle=False, **data)
    return loader.train_batches(source, transform, TWO_PIXELS, options, epoch=0, seed=0, workers=who)


def pids(pool: Processes) -> list[int]:
    """Of a pool's workers."""
    assert pool.pool is not None
    return [item.process.pid for item in pool.pool.workers]


def labels(made: Any) -> list[int]:
    return [int(label) for batch in made for label in batch.labels]


def same(one: Any, other: Any) -> bool:
    """Whether two rows of batches are equal, to the bit."""
    one, other = list(one), list(other)
    return len(one) == len(other) > 0 and all(
        left._fields == right._fields
        and all(a.dtype == b.dtype and a.shape == b.shape and (a == b).all() for a, b in zip(left, right))
        for left, right in zip(one, other)
    )


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"batch_size": 1},
        {"batch_size": 21},
        {"first": 4},
        {"shard": Shard(2, 1), "aug_repeats": 3},
        {"shuffle": False},
    ],
)
def test_training_batches_are_those_of_threads(source: FolderDataset, pool: Processes, data: dict[str, Any]) -> None:
    assert same(batches(source, pool, **data), batches(source, 1, **data))


@pytest.mark.parametrize("count", [1, 3])
def test_any_number_of_processes_makes_the_same_batches(source: FolderDataset, count: int) -> None:
    pool = Processes(count)
    assert same(batches(source, pool), batches(source, 2))
    pool.close()


@pytest.mark.parametrize("ranks, rank", [(1, 0), (3, 2)])
def test_evaluation_batches_are_those_of_threads(source: FolderDataset, pool: Processes, ranks: int, rank: int) -> None:
    transform = EvalTransform(24, 0.875, "bicubic")
    one, other = (eval_pipeline(source, 4, transform, Shard(ranks, rank), who) for who in (pool, 1))
    assert same(one, other)


def test_rows_without_an_image_are_filled(source: FolderDataset, pool: Processes) -> None:
    made = list(eval_pipeline(source, 4, EvalTransform(24, 0.875, "bicubic"), Shard(), pool))
    assert made[-1].labels.tolist() == [2, -1, -1, -1]


def test_a_kept_batch_stays_as_it_is(source: FolderDataset, pool: Processes) -> None:
    made, kept = batches(source, pool), []
    for batch in made:
        kept.append((batch, batch.images.copy()))
    assert len(kept) > SLOTS and all((batch.images == copy).all() for batch, copy in kept)


def test_a_batch_in_use_is_not_copied(source: FolderDataset, pool: Processes) -> None:
    owners = [batch.images.base is not None for batch in batches(source, pool)]
    assert len(owners) == 10 and all(owners)


def test_workers_stay_for_the_next_epoch_and_for_validation(source: FolderDataset, pool: Processes) -> None:
    seen = [set(labels(probed(source, pool, Probe("process")))) for _ in range(3)]
    transform = Probe("process")
    seen.append(set(labels(loader.eval_batches(source, transform, TWO_PIXELS, workers=pool))) - {-1})
    assert set().union(*seen) == set(pids(pool)) != {os.getpid()}


def test_leaving_early_harms_no_later_batch(source: FolderDataset, pool: Processes) -> None:
    made = batches(source, pool)
    next(made)
    made.close()
    assert same(batches(source, pool), batches(source, 1))


def test_pipelines_share_workers(source: FolderDataset, pool: Processes) -> None:
    one, other = batches(source, pool), batches(source, pool, first=2)
    mixed = list(zip(one, other))
    assert same([pair[0] for pair in mixed][2:], [pair[1] for pair in mixed][:-2])


def test_nothing_in_a_worker_imports_mindspore(source: FolderDataset, pool: Processes) -> None:
    assert "mindspore" in sys.modules
    assert set(labels(probed(source, pool, Probe("mindspore")))) == {0}


def test_numpy_of_a_worker_has_one_thread(source: FolderDataset, pool: Processes) -> None:
    assert set(labels(probed(source, pool, Probe("threads")))) == {1}


def test_workers_take_images_as_large_as_the_recipe_says(source: FolderDataset) -> None:
    source.max_pixels = 2**30
    pool = Processes(1)
    assert set(labels(probed(source, pool, Probe("max_pixels")))) == {2**30}
    pool.close()


def test_a_bad_image_is_skipped_named_once_and_counted(
    source: FolderDataset, pool: Processes, capfd: pytest.CaptureFixture[str]
) -> None:
    os.truncate(source.name(4), 300)
    one, other = (labels(probed(source, pool, Probe("label"))) for _ in range(2))
    error = capfd.readouterr().err
    assert list(source.bad) == [source.name(4)] and "runcated" in source.bad[source.name(4)]
    assert error.count("\n") == 1
    assert error.startswith(f"warning: image {source.name(4)} can't be decoded (")
    assert one == other == labels(probed(source, 1, Probe("label")))


def test_a_bad_image_stops_where_asked_at_its_turn(source: FolderDataset, pool: Processes) -> None:
    os.truncate(source.name(13), 300)
    told = []
    for who in (pool, 1):
        made, done = probed(source, who, Probe("label"), bad_image="stop"), 0
        with pytest.raises(UserError) as caught:
            for _ in made:
                done += 1
        told.append((str(caught.value), done, caught.value.__suppress_context__, caught.value.__cause__))
    assert told[0] == told[1]
    assert told[0][1:] == (6, True, None)
    assert told[0][0].endswith("; repair or remove it, or set bad_image: skip")


def test_too_many_bad_images_in_a_row(source: FolderDataset, pool: Processes) -> None:
    for index in range(21):
        os.truncate(source.name(index), 300)
    with pytest.raises(UserError, match=r"^21 training images in a row can't be decoded, the last one being "):
        next(probed(source, pool, Probe("label")))


def test_a_bad_validation_image_stops(source: FolderDataset, pool: Processes) -> None:
    os.truncate(source.name(20), 300)
    with pytest.raises(UserError, match="repair or remove it: evaluation counts every image$"):
        list(loader.eval_batches(source, Probe("label"), TWO_PIXELS, workers=pool))


def test_another_error_comes_with_the_worker_s_traceback(source: FolderDataset, pool: Processes) -> None:
    with pytest.raises(ZeroDivisionError, match="^by zero$") as caught:
        list(probed(source, pool, Broken(1, ZeroDivisionError("by zero"))))
    assert isinstance(caught.value.__cause__, FromWorker) and "probes.py" in str(caught.value.__cause__)


def test_an_error_that_can_t_be_sent_is_told(source: FolderDataset, pool: Processes) -> None:
    error = worker.portable(Stubborn("one", "the other"))[0]
    assert isinstance(error, RuntimeError) and str(error) == "Stubborn: one and the other"


def test_a_worker_that_is_killed_is_an_error_and_the_next_pass_has_new_ones(source: FolderDataset) -> None:
    pool = Processes(2)
    made = batches(source, pool)
    next(made)
    os.kill(pids(pool)[0], signal.SIGKILL)
    with pytest.raises(Unavailable, match=r"was ended by SIGKILL \(memory may have run out\); fewer num_parallel_"):
        list(made)
    assert same(batches(source, pool), batches(source, 1))
    pool.close()


def test_signals_for_the_whole_group_end_no_worker(source: FolderDataset, pool: Processes) -> None:
    made = batches(source, pool)
    first = [next(made)]
    for number in (signal.SIGINT, signal.SIGTERM):
        for process in pids(pool):
            os.kill(process, number)
    assert same(first + list(made), batches(source, 1))


def test_what_can_t_be_sent_is_an_error_or_made_by_threads(
    source: FolderDataset, capfd: pytest.CaptureFixture[str]
) -> None:
    def local(sample: Any, rng: Any) -> Any:
        return Probe("label")(sample, rng)

    pool = Processes(2)
    with pytest.raises(Unavailable, match=r"can't be sent what makes the batches: .*local.*python_multiprocessing: Fa"):
        next(probed(source, pool, local))
    assert pool.pool is None
    kept = Processes(2, required=False)
    expected = labels(probed(source, 1, Probe("label")))
    assert labels(probed(source, kept, local)) == labels(probed(source, kept, local)) == expected
    assert capfd.readouterr().err.count("note: threads make the batches: ") == 1
    assert kept.pool is None


def test_what_a_worker_can_t_import_is_an_error(source: FolderDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("main_script")
    module.Own = type("Own", (Probe,), {"__module__": "main_script"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "main_script", module)
    with pytest.raises(Unavailable, match="No module named 'main_script' .they import modules, not the main script"):
        next(probed(source, Processes(1), module.Own("label")))  # type: ignore[attr-defined]


PROGRAM = """
import os, signal, sys, threading
from pathlib import Path
from probes import Probe
from mindvit.data.arrays import ArraySpec
from mindvit.data.datasets.digits import DigitsDataset
from mindvit.data.loader import train_batches
from mindvit.data.workers import Processes
from mindvit.recipe.options import DataOptions

spec = (ArraySpec("images", (8, 2, 2, 3), "uint8"), ArraySpec("labels", (8,), "int32"))
pool = Processes(2)
made = train_batches(
    DigitsDataset("train"), Probe("label"), spec, DataOptions(batch_size=8), epoch=0, seed=0, workers=pool
)
next(made)
print(*(worker.process.pid for worker in pool.pool.workers), flush=True)
how = sys.argv[1]
if how == "exception":
    raise RuntimeError
if how.startswith("SIG"):
    os.kill(os.getpid(), getattr(signal, how))
    signal.pause()
"""


def is_running(process: int) -> bool:
    """Whether it is there and no zombie, which nobody in a container may wait for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("how", ["end", "exception", "SIGINT", "SIGTERM", "SIGKILL"])
def test_no_process_and_no_memory_outlives_the_program(how: str) -> None:
    there = set(os.listdir("/dev/shm"))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    started = [int(word) for word in done.stdout.split()]
    assert len(started) == 2, done.stderr
    assert done.stderr.count("Traceback") == (how in ("exception", "SIGINT"))
    end = time.monotonic() + 20
    while any(map(is_running, started)):
        assert time.monotonic() < end, "a worker goes on"
        time.sleep(0.02)
    assert not [name for name in set(os.listdir("/dev/shm")) - there if "mindvit" in name]


def test_a_worker_whose_parent_is_gone_ends_though_a_copy_keeps_its_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "LOOK", 0.01)
    ours, its = workers.connection.Pipe()
    thread = threading.Thread(target=worker.serve, args=(its, os.getppid() + 1), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    ours.close()


def test_without_memfd_an_unnamed_file_will_do(source: FolderDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    pool = Processes(1)
    assert same(batches(source, pool), batches(source, 1))
    pool.close()


def test_too_little_shared_memory_is_told(source: FolderDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(Unavailable, match=r"^0 MiB of shared memory can't be had \(No space left on device\); python_"):
        next(batches(source, Processes(1)))


def test_names_come_back_as_they_were() -> None:
    texts = ["a/b.jpg", "", "ä ö.png", b"\xff\xfe.png".decode("utf-8", "surrogateescape")]
    names = pickle.loads(pickle.dumps(Names(texts), 5))
    assert list(names) == texts and names[1:3] == texts[1:3] and names[-1] == texts[-1]
    with pytest.raises(IndexError):
        _ = names[4]


def test_a_copy_of_a_data_set_reads_the_same(source: FolderDataset) -> None:
    for dataset in (source, DigitsDataset("val")):
        copy = pickle.loads(pickle.dumps(dataset, 5))
        assert [copy.name(number) for number in range(21)] == [dataset.name(number) for number in range(21)]
        assert np.asarray(copy[5].image).tobytes() == np.asarray(dataset[5].image).tobytes()
        assert copy.fingerprint() == dataset.fingerprint()


def test_the_processor_time_of_workers_is_counted(source: FolderDataset, pool: Processes) -> None:
    list(batches(source, pool))
    assert pool.cpu_seconds() > 0
