"""Segmentors beside what mmsegmentation gave for them: logits, losses, gradients, inference, metrics, trajectory."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
import pytest
from dense_goldens import (
    HEIGHT,
    WIDTH,
    differing,
    filled_segmentor,
    sampled,
    training_batch,
    trajectory_images,
    worst_gradient,
)
from deviations import report
from golden import FOLDER, fill
from mindspore import Tensor, nn, ops

from mindvit.errors import UserError
from mindvit.layers.conv import FeatureLayout
from mindvit.models.info import IMAGENET_MEAN, IMAGENET_STD
from mindvit.models.segmentation import Segmentor
from mindvit.optim.optimizers import AdamW, SquareSum
from mindvit.optim.param_groups import is_decayed
from mindvit.tasks.segmentation.inference import (
    ImageInference,
    Pass,
    SegmentationInference,
    Sliding,
    TestScale,
    label_map,
    probabilities,
)
from mindvit.tasks.segmentation.losses import AUXILIARY_WEIGHT, PixelAccuracy, SegmentationLoss
from mindvit.tasks.segmentation.metrics import ConfusionMatrix

HEADS = {"decode": "logits", "aux": "aux_logits"}
PROBABILITY = {"fpn": 1e-4, "upernet": 2e-5}
LOGITS = {"fpn": 3e-4, "upernet": 1e-4}
LOSS, STATISTICS = 1e-4, 1e-4
# running values after eight steps: weights whose gradients are hardly more than rounding (the pooling branches', which
# normalize 2 to 72 values a channel) move them by 1e-4 to 1.3e-3, by the machine; another momentum or a biased
# variance, by 1e-2
BUFFERS = 3e-3


class Everything(nn.Cell):
    """A segmentor's logits at the images' sides and of each head, and what its decode head sees, as images."""

    def __init__(self, net: Segmentor):
        super().__init__(auto_prefix=False)
        self.net = net

    def construct(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        maps, decoded = self.net.features(x)
        logits = self.net.decode_head(decoded, x.shape[0])
        heads = [logits]
        if self.net.auxiliary_head is not None:
            heads.append(self.net.auxiliary_head(maps, x.shape[0]))
        layout = self.net.layout
        whole = self.net.resized_images(logits, x.shape[2], x.shape[3])
        return whole, [layout.to_images(found) for found in heads], [layout.to_images(found) for found in decoded]


class Losses(nn.Cell):
    """The training loss, the heads' parts of it, their accuracies and their logits."""

    def __init__(self, net: Segmentor):
        super().__init__(auto_prefix=False)
        self.net, self.criterion, self.accuracy = net, SegmentationLoss(), PixelAccuracy()

    def construct(self, images: Tensor, labels: Tensor) -> Any:
        logits = self.net.heads(images)
        loss, parts = self.criterion(logits, labels)
        accuracies = [self.accuracy(found, labels) for found in logits]
        return loss, parts, accuracies, [self.net.layout.to_images(found) for found in logits]


@pytest.fixture(scope="module", params=["fpn", "upernet"])
def evaluated(request: Any) -> tuple[str, Segmentor, list[np.ndarray]]:
    """A golden's name, its network and all outputs for the oracle's first two pictures."""
    net = filled_segmentor(request.param).set_train(False)
    whole, heads, decoded = Everything(net)(Tensor(fill.image(2, (HEIGHT, WIDTH))))
    return request.param, net, [item.asnumpy() for item in (whole, *heads, *decoded)]


def test_features_and_logits(evaluated: Any) -> None:
    name, _, (_, *outputs) = evaluated
    golden = np.load(FOLDER / "segmentation.npz")
    places = ["logits", *(["aux_logits"] if name == "upernet" else [f"neck.{level}" for level in range(4)])]
    if name == "fpn":
        outputs = [outputs[0], *outputs[1:5]]
    for place, found in zip(places, outputs):
        assert list(found.shape) == list(golden[f"eval/{name}/{place}/shape"])
        report(f"{name}: {place}", sampled(found, golden, f"eval/{name}/{place}"), LOGITS[name])
    labels = Tensor(golden["eval/label_small"].repeat(8, 1).repeat(8, 2).astype(np.int32))
    for kind, weight, found in zip(("loss", "aux_loss"), (1.0, AUXILIARY_WEIGHT), outputs[: len(HEADS)]):
        if f"eval/{name}/{kind}" in golden:  # semantic_fpn has one head
            logits = FeatureLayout().from_images(Tensor(found))
            values = SegmentationLoss((weight,))((logits,), labels)[0], PixelAccuracy()(logits, labels)
            assert np.allclose(values, golden[f"eval/{name}/{kind}"], rtol=1e-5)


