"""A network as one file for other programs, loaded again and compared before it is called done.

mindvit export --model NAME [--ckpt_path FILE] --format MINDIR|ONNX --out FILE [--batch_size N|dynamic] [--size PX]
"""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Sequence

from mindvit import errors
from mindvit.errors import UserError

if TYPE_CHECKING:
    from mindvit.recipe.commandline import Parser
    from mindvit.recipe.schema import Recipe
    from mindvit.weights.checkpoint_info import CheckpointInfo

DYNAMIC = "dynamic"
# the key that --size is, by task
SIZES = {"classification": "image_resize", "segmentation": "crop_size", "detection": "canvas"}


def parser() -> Parser:
    """The command line."""
    from mindvit.recipe.commandline import Parser, whose

    result = Parser(
        prog="mindvit export", description="Write a network as MindIR or ONNX, load the file again and compare."
    )
    result.add_argument("--model", metavar="NAME", help="the network (default: what the checkpoint says)")
    result.add_argument("--ckpt_path", metavar="FILE", help="its weights, of any origin (default: initial values)")
    result.add_argument(
        "--pretrained",
        nargs="?",
        type=whose,
        const=True,
        metavar="WHOSE",
        help="published weights, fetched by the network's name (of one source: timm, pytorch, hf or mmpretrain)",
    )
    result.add_argument(
        "--take",
        metavar="KEY",
        help="which set of weights, model or ema, of a file that holds both (default: the better in validation)",
    )
    result.add_argument(
        "--format", required=True, metavar="MINDIR|ONNX", help="ONNX needs the packages onnx and onnxruntime"
    )
    result.add_argument("--out", required=True, type=Path, metavar="FILE", help="a name in .mindir or .onnx")
    result.add_argument(
        "--batch_size",
        default=DYNAMIC,
        metavar="N|dynamic",
        help="images at once; dynamic: any number (default; of segmentors and detectors 1)",
    )
    result.add_argument(
        "--size", type=int, metavar="PX", help="side of the images (default: that of training, else the network's)"
    )
    result.add_argument(
        "--num_classes", type=int, metavar="N", help="classes of the head (default: the checkpoint's, else 1000)"
    )
    return result


def batch_of(text: str) -> Optional[int]:
    """--batch_size; None is any."""
    if text == DYNAMIC:
        return None
    if not text.isdigit() or not int(text):
        raise UserError(f"--batch_size is {text!r}, but must be an int of at least 1, or {DYNAMIC}")
    return int(text)


def network(given: Namespace) -> tuple[Any, CheckpointInfo, Recipe]:
    """The network with its weights, in the operators that all devices have; what its file says; its preprocessing."""
    from mindvit.data.preprocessing import Preprocessing
    from mindvit.hub.resolve import given_file, weights_file
    from mindvit.models import create_model, model_info, network_info
    from mindvit.recipe.commandline import COMMAND_LINE
    from mindvit.recipe.schema import build
    from mindvit.runtime import platform
    from mindvit.tasks.classification.sizes import sized
    from mindvit.weights import load_weights
    from mindvit.weights.checkpoint_info import IMAGENET, RGB, CheckpointInfo
    from mindvit.weights.readers import read

    path = given.ckpt_path and given_file(given.ckpt_path)
    if given.pretrained and given.model and not path:
        path = weights_file(given.pretrained, model_info(given.model).name)
    content = read(path, given.take) if path else None
    told = CheckpointInfo.of(content) if content else CheckpointInfo("")
    if not (given.model or content):
        raise UserError(
            "which network? --model NAME (all names: mindvit.list_models()), or --ckpt_path FILE of one that was "
            "trained here"
        )
    name = given.model or told.model
    size_key = SIZES[network_info(name).task] if name else "image_resize"
    asked = {"model": given.model, size_key: given.size, "num_classes": given.num_classes}
    asked = {key: value for key, value in asked.items() if value is not None}
    recipe = told.fill(build(asked, dict.fromkeys(asked, COMMAND_LINE)))
    if size_key != SIZES["classification"]:
        return dense(recipe, told, content)
    recipe = sized(recipe, told.where)
    info = told.classifier(recipe.model.model)
    classes, channels = given.num_classes or told.num_classes or IMAGENET, told.in_channels or RGB
    told = dataclasses.replace(told, model=info.name, num_classes=classes, in_channels=channels)
    net = create_model(info.name, classes, channels, 0.0, recipe.model.img_size, for_platform=platform.PORTABLE)
    size = Preprocessing(info, recipe.augment).size
    net.check_size(size, size)
    if content:
        print(f"weights from {content.where}: {load_weights(net, content, resize=given.size is not None)}")
    return net, told, recipe


