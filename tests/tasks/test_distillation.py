"""Distillation: the published loss, a teacher inside the compiled step, and runs that learn from one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
import train_small
from golden import FOLDER
from image_files import make_data_dir
from mindspore import Tensor, nn, ops
from steps import MEAN, STD, objective, train_step

import mindvit
from mindvit import models
from mindvit.engine.step import TrainStep
from mindvit.engine.trainer import Trainer
from mindvit.errors import UserError
from mindvit.layers.augment import AugmentImages
from mindvit.layers.drop_path import DropPathScale, number_drop_paths
from mindvit.recipe.commandline import parse
from mindvit.runtime.device import Device
from mindvit.tasks.base import RunContext
from mindvit.tasks.classification.distill import build_teacher, check_teacher, freeze
from mindvit.tasks.classification.losses import Distillation, SoftTargetCrossEntropy
from mindvit.tasks.classification.objective import ObjectiveOptions
from mindvit.weights import load_weights, read_weights

FOREIGN = "mindcv/squeezenet1_0"
OWN, SMALLER = "xcit_nano_12_p16_224", {"depth": 1, "embed_dim": 32, "patch_size": 8}


class Both(nn.Cell):
    """The published sum: soft targets of the images and of the teacher."""

    def __init__(self, kind: str, tau: float):
        super().__init__()
        self.base, self.distillation = SoftTargetCrossEntropy(0.1, mix=True), Distillation(kind, 0.5, tau)

    def construct(self, student: Tensor, teacher: Tensor, labels: Tensor, lam: Tensor) -> Tensor:
        return self.distillation(self.base(student, labels, lam), student, teacher)


@pytest.mark.parametrize(
    "key, kind, tau",
    [("distill_hard", "hard", 1.0), ("distill_soft_tau1", "soft", 1.0), ("distill_soft_tau3", "soft", 3.0)],
)
def test_loss_and_gradient_are_the_releases(key: str, kind: str, tau: float) -> None:
    given, golden = np.load(FOLDER / "losses.npz"), np.load(FOLDER / "distillation.npz")
    function = ops.value_and_grad(Both(kind, tau), 0)
    loss, gradient = function(
        Tensor(given["logits"]),
        Tensor(golden["teacher"]),
        Tensor(given["labels"].astype(np.int32)),
        Tensor(0.3, ms.float32),
    )
    assert abs(float(loss.asnumpy()) / float(golden[key]) - 1) < 1e-5
    assert np.abs(gradient.asnumpy() - golden[f"{key}/grad"]).max() < 1e-5 * np.abs(golden[f"{key}/grad"]).max()


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def by_hand(
    options: ObjectiveOptions, student: np.ndarray, teacher: np.ndarray, labels: np.ndarray, lam: float
) -> float:
    """The loss without smoothing, in float64."""
    one_hot = np.eye(student.shape[1])[labels]
    base = -((lam * one_hot + (1 - lam) * one_hot[::-1]) * log_softmax(student)).sum(1).mean()
    if options.distill_type == "hard":
        term = -log_softmax(student)[np.arange(len(labels)), teacher.argmax(1)].mean()
    else:
        p, q = log_softmax(teacher / options.distill_tau), log_softmax(student / options.distill_tau)
        term = (np.exp(p) * (p - q)).mean() * options.distill_tau**2
    return (1 - options.distill_alpha) * base + options.distill_alpha * term


def tiny(seed: int, name: str = OWN, **arguments: Any) -> nn.Cell:
    """A small network with weights large enough for its logits to differ from image to image."""
    ms.set_seed(seed)
    net = mindvit.create_model(name, num_classes=7, **arguments, **(SMALLER if name == OWN else {}))
    random = np.random.default_rng(seed)
    for item in net.trainable_params():
        if item.ndim > 1:
            item.set_data(
                Tensor(
                    random.standard_normal(item.shape).astype(np.float32)
                    * np.float32(np.sqrt(2 / np.prod(item.shape[1:])))
                )
            )
    return net


def values(net: nn.Cell) -> list[np.ndarray]:
    return [item.asnumpy().copy() for item in net.get_parameters()]


def step_inputs(paths: int) -> list[np.ndarray]:
    """Four images, mixed and erased; two of them lose every other path."""
    random = np.random.default_rng(0)
    chances = np.ones((max(paths, 1), 4), np.float32)
    chances[::2, ::2] = 0
    boxes = np.array([[1, 9, 2, 12], [0, 0, 0, 0], [3, 20, 3, 20], [0, 0, 0, 0]], np.int32)
    return [
        random.integers(0, 256, (4, 24, 24, 3), dtype=np.uint8),
        np.array([0, 3, 6, 3], np.int32),
        np.array(0.3, np.float32),
        np.full((24, 24, 1), 0.3, np.float32),
        boxes,
        random.standard_normal((24, 24, 3), np.float32),
        chances,
    ]


def check_step(student: nn.Cell, teacher: nn.Cell, kind: str) -> TrainStep:
    """Three compiled steps: the first loss, what moves and what doesn't."""
    options = ObjectiveOptions(MEAN, STD, erase=True, mix=True, distill_type=kind, distill_alpha=0.3, distill_tau=2.0)
    student.set_train(True)
    step = train_step(student, teacher=freeze(teacher.set_train(True)), weight_decay=0.5, **dataclasses.asdict(options))
    names = [item.name for item in step.get_parameters()]
    assert len(set(names)) == len(names)
    inputs = step_inputs(step.drop_paths)
    images, labels, lam, mix_mask, erase_boxes, erase_noise, drop_path_rand = (Tensor(item) for item in inputs)
    x = AugmentImages(MEAN, STD, erase=True, mix=True)(images, mix_mask, erase_boxes, erase_noise)
    expected = by_hand(
        options,
        student(x, DropPathScale(number_drop_paths(student))(drop_path_rand)).asnumpy(),
        teacher(x).asnumpy(),
        inputs[1],
        0.3,
    )
    taught, learnt = values(teacher), values(student)
    losses = [
        float(
            step(images, labels, lam, mix_mask, erase_boxes, erase_noise, drop_path_rand, Tensor(1e-3, ms.float32))[
                0
            ].asnumpy()
        )
        for _ in range(3)
    ]
    assert abs(losses[0] / expected - 1) < 1e-5
    assert losses[2] < losses[1] < losses[0]
    assert all(np.array_equal(before, after) for before, after in zip(taught, values(teacher)))
    assert not any(np.array_equal(before, after) for before, after in zip(learnt, values(student)) if before.any())
    return step