def test_whole_image(evaluated: Any) -> None:
    name, _, (whole, *_) = evaluated
    golden = np.load(FOLDER / "segmentation_inference.npz")
    report(f"{name}, whole image: logits", sampled(whole[:1], golden, f"{name}/whole/logits.0"), LOGITS[name])
    inference = SegmentationInference(lambda x: Tensor(whole[:1]))
    logits = inference.logits(np.zeros((3, HEIGHT, WIDTH), np.float32))
    found = probabilities([Pass(logits, False)], golden[f"{name}/whole/argmax"].shape)
    report(f"{name}, whole image: probabilities", sampled(found, golden, f"{name}/whole/prob"), PROBABILITY[name])
    assert differing(found.argmax(0), golden, f"{name}/whole") == 0


@pytest.mark.big
def test_sliding_windows() -> None:
    golden, windows = np.load(FOLDER / "segmentation_inference.npz"), Sliding((128, 128), (85, 85))
    assert len(windows.windows((HEIGHT, WIDTH))) == golden["upernet/slide/num_forward"]
    net, seen = filled_segmentor("upernet").set_train(False), []

    def looked(x: Tensor) -> Tensor:
        seen.append(net(x))
        return seen[-1]

    inference = SegmentationInference(looked, windows, at_once=2)
    found = probabilities([Pass(inference.logits(fill.image(1, (HEIGHT, WIDTH))[0]), False)], (HEIGHT, WIDTH))
    report(
        "upernet, sliding windows: probabilities", sampled(found, golden, "upernet/slide/prob"), PROBABILITY["upernet"]
    )
    for number in range(3):
        logits = seen[number // 2].asnumpy()[number % 2]
        worst = sampled(logits, golden, f"upernet/slide/logits.{number}")
        report(f"upernet, sliding windows: logits of window {number}", worst, LOGITS["upernet"])
    assert differing(found.argmax(0), golden, "upernet/slide") == 0


def test_windows_cover_an_image_and_end_at_its_border() -> None:
    windows = Sliding((128, 96), (100, 96)).windows((129, 200))
    starts = {(rows.start, columns.start) for rows, columns in windows}
    assert starts == {(y, x) for y in (0, 1) for x in (0, 96, 104)}
    assert Sliding((128, 128), (85, 85)).windows((64, 128)) == [(slice(0, 64), slice(0, 128))]
    with pytest.raises(UserError, match="pixels would be left out"):
        Sliding((128, 128), (129, 85))


def test_windows_are_averaged_and_mirrored_images_turned_back() -> None:
    image = np.arange(2 * 6 * 8, dtype=np.float32).reshape(2, 6, 8) / 50

    def net(x: Tensor) -> Tensor:  # every pixel by itself
        return x * 2

    for at_once in (1, 4):  # of 6 windows: the second batch of 4 is filled up
        windows = SegmentationInference(net, Sliding((4, 4), (3, 3)), at_once)
        assert np.allclose(windows.logits(image), 2 * image)
    whole, mirrored = Pass(2 * image, False), Pass(2 * image[:, :, ::-1], True)
    assert np.allclose(probabilities([mirrored], (6, 8)), probabilities([whole], (6, 8)))
    assert np.allclose(probabilities([whole, whole], (6, 8)).sum(0), 1)
    both = probabilities([whole, Pass(2 * image[:, :, ::-1], False)], (6, 8))
    assert np.allclose(both, both[:, :, ::-1])
    assert np.array_equal(label_map([whole], (12, 16)), np.ones((12, 16)))


@pytest.mark.parametrize("window, sides", [(None, (64, 96)), ((64, 64), (64, 90))])
def test_images_are_enlarged_to_what_the_network_takes(window: Any, sides: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)
    test = TestScale(None, 32, IMAGENET_MEAN, IMAGENET_STD, flip=True)
    (found, first), (turned, second) = test.images(image, window)
    assert found.shape == (3, *sides)
    assert (first, second) == (False, True)
    assert np.array_equal(found, turned[:, :, ::-1])


def test_labels_that_fit_no_class() -> None:
    with pytest.raises(UserError, match="values 0 to 10, but there are 10 classes"):
        ConfusionMatrix(10).update(np.zeros((1, 2), int), np.array([[0, 10]]))
    with pytest.raises(UserError, match="label map of .2, 1. pixels for an image of .1, 2."):
        ConfusionMatrix(10).update(np.zeros((1, 2), int), np.zeros((2, 1), int))


@pytest.mark.big
def test_several_scales_and_flips() -> None:
    golden = np.load(FOLDER / "segmentation_inference.npz")
    picture = golden["upernet/aug/picture"][..., ::-1]
    test = TestScale((512, 128), 32, IMAGENET_MEAN, IMAGENET_STD, (0.5, 1.0, 1.5), flip=True)
    images = list(test.images(picture))
    assert [mirrored for _, mirrored in images] == golden["upernet/aug/flip"].tolist()
    for number, (seen, _) in enumerate(images):
        assert seen.shape[1:] == tuple(golden["upernet/aug/input_sizes"][number])
        report(f"upernet, scales and flips: image {number}", sampled(seen, golden, f"upernet/aug/input.{number}"), 1e-5)
    inference = ImageInference(SegmentationInference(filled_segmentor("upernet").set_train(False)), test)
    passes, size = inference(picture), picture.shape[:2]
    for number, item in enumerate(passes):
        found = probabilities([item], size)
        report(
            f"upernet, scales and flips: probabilities of pass {number}",
            sampled(found, golden, f"upernet/aug/prob.{number}"),
            PROBABILITY["upernet"],
        )
    mean = probabilities(passes, size)
    report(
        "upernet, scales and flips: mean probabilities",
        sampled(mean, golden, "upernet/aug/prob"),
        PROBABILITY["upernet"],
    )
    assert differing(label_map(passes, size), golden, "upernet/aug") == 0


@pytest.mark.parametrize("name", ["fpn", pytest.param("upernet", marks=[pytest.mark.big])])
def test_losses_and_gradients(name: str) -> None:
    golden = np.load(FOLDER / "segmentation.npz")
    net = filled_segmentor(name).set_train(True)
    weights = ms.ParameterTuple(net.trainable_params())
    images, labels = training_batch(golden)
    function = ops.value_and_grad(Losses(net), None, weights, has_aux=True)
    (loss, parts, accuracies, logits), gradients = function(Tensor(images), Tensor(labels))
    report(f"{name}, training: loss", abs(float(loss.asnumpy()) / golden[f"{name}/total"] - 1), LOSS)
    for (head, place), part, accuracy, found in zip(HEADS.items(), parts, accuracies, logits):
        report(
            f"{name}, training: loss of {head}",
            abs(float(part.asnumpy()) / golden[f"{name}/loss/{head}.loss_ce"][0] - 1),
            LOSS,
        )
        assert abs(float(accuracy.asnumpy()) - golden[f"{name}/loss/{head}.acc_seg"][0]) < 1e-3
        report(f"{name}, training: logits of {head}", sampled(found.asnumpy(), golden, f"{name}/{place}"), LOGITS[name])
    assert [weight.name for weight in weights] and {weight.name for weight in weights} == set(
        golden[f"{name}/grad_name"].tolist()
    )
    report(
        f"{name}, training: gradients, as a share of the tolerance",
        worst_gradient(dict(zip([item.name for item in weights], gradients)), golden, name),
        1,
    )
    buffers = {item.name: item.asnumpy() for item in net.get_parameters() if not item.requires_grad}
    keys = [key for key in golden.files if key.startswith(f"{name}/bn/")]
    assert {key.split("/bn/")[1] for key in keys} == set(buffers)
    worst = max(np.abs(buffers[key.split("/bn/")[1]][:64] - golden[key]).max() for key in keys)
    norms = {key: np.linalg.norm(buffers[key.split("/bn/")[1]].astype(np.float64)) for key in keys}
    assert all(np.isclose(norms[key], golden[key.replace("/bn/", "/bn_l2/")], rtol=STATISTICS) for key in keys)
    report(f"{name}, training: running statistics", float(worst), STATISTICS)


class Gradients(nn.Cell):
    """The heads' losses, the gradient's norm and the gradient."""

    def __init__(self, net: Segmentor):
        super().__init__(auto_prefix=False)
        weights = ms.ParameterTuple(net.trainable_params())
        self.gradient = ops.value_and_grad(Losses(net), None, weights, has_aux=True)
        self.square_sum = SquareSum()

    def construct(self, images: Tensor, labels: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, ...]]:
        (_, parts, _, _), gradients = self.gradient(images, labels)
        return (parts[0], parts[1], ops.sqrt(self.square_sum(gradients))), gradients