def dense(recipe: Recipe, told: CheckpointInfo, content: Any) -> tuple[Any, CheckpointInfo, Recipe]:
    """The same of a segmentor or detector, for images of the size that it was trained on."""
    from mindvit.models import create_model
    from mindvit.runtime import platform
    from mindvit.tasks import task_of
    from mindvit.tasks.dense import DenseTask
    from mindvit.weights import load_weights
    from mindvit.weights.checkpoint_info import RGB

    task = task_of(recipe)
    assert isinstance(task, DenseTask)
    task.check(recipe)
    name, channels = recipe.model.model, told.in_channels or RGB
    classes = recipe.model.num_classes or told.num_classes
    arguments = task.network_arguments(recipe)
    net = create_model(name, classes, channels, 0.0, for_platform=platform.PORTABLE, **arguments)
    net.check_size(*task.size(recipe))
    if content:
        print(f"weights from {content.where}: {load_weights(net, content)}")
    return net, dataclasses.replace(told, model=name, num_classes=net.num_classes, in_channels=channels), recipe


def described(told: CheckpointInfo, recipe: Recipe) -> dict[str, Any]:
    """What the file says of itself."""
    from mindvit.data.classes import label_names
    from mindvit.inference import side_file
    from mindvit.inference.detector_export import INPUTS, OUTPUTS
    from mindvit.tasks import task_of
    from mindvit.tasks.dense import DenseTask
    from mindvit.tasks.detection.settings import has_masks

    info = told.network(recipe.model.model)
    if info.task == "classification":
        content = side_file.contents(told.classifier(info.name), told, recipe.augment)
    else:
        task = task_of(recipe)
        assert isinstance(task, DenseTask)
        content = side_file.dense_contents(info, told, recipe, task.size(recipe))
    if info.task == "detection":
        content.update(inputs=list(INPUTS), outputs=list(OUTPUTS if has_masks(recipe) else OUTPUTS[:-1]))
    content["label_names"] = list(label_names(told.class_names, content["num_classes"]))
    return content


def main(arguments: Sequence[str]) -> None:
    """Export and say how far the file is from the network; exit code 2 for what the user can mend, 1 for a file that
    isn't right.
    """
    given = parser().parse_args(arguments)
    batch = batch_of(given.batch_size)
    from mindvit.inference import side_file  # takes seconds: not for --help
    from mindvit.inference.detector_export import export_detector
    from mindvit.inference.export import check, export
    from mindvit.inference.snippet import metadata, snippet
    from mindvit.recipe.options import PrecisionOptions, RuntimeOptions
    from mindvit.runtime import device

    check(given.format, given.out)
    device.set_up(RuntimeOptions(distribute=False), PrecisionOptions())
    with errors.hints_for(parser().options()):
        net, told, recipe = network(given)
    content = described(told, recipe)
    image = tuple(content["input_size"])
    if content["task"] != "classification":
        batch = batch or 1
    if content["task"] != "detection":
        print(export(net, image, given.format, given.out, batch, metadata(content)))
    elif batch == 1:
        print(export_detector(net, image, given.format, given.out, metadata(content)))
    else:
        raise UserError(f"--batch_size is {batch}, but a detector's file takes one image: leave it out")
    print(f"{side_file.write(given.out, content)}: classes and preprocessing, as in the file's own metadata")
    if given.format == "ONNX":
        print(f"to run it with onnxruntime, numpy and Pillow alone:\n\n{snippet(given.out, content, batch)}")


if __name__ == "__main__":
    errors.run(main)
