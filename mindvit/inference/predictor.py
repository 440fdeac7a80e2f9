"""Predictions of a trained network for images from anywhere: files, Pillow's images, arrays."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, Iterator, Optional, Sequence, Union

import numpy as np
from mindspore import Tensor

from mindvit.data import decoding
from mindvit.data.classes import read_classes
from mindvit.data.decoding import DecodeError
from mindvit.data.loader import default_workers
from mindvit.data.preprocessing import Preprocessing
from mindvit.errors import EXIT_BAD_INPUT, UserError
from mindvit.hub import published
from mindvit.hub.resolve import given_file, is_name, is_published, weights_file
from mindvit.inference.batches import Batches, Prepared
from mindvit.inference.images import ImageLike, is_one, opened, size_of
from mindvit.layers.normalize import Normalize
from mindvit.layers.precision import set_precision
from mindvit.models import network_info
from mindvit.recipe.commandline import COMMAND_LINE
from mindvit.recipe.options import PrecisionOptions, RuntimeOptions
from mindvit.recipe.schema import build
from mindvit.runtime import device
from mindvit.tasks import task_of
from mindvit.tasks.base import Asked, RunContext
from mindvit.weights import WeightsError, load_weights
from mindvit.weights.checkpoint_info import CheckpointInfo
from mindvit.weights.load import taken
from mindvit.weights.readers import read

USUAL = Asked()


class Unreadable(UserError):
    """Some images couldn't be decoded; the others were answered."""

    def __init__(self, count: int, total: int):
        super().__init__(f"{count} of {total} images can't be decoded (named above)")
        self.exit_code = EXIT_BAD_INPUT if count == total else 1


