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
        help="images at once; dynamic: any number (default; of a segmentor 1)",
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
    if name and network_info(name).task == "detection":
        raise UserError(f"{name} is a detector, and those can't be exported yet: predict with mindvit predict")
    size_key = "crop_size" if name and network_info(name).task == "segmentation" else "image_resize"
    asked = {"model": given.model, size_key: given.size, "num_classes": given.num_classes}
    asked = {key: value for key, value in asked.items() if value is not None}
    recipe = told.fill(build(asked, dict.fromkeys(asked, COMMAND_LINE)))
    if size_key == "crop_size":
        return segmentor(recipe, told, content)
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


def segmentor(recipe: Recipe, told: CheckpointInfo, content: Any) -> tuple[Any, CheckpointInfo, Recipe]:
    """The same of a segmentor, for images of the size of its crops."""
    from mindvit.models import create_model
    from mindvit.runtime import platform
    from mindvit.tasks.segmentation.settings import check, crop_size, network_arguments
    from mindvit.weights import load_weights
    from mindvit.weights.checkpoint_info import RGB

    check(recipe)
    name, channels = recipe.model.model, told.in_channels or RGB
    classes = recipe.model.num_classes or told.num_classes
    net = create_model(name, classes, channels, 0.0, for_platform=platform.PORTABLE, **network_arguments(recipe))
    net.check_size(*crop_size(recipe))
    if content:
        print(f"weights from {content.where}: {load_weights(net, content)}")
    return net, dataclasses.replace(told, model=name, num_classes=net.num_classes, in_channels=channels), recipe


def main(arguments: Sequence[str]) -> None:
    """Export and say how far the file is from the network; exit code 2 for what the user can mend, 1 for a file that
    isn't right.
    """
    given = parser().parse_args(arguments)
    batch = batch_of(given.batch_size)
    from mindvit.data.classes import label_names  # takes seconds: not for --help
    from mindvit.inference import side_file
    from mindvit.inference.export import check, export
    from mindvit.inference.snippet import metadata, snippet
    from mindvit.recipe.options import PrecisionOptions, RuntimeOptions
    from mindvit.runtime import device

    check(given.format, given.out)
    device.set_up(RuntimeOptions(distribute=False), PrecisionOptions())
    with errors.hints_for(parser().options()):
        net, told, recipe = network(given)
    info = told.network(recipe.model.model)
    if info.task == "segmentation":
        from mindvit.tasks.segmentation.settings import crop_size

        content, batch = side_file.segmentor_contents(info, told, recipe, crop_size(recipe)), batch or 1
    else:
        content = side_file.contents(told.classifier(info.name), told, recipe.augment)
    content["label_names"] = list(label_names(told.class_names, content["num_classes"]))
    print(export(net, tuple(content["input_size"]), given.format, given.out, batch, metadata(content)))
    print(f"{side_file.write(given.out, content)}: classes and preprocessing, as in the file's own metadata")
    if given.format == "ONNX":
        print(f"to run it with onnxruntime, numpy and Pillow alone:\n\n{snippet(given.out, content, batch)}")


if __name__ == "__main__":
    errors.run(main)