@pytest.mark.big
def test_trajectories() -> None:
    """Eight steps of a growing rate with a decay that shows on every weight, and of a constant one, the recipe's."""
    golden = np.load(FOLDER / "segmentation_trajectory.npz")
    net = filled_segmentor("upernet").set_train(True)
    weights = ms.ParameterTuple(net.trainable_params())
    decayed = [is_decayed(item.name, item.ndim, "norm_names", net.no_weight_decay()) for item in weights]
    spared = {item.name for item, decays in zip(weights, decayed) if not decays}
    assert spared == set(golden["upernet/not_decayed"].tolist())
    before, gradients = {item.name: item.asnumpy().copy() for item in net.get_parameters()}, Gradients(net)
    for way, decay in (("warm", 100.0), ("plain", 0.01)):
        for item in net.get_parameters():
            item.set_data(Tensor(before[item.name]))
        optimizer = AdamW(weights, [decay * decays for decays in decayed], [1.0] * len(weights), (0.9, 0.999), 1e-8)
        # runs that rounding has led apart don't come together again: what the oracle's own differed by, up to a step
        stability = np.maximum.accumulate(golden[f"upernet/{way}/stability"].max(0), axis=1)
        for number in range(8):
            found, gradient = gradients(Tensor(trajectory_images(number)), Tensor(trajectory_labels(number)))
            optimizer(ms.mutable(gradient), Tensor(6e-5 if way == "plain" else 6e-5 / 100 * (number + 1), ms.float32))
            *losses, norm = (float(item) for item in found)
            for head, loss in zip(HEADS, losses):
                expected = golden[f"upernet/{way}/loss/{head}.loss_ce"][number]
                what = f"upernet, {way}, step {number + 1}: loss of {head}"
                report(what, abs(loss / expected - 1), max(1e-4, 10 * stability[0, number]))
            expected = golden[f"upernet/{way}/grad_norm"][number]
            what = f"upernet, {way}, step {number + 1}: norm of the gradient"
            report(what, abs(norm / expected - 1), max(1e-3, 10 * stability[1, number]))
        values = {item.name: item.asnumpy().ravel().astype(np.float64) for item in net.get_parameters()}
        check_weights(golden, way, values)
        if way == "warm":
            check_buffers(golden, values)


