"""Released weights of any known origin into a file of ours, and ours into one that PyTorch's libraries load.

mindvit convert SOURCE [--model NAME] --out FILE.ckpt|.safetensors [--to timm|hf|paddlevit] [...]
"""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

from mindvit import errors
from mindvit.errors import UserError
from mindvit.version import __version__

if TYPE_CHECKING:
    from mindvit.models import ModelInfo
    from mindvit.recipe.commandline import Parser
    from mindvit.weights import Report
    from mindvit.weights.checkpoint_info import CheckpointInfo
    from mindvit.weights.readers import WeightsFile

OURS = "mindvit"
# what a checkpoint's metadata say of the run's state, whose tensors no conversion carries: kept under "run", so that
# the file isn't taken for one to resume from
RUN = ("epoch", "step", "steps", "global_batch", "pictures", "tally", "data", "best", "mindvit", "mindspore")
# what this command itself writes there; kept under "before" when a file is converted again
CONVERSION = ("names", "origin", "format", "source", "sha256", "report", "taken", "before")


def parser() -> Parser:
    """The command line."""
    from mindvit.recipe.commandline import Parser

    result = Parser(
        prog="mindvit convert",
        description="Read weights of any known origin, check them against a network, write them anew.",
    )
    result.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="PyTorch .pth, .safetensors, Paddle .pdparams, MindSpore .ckpt or .npz; the content tells",
    )
    result.add_argument(
        "--model", metavar="NAME", help="the network that the weights are for (default: what the file says)"
    )
    result.add_argument("--out", required=True, type=Path, metavar="FILE", help="a name in .ckpt or .safetensors")
    result.add_argument(
        "--to",
        default=OURS,
        metavar="WHOSE",
        help="names to write: mindvit (the authors'), pytorch (the same), timm, hf or paddlevit",
    )
    result.add_argument(
        "--take",
        metavar="KEY",
        help="which set of weights of a file that holds several: model, ema, or a PyTorch script's name, e.g. "
        "model_ema (default: the better in validation, if the file says so, else model)",
    )
    result.add_argument("--num_classes", type=int, metavar="N", help="classes of the head (default: the file's)")
    result.add_argument("--in_channels", type=int, metavar="N", help="channels of the input (default: the file's)")
    result.add_argument(
        "--img_size",
        nargs="+",
        metavar="PX",
        help="CrossViT: size that the network is built for, one or one a branch, as in 48,32 (default: the file's)",
    )
    result.add_argument("--features_only", action="store_true", help="no head: for backbones of detectors")
    result.add_argument("--new_head", action="store_true", help="leave the head at its initial values")
    result.add_argument(
        "--resize",
        action="store_true",
        help="interpolate position embeddings: to --img_size; without it, those of a file "
        "that isn't ours to the network's own size",
    )
    result.add_argument("--adapt_channels", action="store_true", help="fit the first convolutions to --in_channels")
    return result


def wanted_info(given: Namespace, told: CheckpointInfo, info: ModelInfo) -> CheckpointInfo:
    """What the written file says: what the source says, but for what the command line asks to be otherwise."""
    from mindvit.models.crossvit import branch_sizes
    from mindvit.recipe.schema import FIELDS, convert
    from mindvit.weights.checkpoint_info import IMAGENET, RGB

    size = told.img_size
    if given.img_size is not None:
        text = ",".join(given.img_size)
        try:
            size = convert(text, FIELDS["img_size"][2])
        except ValueError:
            raise UserError(f"--img_size is {text!r}, but must be an int, px, or two, one a branch: 48,32") from None
        if told.img_size and branch_sizes(size) != branch_sizes(told.img_size) and not given.resize:
            own = ",".join(map(str, branch_sizes(told.img_size)))
            raise UserError(
                f"--img_size is {text}, but the weights in {told.where} are for {own}: leave it out to keep them as "
                "they are (--resize interpolates their position embeddings, after which the network needs training)"
            )
    elif given.resize and not told.model:
        size = None
    classes, channels = given.num_classes or told.num_classes or IMAGENET, given.in_channels or told.in_channels or RGB
    has_trained_head = not (given.new_head or given.features_only)
    new = dataclasses.replace(
        told,
        model=info.name,
        img_size=size,
        in_channels=channels,
        num_classes=0 if given.features_only else classes,
        class_names=told.class_names if has_trained_head else (),
    )
    changed: dict[str, Any] = {"in_channels": channels} if channels != told.recipe.get("in_channels", RGB) else {}
    if size != told.img_size or (not told.recipe and new.has_own_size(info)):
        changed.update({"img_size": size, "image_resize": new.image_size})
    return dataclasses.replace(
        new, recipe={**told.recipe, **changed, "model": info.name} if told.recipe or changed else {}
    )


