"""Train the backbone of segmentation's quick start on scenes: python scripts/shipped_patches.py

A small XCiT learns to call the patches in the middle of each digit's box, in crops of training scenes, by the digit's
class. Its blocks, in half precision, are written to mindvit/hub/weights/xcit_digit_patches.safetensors, from which
configs/quickstart/segmentation_scenes.yaml starts. It is told boxes and classes and sees no label map; the digits are
those that train everything else here, and none of the validation's is among them. 8,000 steps take 17 minutes of a
core.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Iterator, Optional, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from shipped_weights import CONFIG, write  # noqa: E402

from mindvit import errors  # noqa: E402
from mindvit.data.datasets.scenes import Scene, ScenesDataset  # noqa: E402
from mindvit.engine.step import TrainStep  # noqa: E402
from mindvit.engine.update import StepOptions  # noqa: E402
from mindvit.layers.normalize import Normalize  # noqa: E402
from mindvit.models.info import IMAGENET_MEAN, IMAGENET_STD  # noqa: E402
from mindvit.models.xcit import XCiT  # noqa: E402
from mindvit.optim.schedule import learning_rate  # noqa: E402
from mindvit.recipe.optim_options import ScheduleOptions  # noqa: E402
from mindvit.recipe.options import PrecisionOptions, RuntimeOptions  # noqa: E402
from mindvit.runtime import device  # noqa: E402

NAME, CLASSES = "xcit_digit_patches", 10
SIDE, PATCH = 128, CONFIG["patch_size"]  # px: of a crop, as the quick start trains on them, and of a patch
GRID = SIDE // PATCH
TURN, SHEAR, SCALE = 10.0, 0.15, 0.1  # the most that a crop is turned (degrees), slanted, and enlarged (a power of e)
BEYOND = 8  # px of a crop that may lie outside the scene
MIDDLE = 0.75  # the share of a box's height and width in which patches are called
NONE = -1  # the class of the other patches: whatever they are called
STEPS, BATCH, SEED, LOG = 8000, 8, 0, 500
SMOOTHING = 0.1
OPTIONS = StepOptions(betas=(0.9, 0.99), weight_decay=0.05, clip_norm=1.0)
SCHEDULE = ScheduleOptions(
    scheduler="warmup_cosine_decay", epoch_size=1, lr=2e-3, min_lr=0.0, warmup_epochs=0, warmup_steps=100
)


def crop(pixels: np.ndarray, scene: Scene, rng: Optional[np.random.Generator]) -> tuple[np.ndarray, np.ndarray]:
    """SIDE px of a scene, anywhere, turned, slanted and resized; without an rng the middle as it is.

    (SIDE, SIDE, 3) uint8, the scene's mean colour beyond it; (GRID, GRID) int32: the classes of patches, 0 to 9, and
    NONE.
    """
    across, middle = np.eye(2), np.array(pixels.shape[1::-1]) / 2
    if rng is not None:
        turn, slant = np.radians(rng.uniform(-TURN, TURN)), rng.uniform(-SHEAR, SHEAR)
        turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        across = np.exp(rng.uniform(-SCALE, SCALE)) * turned @ np.array([[1, slant], [0, 1]])
        middle = middle + rng.uniform(-1, 1, 2) * (middle - SIDE / 2 + BEYOND)
    start = middle - across @ np.full(2, SIDE / 2)
    mean = tuple(int(value) for value in pixels.reshape(-1, 3).mean(0))
    found = Image.fromarray(pixels).transform(
        (SIDE, SIDE),
        Image.Transform.AFFINE,
        (*across[0], start[0], *across[1], start[1]),
        Image.Resampling.BILINEAR,
        fillcolor=mean,
    )
    return np.asarray(found), patch_classes(scene, np.linalg.inv(across), start)


def patch_classes(scene: Scene, back: np.ndarray, start: np.ndarray) -> np.ndarray:
    """(GRID, GRID) int32: see crop. back, start: a point of the scene lies at back @ (point - start) in the crop."""
    classes = np.full((GRID, GRID), NONE, np.int32)
    places = (np.arange(GRID) + 0.5) * PATCH
    for label, (left, top, right, bottom) in zip(scene.classes, scene.boxes):
        across, down = back @ (np.array([left + right, top + bottom]) / 2 - start)
        half = np.maximum(MIDDLE / 2 * np.array([right - left, bottom - top]), PATCH / 2)
        rows, columns = np.abs(places - down) <= half[1], np.abs(places - across) <= half[0]
        classes[np.ix_(rows, columns)] = label - 1
    return classes


def batches(data: ScenesDataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Crops of training scenes, in random order again and again, BATCH at once."""
    rng = np.random.default_rng(SEED)
    order: list[int] = []
    while True:
        order += rng.permutation(len(data)).tolist()
        while len(order) >= BATCH:
            images, classes = zip(*(crop(*data.draw(order.pop()), rng) for _ in range(BATCH)))
            yield np.stack(images), np.stack(classes)


