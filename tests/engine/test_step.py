"""The compiled steps: loss, mixing, precision, loss scale, averages, evaluation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Optional

import mindspore as ms
import numpy as np
import pytest
from golden import FOLDER, VARIANTS
from mindspore import Tensor, nn, ops
from small import small
from steps import MEAN, STD, neutral_inputs, train_step

from mindvit.engine.step import GROWTH_STEPS, random_draws
from mindvit.layers.augment import AugmentImages
from mindvit.layers.drop_path import DropPathScale, Residual, number_drop_paths
from mindvit.layers.precision import set_precision
from mindvit.models import create_model, list_models
from mindvit.models.crossvit import drop_paths
from mindvit.recipe.options import AugmentOptions
from mindvit.tasks.classification.augment import BatchAug, sample_batch_aug
from mindvit.tasks.classification.losses import BinaryCrossEntropy, SoftTargetCrossEntropy
from mindvit.tasks.classification.metrics import EvalStep
from mindvit.tasks.classification.task import ClassificationTask


def tiny(**arguments: Any) -> nn.Cell:
    ms.set_seed(1)
    return create_model("crossvit_tiny", num_classes=7, img_size=(24, 16), depth=(1, 1), **arguments)


class Plain(nn.Cell):
    """A network that compiles in a second."""

    def __init__(self) -> None:
        super().__init__()
        ms.set_seed(1)
        self.first, self.last = nn.Dense(3 * 24 * 24, 8), nn.Dense(8, 7)

    def construct(self, x: Tensor, _: Optional[Tensor] = None) -> Tensor:
        return self.last(ops.tanh(self.first(x.reshape(x.shape[0], -1))))


def batch(size: int = 24, count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (count, size, size, 3), dtype=np.uint8), random.integers(0, 7, count).astype(
        np.int32
    )


def inputs(lr: float, count: int = 4, paths: int = 0) -> tuple[Tensor, ...]:
    images, labels = batch(count=count)
    return (Tensor(images), Tensor(labels), *neutral_inputs(count, 24, 3, paths)[2:7], Tensor(lr, ms.float32))


@pytest.mark.parametrize("key, smoothing", [("cross_entropy", 0.0), ("label_smoothing_0.1", 0.1)])
def test_loss_and_gradient_are_pytorchs(key: str, smoothing: float) -> None:
    golden = np.load(FOLDER / "losses.npz")
    criterion = SoftTargetCrossEntropy(smoothing, mix=False)
    function = ops.value_and_grad(criterion, 0)
    loss, gradient = function(
        Tensor(golden["logits"]), Tensor(golden["labels"].astype(np.int32)), Tensor(1.0, ms.float32)
    )
    assert abs(float(loss.asnumpy()) / float(golden[key]) - 1) < 1e-5
    assert np.abs(gradient.asnumpy() - golden[f"{key}/grad"]).max() < 1e-5


def test_mixed_labels_give_the_soft_target_loss() -> None:
    golden = np.load(FOLDER / "losses.npz")
    logits, labels, share, smoothing = golden["logits"], golden["labels"].astype(np.int32), 0.3, 0.1
    one_hot = np.eye(logits.shape[1])[labels] * (1 - smoothing) + smoothing / logits.shape[1]
    target = share * one_hot + (1 - share) * one_hot[::-1]
    log_p = logits - logits.max(1, keepdims=True)
    log_p = log_p - np.log(np.exp(log_p).sum(1, keepdims=True))
    loss = SoftTargetCrossEntropy(smoothing, mix=True)(Tensor(logits), Tensor(labels), Tensor(share, ms.float32))
    assert abs(float(loss.asnumpy()) - float(-(target * log_p).sum(1).mean())) < 1e-5


def test_binary_cross_entropy_with_mixed_and_smoothed_labels() -> None:
    golden = np.load(FOLDER / "losses.npz")
    logits, labels, share, smoothing = golden["logits"].astype(np.float64), golden["labels"].astype(np.int32), 0.3, 0.1
    one_hot = np.eye(logits.shape[1])[labels] * (1 - smoothing) + smoothing / logits.shape[1]
    target = share * one_hot + (1 - share) * one_hot[::-1]
    p = 1 / (1 + np.exp(-logits))
    function = ops.value_and_grad(BinaryCrossEntropy(smoothing, mix=True), 0)
    loss, gradient = function(Tensor(golden["logits"]), Tensor(labels), Tensor(share, ms.float32))
    assert abs(float(loss.asnumpy()) / -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean() - 1) < 1e-5
    assert np.abs(gradient.asnumpy() - (p - target) / logits.size).max() < 1e-5 / len(logits)
    extreme = BinaryCrossEntropy(0.0, mix=False)(
        Tensor(np.array([[200.0, -200.0]], np.float32)), Tensor([1], ms.int32), Tensor(1.0, ms.float32)
    )
    assert float(extreme.asnumpy()) == 200  # neither overflows nor is cut off


def test_prepare_normalises_erases_and_mixes_in_this_order() -> None:
    images, _ = batch(size=6)
    random = np.random.default_rng(1)
    boxes = np.array([[1, 4, 2, 6], [0, 0, 0, 0], [0, 6, 0, 1], [5, 6, 5, 6]], np.int32)
    aug = BatchAug(
        np.array(0.5, np.float32),
        random.random((6, 6, 1), np.float32),
        boxes,
        random.standard_normal((6, 6, 3), np.float32),
    )
    x = (images / 255 - MEAN) / STD
    for image, (top, bottom, left, right) in zip(x, aug.erase_boxes):
        image[top:bottom, left:right] = aug.erase_noise[top:bottom, left:right]
    x = x * aug.mix_mask + x[::-1] * (1 - aug.mix_mask)
    ours = AugmentImages(MEAN, STD, erase=True, mix=True)(
        Tensor(images), *(Tensor(item) for item in aug[1:4])
    ).asnumpy()
    assert np.abs(ours - x.transpose(0, 3, 1, 2)).max() < 1e-5


def test_draws_depend_on_seed_step_and_rank_alone() -> None:
    augment = AugmentOptions(mixup=0.8, cutmix=1.0, re_prob=0.5)
    net = small("xcit", drop_path_rate=0.5)
    step = train_step(net)

    def sampled(seed: int, number: int, rank: int) -> tuple[np.ndarray, ...]:
        recipe = SimpleNamespace(
            augment=augment,
            runtime=SimpleNamespace(seed=seed),
            data=SimpleNamespace(batch_size=8),
            model=SimpleNamespace(in_channels=3),
        )
        ctx: Any = SimpleNamespace(
            recipe=recipe, device=SimpleNamespace(rank=rank), preprocessing=SimpleNamespace(size=32)
        )
        return random_draws(ClassificationTask(), ctx, step, number)

    first, again = sampled(1, 2, 0), sampled(1, 2, 0)
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    for other in ((2, 2, 0), (1, 3, 0), (1, 2, 1)):
        again = sampled(*other)
        assert not np.array_equal(first[3], again[3]), "erase_noise"
        assert not np.array_equal(first[4], again[4]), "drop_path_rand"


def test_draws_have_the_published_frequencies() -> None:
    augment = AugmentOptions(mixup=0.8, cutmix=1.0, re_prob=0.25)
    rng = np.random.default_rng(0)
    draws = [sample_batch_aug(augment, rng, batch=16, size=40, channels=1) for _ in range(400)]
    cut = [item for item in draws if set(np.unique(item.mix_mask)) <= {0, 1}]
    assert 0.4 < len(cut) / len(draws) < 0.6  # switch probability 0.5
    assert all(
        abs(float(item.lam) - item.mix_mask.mean()) < 1e-6 for item in draws
    )  # labels follow the pixels' true share
    boxes = np.concatenate([item.erase_boxes for item in draws])
    heights, widths = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    area = heights * widths / 1600
    assert 0.22 < (area > 0).mean() < 0.28 and boxes.min() >= 0 and boxes.max() <= 40
    assert area[area > 0].min() > 0.01 and area.max() < 0.36
    quiet = sample_batch_aug(AugmentOptions(), rng, batch=4, size=8, channels=3)
    assert quiet.lam == 1 and (quiet.mix_mask == 1).all() and not quiet.erase_boxes.any()


@pytest.mark.usefixtures("operator_by_operator")
@pytest.mark.parametrize("level", ["O1", "O2"])
def test_half_precision_stays_close(level: str) -> None:
    net = tiny().set_train(False)
    x = Tensor(np.random.default_rng(0).standard_normal((2, 3, 24, 24)).astype(np.float32))
    exact = net(x).asnumpy()
    net = tiny().set_train(False)
    set_precision(net, level, ms.float16)
    rounded = net(x).asnumpy()
    assert rounded.dtype == np.float32
    assert 1e-7 < np.abs(rounded - exact).max() < 5e-3 * max(1, np.abs(exact).max())


def test_overflow_leaves_the_weights_alone_and_halves_the_scale() -> None:
    net = tiny().set_train(True)
    set_precision(net, "O2", ms.float16)
    step = train_step(net, [False] * len(net.trainable_params()), loss_scale=2.0**40, dynamic_scale=True)
    before = [item.asnumpy().copy() for item in step.weights]
    loss, norm, scale, _ = step.read(step(*inputs(1e-3, paths=step.drop_paths)))
    assert np.isfinite(loss) and not np.isfinite(norm) and scale == 2.0**39
    assert (
        all(np.array_equal(old, new.asnumpy()) for old, new in zip(before, step.weights))
        and float(step.update.optimizer.count.asnumpy()) == 0
    )
    step.scaler.scale.set_data(Tensor(1024.0, ms.float32))
    step.scaler.finite_steps.set_data(Tensor(GROWTH_STEPS - 1.0, ms.float32))
    loss, norm, scale, _ = step.read(step(*inputs(1e-3, paths=step.drop_paths)))
    assert np.isfinite(norm) and scale == 2048 and float(step.update.optimizer.count.asnumpy()) == 1
    assert not all(np.array_equal(old, new.asnumpy()) for old, new in zip(before, step.weights))


def test_average_and_its_exchange() -> None:
    net = Plain().set_train(True)
    step = train_step(net, ema_decay=0.75)
    start = step.weights[0].asnumpy().copy()
    step(*inputs(1e-2))
    moved = step.weights[0].asnumpy().copy()
    assert np.abs(step.update.ema[0].asnumpy() - (0.75 * start + 0.25 * moved)).max() < 1e-7
    step.update.swap_ema()
    assert np.array_equal(step.update.ema[0].asnumpy(), moved) and not np.array_equal(step.weights[0].asnumpy(), moved)


@pytest.mark.parametrize(
    "options", [{}, {"skip_nonfinite": True}, {"accum_steps": 2, "loss_scale": 1024.0, "dynamic_scale": True}]
)
def test_the_average_follows_after_an_exchange_too(options: dict) -> None:
    net = Plain().set_train(True)
    step = train_step(net, ema_decay=0.5, **options)
    evaluation = EvalStep(net, MEAN, STD)
    images, labels, *_ = inputs(0)
    losses = []
    for _ in range(3):
        before = [item.asnumpy().copy() for item in (step.update.ema[0], step.weights[0])]
        for _ in range(options.get("accum_steps", 1)):
            step(*inputs(1e-2))
        average, weight = step.update.ema[0].asnumpy().copy(), step.weights[0].asnumpy().copy()
        assert np.abs(average - 0.5 * (before[0] + weight)).max() < 1e-6 and not np.array_equal(before[1], weight)
        step.update.swap_ema()
        losses.append(float(evaluation(images, labels)[1].asnumpy().mean()))
        step.update.swap_ema()
        assert np.array_equal(step.update.ema[0].asnumpy(), average) and np.array_equal(
            step.weights[0].asnumpy(), weight
        )
    assert len(set(losses)) == 3  # the evaluation saw three averages


@pytest.mark.parametrize("options", [{}, {"loss_scale": 1024.0, "dynamic_scale": True}])
def test_two_halves_make_the_step_of_the_whole(options: dict) -> None:
    results = []
    for parts in (1, 2):
        net = Plain().set_train(True)
        step = train_step(net, eps=1e-6, clip_norm=0.5, ema_decay=0.5, accum_steps=parts, **options)
        images, labels, *rest = inputs(1e-3)
        outputs: Any = None
        for part in range(2 * parts):  # two steps: the second finds nothing left of the first
            half = slice(part % parts * 4 // parts, (part % parts + 1) * 4 // parts)
            chances = [item[half] if item.shape[:1] == (4,) else item for item in rest]
            chances[4] = rest[4][:, half]
            outputs = step(images[half], labels[half], *chances)
        results.append(
            (
                outputs.asnumpy(),
                [item.asnumpy() for item in (*step.weights, *step.update.ema, *step.update.optimizer.exp_avg)],
            )
        )
    (whole, expected), (parted, ours) = results
    assert np.allclose(whole, parted, rtol=1e-5)
    assert max(np.abs(a - b).max() for a, b in zip(expected, ours)) < 2e-5


def test_a_step_that_is_no_number_leaves_nothing_behind() -> None:
    net = small("xcit").set_train(True)  # batch normalisation: running statistics move in the forward pass already
    step = train_step(net, skip_nonfinite=True, ema_decay=0.9, mix=True)
    good = [*neutral_inputs(2, 32, 3, step.drop_paths)[:7], Tensor(1e-3, ms.float32)]
    good[0] = Tensor(np.random.default_rng(0).integers(0, 256, good[0].shape).astype(np.uint8))
    bad = [*good]
    bad[3] = Tensor(np.full(good[3].shape, np.nan, np.float32))

    def state() -> dict[str, np.ndarray]:
        return {item.name: item.asnumpy().copy() for item in (*net.get_parameters(), *step.state())}

    start = state()
    step(*good)
    before = state()
    moved = [name for name in before if not np.array_equal(start[name], before[name])]
    assert any(name.endswith("running_mean") for name in moved) and any(
        name.startswith("mindvit.ema") for name in moved
    )
    assert not np.isfinite(step(*bad)[0].asnumpy())
    after = state()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert np.isfinite(step(*good).asnumpy()).all() and not np.array_equal(state()["cls_token"], before["cls_token"])


def flag_is_up(_: Any) -> Tensor:
    return Tensor(False)


def test_an_overflow_that_only_the_device_knows_of_leaves_the_step_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for moved in (True, False):
        if not moved:
            monkeypatch.setattr(
                ms.amp, "all_finite", flag_is_up
            )  # what it says of finite gradients on an NPU that saturated
        net = Plain().set_train(True)
        step = train_step(net, loss_scale=1024.0, dynamic_scale=True, fp16_saturates=True)
        before = step.weights[0].asnumpy().copy()
        _, norm, scale, _ = step.read(step(*inputs(1e-2)))
        assert np.isfinite(norm) and scale == (1024 if moved else 512)
        assert np.array_equal(before, step.weights[0].asnumpy()) is not moved


class Given(nn.Cell):
    """A 'network' whose logits are the image's first row."""

    def construct(self, x: Tensor) -> Tensor:
        return x[:, 0, 0, :]