class Predictor:
    """A trained network that says what is in images, prepared as they are for validation.

    A graph is compiled for each new size of batch; sizes are powers of two and batch_size, so there are few.

    Args:
        ckpt_path: a file with weights, a folder that was published, or hf:OWNER/NAME; True: the published weights of
            `model`, those whose accuracy is quoted; a word (timm, pytorch, hf, mmpretrain): those of a source.
        model: the network's name, needed where the file doesn't tell it (a checkpoint of ours does).
        classes: a file with a class name a line, in the order of the logits; by default those of the checkpoint, or
            else numbers.
        batch_size: most images that are computed at once.
        device_target: auto, Ascend, GPU or CPU.
        take: which set of weights, `model` or `ema` (their moving average), of a file that holds both; by default the
            one that scored better in validation.
        max_pixels: a larger image, width x height, is not decoded.

    Raises:
        UserError: weights that can't be had or don't fit, or a device that isn't there.
    """

    def __init__(
        self,
        ckpt_path: Union[bool, str, os.PathLike] = True,
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
        self.max_pixels, self.batch_size = max_pixels, batch_size
        path = _weights(ckpt_path, model)
        if model is None and is_published(ckpt_path):
            model = published.read(str(ckpt_path)).model
        self.file = os.path.basename(path)
        content = read(path, take)
        told = CheckpointInfo.of(content)
        recipe = told.fill(build({"model": model}, {"model": COMMAND_LINE}) if model else build({}, {}))
        task = task_of(recipe)
        recipe = task.resolve(recipe.replace(path, drop_path_rate=0.0), path)
        if not told.num_classes:
            raise UserError(
                f"{path} has no classifier, only what comes before it: train one on its weights "
                f"(train.py --ckpt_path {path} --new_head)"
            )
        names = tuple(told.class_names) if classes is None else _class_names(classes, told.num_classes)
        self.info = network_info(recipe.model.model)
        self.device, self._told = device.set_up(
            RuntimeOptions(device_target=device_target, distribute=False), PrecisionOptions()
        )
        ctx = RunContext(recipe, self.info, self.device, told.num_classes, default_workers(1), names)
        self.ctx, self.net, self.inference = ctx, task.network(ctx), task.inference(ctx)
        try:
            load_weights(self.net, content)
        except WeightsError as error:
            fitting = f"{self.info.name} with {ctx.num_classes} classes"
            raise UserError(f"{path} doesn't fit {fitting}: {error.report}") from None
        self.weights = f"weights: {taken(content)}; " if content.taken else ""
        set_precision(self.net, self.device.val_amp_level, self.device.half)
        self.net.set_train(False)
        self.normalize = Normalize(*ctx.inputs.statistics)
        self.step = self.inference.cell(self.net)
        self.batches = Batches(self.prepared, self._compute)

    def __str__(self) -> str:
        return f"{self.info.name}, {self.inference}; {self.weights}{self._told}"

    @property
    def preprocessing(self) -> Preprocessing:
        """How a classifier's images are prepared."""
        return self.ctx.preprocessing

    @property
    def class_names(self) -> tuple[str, ...]:
        """A name for each class."""
        return self.inference.class_names

    def __call__(
        self,
        images: Union[ImageLike, Sequence[ImageLike]],
        topk: int = Asked.topk,
        score_thr: float = Asked.score_thr,
    ) -> Any:
        """Say what is in an image, or in each of several.

        Args:
            images: an image or a list of them: a path, an image of Pillow's, or an array, uint8 (H, W), (H, W, 3) or
                (H, W, 4).
            topk: how many classes, of a classifier.
            score_thr: the least score, of a detector.

        Returns:
            The task's answer: a classifier's likeliest classes, [(name, probability), ...]; a segmentor's label map,
            (H, W) int32; a detector's `Found`: boxes (n, 4) float32, left, top, right, bottom in the image's own
            pixels, scores, labels, names and, where it has them, masks (n, H, W) bool. A list of such for a list of
            images.

        Raises:
            UserError: an image that can't be decoded.
        """
        single = is_one(images)
        several: Sequence[ImageLike] = [images] if single else images  # type: ignore[list-item, assignment]
        asked = Asked(topk, score_thr)
        answers = [self.answer(row, image, asked) for image, row in zip(several, self._outputs(several))]
        return answers[0] if single else answers

    def logits(self, images: Sequence[ImageLike]) -> np.ndarray:
        """(images, ...) float32, what the network gives for each. UserError for an image that can't be decoded."""
        rows = self._outputs(images)
        return np.stack(rows) if rows else np.zeros((0, len(self.class_names)), np.float32)

    def stream(self, images: Sequence[ImageLike]) -> Iterator[Prepared]:
        """For each image, in order, what the network gives or why it can't be decoded; threads decode ahead."""
        return self.batches.run(images, self.batch_size)

    def prepared(self, image: ImageLike) -> np.ndarray:
        """What the network sees of an image, before normalisation: uint8 (H, W, 3). DecodeError if it can't be
        decoded.
        """
        return self.inference.transform(opened(image, self.max_pixels))

    def normalised(self, images: np.ndarray) -> Tensor:
        """uint8 (B, H, W, 3) -> the network's input, float32 (B, 3, H, W)."""
        return self.normalize(Tensor(images))

    def answer(self, row: np.ndarray, image: ImageLike, asked: Asked = USUAL) -> Any:
        """What the task makes of an image's row of `stream`: see __call__."""
        asked = replace(asked, topk=max(asked.topk, 1))
        return self.inference.answer(row, asked, lambda: size_of(image, self.max_pixels))

    def _outputs(self, images: Sequence[ImageLike]) -> list[np.ndarray]:
        rows = []
        for row in self.stream(images):
            if isinstance(row, DecodeError):
                raise UserError(f"{row}; repair it or leave it out")
            rows.append(row)
        return rows

    def _compute(self, images: np.ndarray) -> np.ndarray:
        logits = self.step(Tensor(images)).asnumpy()
        if not np.isfinite(logits).all():
            raise UserError(
                f"{self.info.name} gives logits that are NaN or infinite: its weights are damaged, or its training "
                "diverged"
            )
        return logits


def _weights(ckpt_path: Union[bool, str, os.PathLike], model: Optional[str]) -> str:
    """The file with the weights, fetched if it is named. UserError if neither a file nor a network is."""
    if not is_name(ckpt_path):
        return given_file(ckpt_path)  # type: ignore[arg-type]
    if not model:
        raise UserError("which weights? --ckpt_path FILE, or --model NAME for published ones")
    return weights_file(ckpt_path, network_info(model).name)


def _class_names(file: Union[str, os.PathLike], count: int) -> tuple[str, ...]:
    """A file's. UserError if it can't be read or has another number."""
    names = read_classes(file).titles
    if len(names) != count:
        raise UserError(
            f"classes {file} has {len(names)} lines, but the network has {count} classes: one name a line, in the "
            "order of the logits"
        )
    return tuple(names)
