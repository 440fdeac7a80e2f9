"""A network as one file for other programs, loaded again and compared before it is called done.

python -m mindvit.tools.export --model NAME [--ckpt_path FILE] --format MINDIR|ONNX --out FILE [--batch_size N|dynamic] [--size PX]
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Sequence

from mindvit import errors
from mindvit.errors import UserError

if TYPE_CHECKING:
    from mindvit.commandline import Parser

DYNAMIC = "dynamic"


def parser() -> Parser:
    """The command line."""
    from mindvit.commandline import Parser

    result = Parser(prog="python -m mindvit.tools.export", description="Write a network as MindIR or ONNX, load the file again and compare.")
    result.add_argument("--model", metavar="NAME", help="the network (default: what the checkpoint says)")
    result.add_argument("--ckpt_path", metavar="FILE", help="its weights, of any origin (default: initial values)")
    result.add_argument("--take", metavar="KEY", help="which set of weights of a PyTorch training checkpoint (default: model)")
    result.add_argument("--format", required=True, metavar="MINDIR|ONNX", help="ONNX needs the packages onnx and onnxruntime")
    result.add_argument("--out", required=True, type=Path, metavar="FILE", help="a name in .mindir or .onnx")
    result.add_argument("--batch_size", default=DYNAMIC, metavar="N|dynamic", help="pictures at once; dynamic: any number (default)")
    result.add_argument("--size", type=int, metavar="PX", help="side of the pictures (default: that of training, else the network's)")
    result.add_argument("--num_classes", type=int, metavar="N", help="classes of the head (default: the checkpoint's, else 1000)")
    return result


def batch_of(text: str) -> Optional[int]:
    """--batch_size; None is any."""
    if text == DYNAMIC:
        return None
    if not text.isdigit() or not int(text):
        raise UserError(f"--batch_size is {text!r}, but must be a whole number of at least 1, or {DYNAMIC}")
    return int(text)


def network(given: Namespace) -> tuple[Any, int]:
    """The network with its weights, in the operators that all devices have, and the side of its pictures."""
    from mindvit.commandline import COMMAND_LINE
    from mindvit.models import create_model, model_info
    from mindvit.recipe import build
    from mindvit.setting import sized
    from mindvit.tools.census import without_workarounds
    from mindvit.weights import load_weights
    from mindvit.weights.readers import read

    content = read(given.ckpt_path, given.take) if given.ckpt_path else None
    meta = content.meta if content else {}
    name = given.model or meta.get("model")
    if name is None:
        raise UserError("which network? --model NAME (all names: mindvit.list_models()), or --ckpt_path FILE of one that was trained here")
    info, trained = model_info(name), meta.get("recipe", {})
    classes = given.num_classes or trained.get("num_classes") or len(meta.get("class_names", ())) or 1000
    recipe = build(
        {"model": info.name, **{key: trained[key] for key in ("image_resize", "img_size") if key in trained}},
        dict.fromkeys(("image_resize", "img_size"), str(given.ckpt_path)),
    )
    recipe = sized(
        recipe if given.size is None else recipe.replace(COMMAND_LINE, image_resize=given.size), str(given.ckpt_path)
    )
    with without_workarounds():
        net = create_model(info.name, classes, drop_path_rate=0.0, img_size=recipe.model.img_size)
    size = recipe.augment.image_resize or info.input_size
    net.check_size(size, size)
    if content:
        print(f"weights from {content.where}: {load_weights(net, content, resize=given.size is not None)}")
    return net, size


def main(arguments: Sequence[str]) -> None:
    """Export and say how far the file is from the network; exit code 2 for what the user can mend, 1 for a file that isn't right."""
    given = parser().parse_args(arguments)
    batch = batch_of(given.batch_size)
    from mindvit import device  # takes seconds: not for --help
    from mindvit.export import check, export
    from mindvit.recipe import PrecisionOptions, RuntimeOptions

    check(given.format, given.out)
    device.set_up(RuntimeOptions(distribute=False), PrecisionOptions())
    with errors.hints_for(parser().options()):
        net, size = network(given)
    print(export(net, 3, size, given.format, given.out, batch))


if __name__ == "__main__":
    errors.run(main)