def metadata(content: WeightsFile, told: CheckpointInfo, report: Report, given: Namespace) -> dict[str, Any]:
    """What the written file says: all that the source says, and where it came from."""
    from mindvit.runtime.files import sha256

    meta = {key: value for key, value in content.meta.items() if key not in (*RUN, *CONVERSION)}
    run = {key: content.meta[key] for key in RUN if key in content.meta and "names" not in content.meta}
    before = {key: content.meta[key] for key in CONVERSION if key in content.meta}
    meta.update({"model": told.model, "num_classes": told.num_classes, "class_names": list(told.class_names)})
    meta.update(
        {
            **({"recipe": dict(told.recipe)} if told.recipe else {}),
            **({"run": run} if run else {}),
            **({"before": before} if before else {}),
        }
    )
    return {
        **meta,
        "names": given.to,
        "origin": report.origin or "unknown",
        "format": content.form,
        "source": given.source.name,
        "sha256": sha256(given.source),
        "taken": content.taken,
        "mindvit": __version__,
        "report": report.facts(),
    }


def main(arguments: Sequence[str]) -> None:
    """Convert and say what was done; UserError, and no file, if the weights don't fit."""
    command = parser()
    given = command.parse_args(arguments)
    with errors.hints_for(command.options()):
        convert(given)


def convert(given: Namespace) -> None:
    """As `main`, for parsed arguments."""
    from mindvit.inference import side_file  # takes seconds: not for --help
    from mindvit.models import create_model
    from mindvit.recipe.schema import build
    from mindvit.weights import names
    from mindvit.weights.checkpoint_info import RGB, CheckpointInfo
    from mindvit.weights.load import Wanted, fitted
    from mindvit.weights.readers import read
    from mindvit.weights.write import check_suffix, save_weights

    check_suffix(given.out)
    content = read(given.source, given.take)
    told = CheckpointInfo.of(content)
    info = told.classifier(given.model)
    choices = [OURS, *names.destinations(info.family)]
    if given.to not in choices:
        raise UserError(f"--to {given.to}: for {info.name} it must be one of {', '.join(choices)}")
    if given.to != OURS and given.out.suffix != ".safetensors":
        raise UserError(f"--to {given.to} writes .safetensors, which those libraries read, not {given.out.name}")
    told = wanted_info(given, told, info)
    net = create_model(
        info.name,
        told.num_classes or 0,
        told.in_channels or RGB,
        img_size=told.img_size,
        features_only=given.features_only,
    )
    wanted = Wanted(resize=given.resize, new_head=given.new_head, adapt_channels=given.adapt_channels, take=given.take)
    report, values = fitted(net, content, wanted)
    arrays = {
        item.name: values[item.name].astype("float32") if item.name in values else item.asnumpy()
        for item in net.get_parameters()
    }
    if given.to != OURS:
        arrays = names.outwards(arrays, names.origin(given.to, info.family)).arrays
    save_weights(given.out, arrays, metadata(content, told, report, given))
    print(f"{given.out}: {info.name}, names: {given.to}; from {content.form}: {report}")
    if given.to != OURS:
        augment = told.fill(build({}, {})).augment
        print(f"{side_file.write(given.out, side_file.contents(info, told, augment))}: classes and preprocessing")


if __name__ == "__main__":
    errors.run(main)