def test_ranks_of_the_true_class() -> None:
    step = EvalStep(Given(), (0.0,), (1 / 255,))
    rows = np.array([[9, 1, 2, 3], [1, 9, 2, 3], [5, 5, 5, 5], [5, 5, 5, 5], [1, 2, 3, 4]], np.uint8)
    images = np.repeat(rows[:, None, :, None], 4, 1)
    ranks, losses, logits = step(Tensor(images), Tensor(np.array([0, 0, 0, 3, -1], np.int32)))
    assert np.array_equal(logits.asnumpy(), rows)
    assert ranks.asnumpy().tolist() == [0, 3, 0, 3, -1]  # equal logits are told apart by class number
    shifted = rows - rows.max(1, keepdims=True).astype(float)
    expected = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(5), [0, 0, 0, 3, 0]]
    assert np.abs(losses.asnumpy()[:4] - expected[:4]).max() < 1e-5 and losses.asnumpy()[4] == 0


class Nothing(nn.Cell):
    """A 'network' that has diverged."""

    def construct(self, x: Tensor) -> Tensor:
        return ops.log(-x[:, 0, 0, :] - 1)


def test_a_diverged_network_has_nothing_right() -> None:
    step = EvalStep(Nothing(), (0.0,), (1 / 255,))
    ranks, _, _ = step(Tensor(np.ones((2, 4, 4, 1), np.uint8)), Tensor(np.array([0, 1], np.int32)))
    assert ranks.asnumpy().tolist() == [3, 3]