def test_a_step_with_a_teacher_of_the_students_kind() -> None:
    student, teacher = tiny(1, drop_path_rate=0.3), tiny(2, drop_path_rate=0.5)
    names = [item.name for item in student.get_parameters()]
    step = check_step(student, teacher, "soft")
    assert (
        step.drop_paths == 3 and [item.name for item in student.get_parameters()] == names
    )  # the teacher has such cells too, and none is counted
    kept = [item.name for item in (*step.weights, *step.update.averaged, *step.state())]
    assert not any("teacher" in name for name in kept)


def test_a_step_with_a_teacher_of_mindcv() -> None:
    teacher = tiny(
        3, "mindcv/mobilenet_v1_025"
    )  # with batch normalisation and dropout, which must stay in evaluation mode
    step = check_step(tiny(1), teacher, "hard")
    assert not any("teacher" in item.name for item in [*step.update.running, *step.update.ema])


def test_a_teacher_and_a_type_come_together() -> None:
    for kind, teacher in (("hard", None), ("none", nn.Identity())):
        with pytest.raises(ValueError, match=f"distill_type is {kind}"):
            objective(nn.Identity(), teacher, distill_type=kind)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data_dir(tmp_path_factory.mktemp("images"), classes=2, train=8, val=3)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a mindcv network for two classes, as mindcv saves it."""
    path = tmp_path_factory.mktemp("teacher") / "squeezenet.ckpt"
    ms.save_checkpoint(mindvit.create_model(FOREIGN, num_classes=2), str(path))
    return path


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    return [
        *train_small.places(folder, out),
        "--model",
        OWN,
        "--image_resize",
        "24",
        "--epoch_size",
        "1",
        "--warmup_epochs",
        "0",
        "--device_target",
        "CPU",
        "--batch_size",
        "8",
        "--ema",
        *more,
    ]


def test_a_run_keeps_the_teacher_out_of_its_checkpoint(
    folder: Path, foreign: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = models.registry._entries[OWN]  # recipes have no keys for depth and width
    monkeypatch.setitem(models.registry._entries, OWN, dataclasses.replace(entry, config={**entry.config, **SMALLER}))
    run = Trainer(
        parse(
            arguments(
                folder, tmp_path, "--distill_type", "hard", "--teacher", FOREIGN, "--teacher_ckpt_path", str(foreign)
            ),
            "",
        )[0],
        None,
    )
    assert f"teacher: {FOREIGN}, 0.74 M parameters, weights from {foreign}: 52 loaded" in capsys.readouterr().out
    run.train()
    teacher, saved = run.runner.step.scaled_objective.objective.teacher, read_weights(tmp_path / f"{OWN}-1.ckpt")[0]
    assert all(
        np.array_equal(item.asnumpy(), read_weights(foreign)[0][item.name[len("mindvit.teacher.") :]])
        for item in teacher.get_parameters()
    )
    assert set(saved) == {item.name for item in (*run.net.get_parameters(), *run.runner.step.state())}
    assert not any("teacher" in name for name in saved)
    load_weights(mindvit.create_model(OWN, num_classes=2), tmp_path / f"{OWN}-best.ckpt")


def setting(*options: str, half: Any = None, level: str = "O0") -> RunContext:
    recipe = parse(["--image_resize", "24", *options], "")[0]
    return RunContext(recipe, mindvit.model_info("crossvit_tiny"), Device("CPU", "O0", level, level, half), 2, 1)


def test_our_own_teacher_reads_our_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    net = mindvit.create_model("crossvit_tiny", num_classes=2)
    path = tmp_path / "teacher.ckpt"
    ms.save_checkpoint(net, str(path))
    wanted = setting(
        "--distill_type",
        "soft",
        "--teacher",
        "crossvit_tiny",
        "--teacher_ckpt_path",
        str(path),
        half=ms.float16,
        level="O1",
    )
    teacher = build_teacher(wanted)
    assert teacher is not None and not teacher.training and not teacher.trainable_params()
    assert all(
        item.name == f"mindvit.teacher.{name}" and np.array_equal(item.asnumpy(), value)
        for item, (name, value) in zip(
            teacher.get_parameters(), ((item.name, item.asnumpy()) for item in net.get_parameters())
        )
    )
    assert {cell.compute_type for _, cell in teacher.cells_and_names() if hasattr(cell, "compute_type")} == {ms.float16}
    assert "teacher: crossvit_tiny, 6." in capsys.readouterr().out
    assert build_teacher(dataclasses.replace(wanted, recipe=parse([], "")[0])) is None


def test_a_foreign_teacher_in_half_precision_stays_close(foreign: Path) -> None:
    options = ("--distill_type", "soft", "--teacher", FOREIGN, "--teacher_ckpt_path", str(foreign))
    exact, rounded = build_teacher(setting(*options)), build_teacher(setting(*options, half=ms.float16, level="O1"))
    x = Tensor(np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32))
    assert exact is not None and rounded is not None
    reference, logits = exact(x).asnumpy(), rounded(x).asnumpy()
    assert logits.dtype == np.float32
    assert 0 < np.abs(logits - reference).max() < 1e-2 * np.abs(reference).max()


def refused(action: Any, *given: Any) -> str:
    with pytest.raises(UserError) as caught:
        action(*given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_wrong_with_a_teacher_is_one_line(folder: Path, foreign: Path, tmp_path: Path) -> None:
    def teacher(name: str, path: Any, classes: int = 2) -> str:
        chosen = dataclasses.replace(
            setting("--distill_type", "hard", "--teacher", name, "--teacher_ckpt_path", str(path)), num_classes=classes
        )
        return refused(build_teacher, chosen)

    def asked(*options: str) -> str:
        return refused(check_teacher, parse(["--distill_type", "hard", *options], "")[0].distill)

    assert asked("--teacher", FOREIGN).endswith("--teacher_ckpt_path FILE")
    assert "did you mean crossvit_tiny" in asked("--teacher", "crossvit_tini")
    assert "did you mean squeezenet1_1 or squeezenet1_0" in asked("--teacher", "mindcv/squeezenet1_O")
    nothing_yet = arguments(folder / "nowhere", tmp_path, "--distill_type", "hard", "--teacher", FOREIGN)
    assert "--teacher_ckpt_path FILE" in refused(
        Trainer, parse(nothing_yet, "")[0], None
    )  # said before the images are looked for
    assert "no file with weights" in teacher(FOREIGN, tmp_path / "none.ckpt")
    assert "the student's 7 classes: 50 loaded; 2 of another shape" in teacher(FOREIGN, foreign, 7)
    assert "doesn't fit mindcv/squeezenet1_1" in teacher("mindcv/squeezenet1_1", foreign)
    assert "doesn't fit crossvit_tiny with the student's 2 classes" in teacher("crossvit_tiny", foreign)
    arrays = {item.name: item.asnumpy() for item in mindvit.create_model(FOREIGN, num_classes=2).get_parameters()}
    name = next(iter(arrays))
    np.savez(tmp_path / "incomplete.npz", **{key: value for key, value in arrays.items() if key != name})
    assert f"1 missing: {name}" in teacher(FOREIGN, tmp_path / "incomplete.npz")
