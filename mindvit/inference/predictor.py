"""Predictions of a trained network for images from anywhere: files, Pillow's images, arrays."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Iterator, Optional, Sequence, Union

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from PIL import Image

from mindvit.data import decoding
from mindvit.data.classes import IMAGENET, imagenet, read_classes
from mindvit.data.decoding import DecodeError, as_rgb, check_pixels, named, read_image
from mindvit.data.loader import default_workers
from mindvit.data.preprocessing import Preprocessing
from mindvit.errors import EXIT_BAD_INPUT, UserError
from mindvit.layers.normalize import Normalize
from mindvit.layers.precision import set_precision
from mindvit.models import create_model, model_info
from mindvit.recipe.commandline import COMMAND_LINE
from mindvit.recipe.options import PrecisionOptions, RuntimeOptions
from mindvit.recipe.schema import build
from mindvit.runtime import device
from mindvit.tasks.classification.predictions import likeliest
from mindvit.tasks.classification.sizes import sized
from mindvit.weights import WeightsError, load_weights
from mindvit.weights.checkpoint_info import CheckpointInfo
from mindvit.weights.load import taken
from mindvit.weights.readers import read

ImageLike = Union[str, os.PathLike, Image.Image, np.ndarray]
Answer = list[tuple[str, float]]  # class names and their probabilities, the likeliest first

AHEAD = 2  # batches that threads decode while another one is computed


class Unreadable(UserError):
    """Some images couldn't be decoded; the others were answered."""

    def __init__(self, count: int, total: int):
        super().__init__(f"{count} of {total} images can't be decoded (named above)")
        self.exit_code = EXIT_BAD_INPUT if count == total else 1


class Logits(nn.Cell):
    """uint8 images (B, H, W, 3) -> logits (B, num_classes) float32: what validation sees of the same images."""

    def __init__(self, net: nn.Cell, mean: Sequence[float], std: Sequence[float]):
        super().__init__(auto_prefix=False)
        self.normalize = Normalize(mean, std)
        self.net = net

    def construct(self, images: Tensor) -> Tensor:
        return self.net(self.normalize(images)).astype(ms.float32)