def test_drop_path_drops_whole_samples() -> None:
    class Cell(nn.Cell):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.drop = Residual(0.5), Residual(0.25)

        def construct(self, x: Tensor, kept: Optional[Tensor] = None) -> Tensor:
            return self.drop(x * 0, x, 400, kept)

    cell, x = Cell(), Tensor(np.ones((400 * 3, 5), np.float32))
    assert np.array_equal(cell.set_train(False)(x).asnumpy(), x.asnumpy())
    kept = cell.set_train(True)(x).asnumpy().reshape(400, -1)
    assert all(len(set(row)) == 1 for row in kept) and set(np.unique(kept)) == {np.float32(0), np.float32(1 / 0.75)}
    assert 0.65 < (kept[:, 0] > 0).mean() < 0.85
    assert number_drop_paths(cell) == [0.5, 0.25]
    chances = np.random.default_rng(0).random((2, 400), np.float32)
    given = cell(x, DropPathScale([0.5, 0.25])(Tensor(chances))).asnumpy().reshape(400, -1)
    assert np.abs(given - np.where(chances[1] >= 0.25, 1 / 0.75, 0)[:, None]).max() < 1e-6


@pytest.mark.parametrize("name", list_models("crossvit*"))
def test_drop_path_rates_are_the_papers(name: str) -> None:
    published = VARIANTS[name]["train"]["drop_path_per_block"]
    depth = [row[:2] for row in VARIANTS[name]["arch"]["depth"]]
    for index, (first, second) in enumerate(drop_paths(0.1, depth[0])):
        block = published[f"multiscale{index}"]
        assert np.allclose(first, block["small"], atol=1e-6) and np.allclose(second, block["large"], atol=1e-6)
        assert np.allclose(second[-1], block["fusion"], atol=1e-6)