def check_weights(golden: Any, way: str, values: dict[str, np.ndarray]) -> None:
    """After the last step."""
    places = golden["upernet/warm/param_name"], golden["upernet/warm/param_idx"]
    worst = 0.0
    for name, index, norm, expected, disturb in zip(
        *places, *(golden[f"upernet/{way}/param_{part}"] for part in ("l2", "val", "disturb"))
    ):
        index, tolerance = index[: len(expected)], 10 * disturb + 1e-6 * norm
        worst = max(worst, abs(np.linalg.norm(values[str(name)]) - norm) / tolerance)
        worst = max(worst, float(np.abs(values[str(name)][index] - expected)[index >= 0].max() / tolerance))
    report(f"upernet, {way}, after 8 steps: weights, as a share of the tolerance", worst, 1)


def check_buffers(golden: Any, values: dict[str, np.ndarray]) -> None:
    """Running statistics after the last step of a growing rate (at a constant one they move by what rounding does)."""
    moved = []
    rows = zip(*(golden[f"upernet/warm/buffer_{part}"] for part in ("name", "l2", "idx", "val")))
    for name, norm, index, expected in rows:
        found = values[str(name)]
        moved += [abs(np.linalg.norm(found) / norm - 1), np.abs(found[index] - expected)[index >= 0].max()]
    report("upernet, warm, after 8 steps: running statistics", float(max(moved)), BUFFERS)


def trajectory_labels(step: int) -> np.ndarray:
    """Of a step's two pictures, (2, 128, 160)."""
    labels = []
    for index in (2 * step, 2 * step + 1):
        small = (np.abs(fill.noise(f"dtraj/seg/{index}", (16, 20))) * 60).astype(np.int32) % 150
        labels.append(small.repeat(8, 0).repeat(8, 1))
        labels[-1][:8] = 255
    return np.stack(labels)


@pytest.mark.parametrize("how", ["plain", "reduce_zero"])
def test_metrics(how: str) -> None:
    golden = np.load(FOLDER / "segmentation_miou.npz")
    matrix, other = ConfusionMatrix(10), ConfusionMatrix(10)
    for number in range(4):
        labels = golden[f"gt.{number}"]
        if how == "reduce_zero":
            labels = np.where(np.isin(labels, (0, 255)), 255, labels.astype(int) - 1)
        (matrix if number % 2 else other).update(golden[f"pred.{number}"], labels)
    matrix.merge(other)
    score = matrix.score(3)
    assert np.allclose(score.iou(), golden[f"{how}/IoU"], atol=1e-6, equal_nan=True)
    assert np.allclose(score.accuracy(), golden[f"{how}/Acc"], atol=1e-6, equal_nan=True)
    assert np.allclose(score.dice(), golden[f"{how}/Dice"], atol=1e-6, equal_nan=True)
    areas = np.array([score.found, score.predicted, score.predicted, score.labelled])
    areas[1] += areas[3] - areas[0]  # either
    assert np.array_equal(areas, golden[f"{how}/areas"])
    for key, value in score.metrics().items():
        assert abs(value / 100 - float(golden[f"{how}/{key}"])) < 1e-6, key  # ours are per cent