class Predictor:
    """A trained network that names what is in images, prepared as they are for validation.

    A graph is compiled for each new size of batch; sizes are powers of two and batch_size, so there are few.

    Args:
        ckpt_path: the weights.
        model: the network's name, needed where the file doesn't tell it (a checkpoint of ours does).
        classes: a file with a class name a line, in the order of the logits; by default those of the checkpoint, or
            else numbers.
        batch_size: most images that are computed at once.
        device_target: auto, Ascend, GPU or CPU.
        take: which set of weights, `model` or `ema` (their moving average), of a file that holds both; by default the
            one that scored better in validation.
        max_pixels: a larger image, width x height, is not decoded.

    Raises:
        UserError: weights that don't fit, or a device that isn't there.
    """

    def __init__(
        self,
        ckpt_path: Union[str, os.PathLike],
        model: Optional[str] = None,
        classes: Union[str, os.PathLike, None] = None,
        batch_size: int = 32,
        device_target: str = "auto",
        take: Optional[str] = None,
        max_pixels: int = decoding.MAX_PIXELS,
    ):
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}, but must be at least 1")
        decoding.allow(max_pixels)
        self.max_pixels = max_pixels
        path = str(ckpt_path)
        content = read(path, take)
        told = CheckpointInfo.of(content)
        recipe = sized(told.fill(build({"model": model}, {"model": COMMAND_LINE}) if model else build({}, {})), path)
        if not told.num_classes:
            raise UserError(
                f"{path} has no classifier, only what comes before it: train one on its weights "
                f"(train.py --ckpt_path {path} --new_head)"
            )
        count = told.num_classes
        self.info = model_info(recipe.model.model)
        self.class_names = _class_names(count, told.class_names, classes)
        self.preprocessing = Preprocessing(self.info, recipe.augment)
        self.batch_size = batch_size
        self.device, self._told = device.set_up(
            RuntimeOptions(device_target=device_target, distribute=False), PrecisionOptions()
        )
        self.net = create_model(self.info.name, count, img_size=recipe.model.img_size, drop_path_rate=0.0)
        try:
            load_weights(self.net, content)
        except WeightsError as error:
            raise UserError(f"{path} doesn't fit {self.info.name} with {count} classes: {error.report}") from None
        self.weights = f"weights: {taken(content)}; " if content.taken else ""
        set_precision(self.net, self.device.val_amp_level, self.device.half)
        self.net.set_train(False)
        self.step = Logits(self.net, *self.preprocessing.statistics)
        self.compiled: set[int] = set()  # sizes of batches

    def __str__(self) -> str:
        named = self.class_names == imagenet().columns[1]
        whose = " (named as ImageNet-1K's, since the file doesn't name them)" if named else ""
        what = f"{self.info.name}, {self.preprocessing.size} px, {len(self.class_names)} classes{whose}"
        return f"{what}; {self.weights}{self._told}"

    def __call__(self, images: Union[ImageLike, Sequence[ImageLike]], topk: int = 5) -> Any:
        """Name what is in an image, or in each of several.

        Args:
            images: an image or a list of them: a path, an image of Pillow's, or an array, uint8 (H, W), (H, W, 3) or
                (H, W, 4).
            topk: how many classes.

        Returns:
            The likeliest classes, [(name, probability), ...]; a list of such for a list of images.

        Raises:
            UserError: an image that can't be decoded.
        """
        single = isinstance(images, (str, os.PathLike, Image.Image)) or (
            isinstance(images, np.ndarray) and images.ndim < 4
        )
        logits = self.logits([images] if single else images)  # type: ignore[list-item, arg-type]
        answers = [self.best(row, topk) for row in logits]
        return answers[0] if single else answers

    def logits(self, images: Sequence[ImageLike]) -> np.ndarray:
        """(images, num_classes) float32. UserError for an image that can't be decoded."""
        rows = []
        for row in self.stream(images):
            if isinstance(row, DecodeError):
                raise UserError(f"{row}; repair it or leave it out")
            rows.append(row)
        return np.stack(rows) if rows else np.zeros((0, len(self.class_names)), np.float32)

    def stream(self, images: Sequence[ImageLike]) -> Iterator[Union[np.ndarray, DecodeError]]:
        """For each image, in order, its logits (num_classes,) or why it can't be decoded; threads decode ahead."""
        pool = ThreadPoolExecutor(default_workers(1), thread_name_prefix="images")
        pending: deque[list[Future[Union[np.ndarray, DecodeError]]]] = deque()
        try:
            for start in range(0, len(images), self.batch_size):
                pending.append(
                    [pool.submit(self._prepared_or_bad, image) for image in images[start : start + self.batch_size]]
                )
                if len(pending) > AHEAD:
                    yield from self._computed(pending.popleft())
            while pending:
                yield from self._computed(pending.popleft())
        finally:  # also when the caller leaves early
            pool.shutdown(cancel_futures=True)

    def prepared(self, image: ImageLike) -> np.ndarray:
        """What the network sees of an image, before normalisation: uint8 (size, size, 3). DecodeError if it can't be
        decoded.
        """
        return self.preprocessing.transform(opened(image, self.max_pixels))

    def normalised(self, images: np.ndarray) -> Tensor:
        """uint8 (B, size, size, 3) -> the network's input, float32 (B, 3, size, size)."""
        return self.step.normalize(Tensor(images))

    def best(self, logits: np.ndarray, topk: int = 5) -> Answer:
        """The classes with the largest of these logits (num_classes,), by name, with their probabilities; ties by
        class number.
        """
        return likeliest(logits, self.class_names, max(topk, 1))

    def _prepared_or_bad(self, image: ImageLike) -> Union[np.ndarray, DecodeError]:
        try:
            return self.prepared(image)
        except DecodeError as error:
            return error

    def _computed(
        self, futures: Sequence[Future[Union[np.ndarray, DecodeError]]]
    ) -> Iterator[Union[np.ndarray, DecodeError]]:
        found = [future.result() for future in futures]
        images = [item for item in found if not isinstance(item, DecodeError)]
        rows = iter(self._run(np.stack(images)) if images else ())
        for item in found:
            yield item if isinstance(item, DecodeError) else next(rows)

    def _run(self, images: np.ndarray) -> np.ndarray:
        count = len(images)
        size = min(
            (known for known in self.compiled if known >= count),
            default=min(self.batch_size, 1 << (count - 1).bit_length()),
        )
        self.compiled.add(size)
        logits = self.step(Tensor(np.concatenate((images, np.repeat(images[-1:], size - count, 0))))).asnumpy()[:count]
        if not np.isfinite(logits).all():
            raise UserError(
                f"{self.info.name} gives logits that are NaN or infinite: its weights are damaged, or its training "
                "diverged"
            )
        return logits


def opened(image: ImageLike, max_pixels: int = decoding.MAX_PIXELS) -> Image.Image:
    """An image from anywhere as RGB, 8 bits. DecodeError for one that can't be decoded or is too large, UserError for
    an array that is no image.
    """
    if isinstance(image, Image.Image):
        with named(str(getattr(image, "filename", "")) or "given as an image"):
            check_pixels(image.size, max_pixels)
            return as_rgb(image)
    if not isinstance(image, np.ndarray):
        return read_image(os.fspath(image), max_pixels)
    if (
        image.dtype != np.uint8
        or 0 in image.shape
        or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4)))
    ):
        raise UserError(
            f"an array of {image.dtype}, shape {image.shape}, is no image: give uint8, 0 to 255, of shape (H, "
            "W), (H, W, 3) or (H, W, 4)"
        )
    return as_rgb(Image.fromarray(image))


def _class_names(count: int, known: Sequence[str], file: Union[str, os.PathLike, None]) -> tuple[str, ...]:
    """A name for each class: those of a file, or those known, the rest by number; of 1,000 that nobody names,
    ImageNet-1K's.

    UserError for a file that can't be read or has another number.
    """
    if file is None and count == IMAGENET and not known:
        return imagenet().columns[1]
    if file is None:
        return (*known, *map(str, range(len(known), count)))
    names = read_classes(file).titles
    if len(names) != count:
        raise UserError(
            f"classes {file} has {len(names)} lines, but the network has {count} classes: one name a line, in the "
            "order of the logits"
        )
    return names