class PatchLogits(nn.Cell):
    """Images (B, SIDE, SIDE, 3) uint8 -> logits of their patches (B*GRID*GRID, CLASSES)."""

    def __init__(self, net: XCiT):
        super().__init__(auto_prefix=False)
        self.normalize, self.net = Normalize(IMAGENET_MEAN, IMAGENET_STD), net

    def construct(self, images: Tensor) -> Tensor:
        return self.net.head(self.net.norm(self.net.after_blocks(self.normalize(images), None)[-1]))


class PatchObjective(nn.Cell):
    """Cross entropy with label smoothing, the mean over the patches that have a class. classes: (B, GRID, GRID)."""

    def __init__(self, logits: PatchLogits):
        super().__init__(auto_prefix=False)
        self.logits, self.drop_paths = logits, 0

    def construct(self, images: Tensor, classes: Tensor) -> Tensor:
        log_p = ops.log_softmax(self.logits(images), -1)
        classes = classes.reshape(-1, 1)
        counted = (classes != NONE).astype(ms.float32).reshape(-1)
        own = ops.gather_elements(log_p, 1, ops.maximum(classes, 0)).reshape(-1)
        log_p = (1 - SMOOTHING) * own + SMOOTHING * log_p.mean(-1)
        return -(log_p * counted).sum() / ops.maximum(counted.sum(), Tensor(1.0, ms.float32))


def train(net: XCiT) -> None:
    """STEPS steps on training scenes."""
    for parameter in net.get_parameters():
        parameter.requires_grad = parameter.requires_grad and not parameter.name.startswith("cls_")
    net.set_train(True)
    decayed = [parameter.ndim > 1 for parameter in net.trainable_params()]
    step = TrainStep(PatchObjective(PatchLogits(net)), net, decayed, OPTIONS)
    start, losses = time.perf_counter(), []
    for number, (images, classes) in zip(range(STEPS), batches(ScenesDataset("train"))):
        lr = learning_rate(number, schedule=SCHEDULE, steps_per_epoch=STEPS, global_batch=BATCH)
        losses.append(step.read(step(Tensor(images), Tensor(classes), Tensor(lr, ms.float32))).loss)
        if (number + 1) % LOG == 0:
            seconds = time.perf_counter() - start
            print(f"step {number + 1}/{STEPS}  loss {np.mean(losses[-LOG:]):.4f}  {seconds:.0f} s", flush=True)


def accuracy(net: XCiT) -> tuple[float, int]:
    """The share of right patches in the middles of validation scenes, and their number."""
    data, logits = ScenesDataset("val"), PatchLogits(net.set_train(False))
    crops = [crop(*data.draw(index), None) for index in range(len(data))]
    found = [logits(Tensor(image[None])).asnumpy().argmax(1).reshape(GRID, GRID) for image, _ in crops]
    wanted = np.stack([classes for _, classes in crops])
    counted = wanted != NONE
    return float((np.stack(found) == wanted)[counted].mean()), int(counted.sum())


def main(arguments: Sequence[str]) -> None:
    """Train, measure, write."""
    if arguments:
        raise errors.UserError(str(__doc__).splitlines()[0])
    print(device.set_up(RuntimeOptions(distribute=False), PrecisionOptions())[1])
    ms.set_seed(SEED)
    np.random.seed(SEED)
    net = XCiT(**CONFIG, num_classes=CLASSES, in_channels=3, drop_path_rate=0.0)
    train(net)
    print("{:.2%} of {} patches right".format(*accuracy(net)))
    print(write({item.name: item.asnumpy() for item in net.get_parameters()}, NAME))


if __name__ == "__main__":
    errors.run(main)
