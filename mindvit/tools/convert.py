"""Released weights of any known origin into a file of ours, and ours into one that PyTorch's libraries load.

python -m mindvit.tools.convert SOURCE --model NAME --out FILE.ckpt|.safetensors [--to mindvit|pytorch|timm|hf|paddlevit] [...]
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Sequence

from mindvit import errors
from mindvit.errors import UserError
from mindvit.version import __version__

if TYPE_CHECKING:
    from mindvit.commandline import Parser

OURS = "mindvit"


def parser() -> Parser:
    """The command line."""
    from mindvit.commandline import Parser

    result = Parser(prog="python -m mindvit.tools.convert", description="Read weights of any known origin, check them against a network, write them anew.")
    result.add_argument("source", type=Path, metavar="SOURCE", help="PyTorch .pth, .safetensors, Paddle .pdparams, MindSpore .ckpt or .npz; the content tells")
    result.add_argument("--model", required=True, metavar="NAME", help="the network that the weights are for")
    result.add_argument("--out", required=True, type=Path, metavar="FILE", help="a name in .ckpt or .safetensors")
    result.add_argument("--to", default=OURS, metavar="WHOSE", help="names to write: mindvit (the authors'), pytorch (the same), timm, hf or paddlevit")
    result.add_argument("--take", metavar="KEY", help="which set of weights of a PyTorch training checkpoint, e.g. model_ema (default: model)")
    result.add_argument("--num_classes", type=int, default=1000, metavar="N", help="classes of the head (default: 1000)")
    result.add_argument("--in_channels", type=int, default=3, metavar="N", help="channels of the input (default: 3)")
    result.add_argument("--img_size", type=int, metavar="PX", help="CrossViT: size that the network is built for")
    result.add_argument("--features_only", action="store_true", help="no head: for backbones of detectors")
    result.add_argument("--new_head", action="store_true", help="leave the head at its initial values")
    result.add_argument("--resize", action="store_true", help="interpolate position embeddings of another size")
    result.add_argument("--adapt_channels", action="store_true", help="fit the first convolutions to --in_channels")
    return result


def main(arguments: Sequence[str]) -> None:
    """Convert and say what was done; UserError, and no file, if the weights don't fit."""
    given = parser().parse_args(arguments)
    from mindvit.models import create_model, model_info  # takes seconds: not for --help
    from mindvit.weights import names
    from mindvit.weights.load import Wanted, fitted
    from mindvit.weights.readers import read
    from mindvit.weights.write import check_suffix, save_weights, sha256

    info = model_info(given.model)
    choices = [OURS, *names.destinations(info.family)]
    if given.to not in choices:
        raise UserError(f"--to {given.to}: for {info.name} it must be one of {', '.join(choices)}")
    check_suffix(given.out)
    if given.to != OURS and given.out.suffix != ".safetensors":
        raise UserError(f"--to {given.to} writes .safetensors, which those libraries read, not {given.out.name}")
    with errors.hints_for(parser().options()):
        content = read(given.source, given.take)
    size = {} if given.img_size is None else {"img_size": given.img_size}
    net = create_model(info.name, given.num_classes, given.in_channels, features_only=given.features_only, **size)
    wanted = Wanted(resize=given.resize, new_head=given.new_head, adapt_channels=given.adapt_channels, take=given.take)
    with errors.hints_for(parser().options()):
        report, values = fitted(net, content, wanted)
    arrays = {item.name: values[item.name].astype("float32") if item.name in values else item.asnumpy() for item in net.get_parameters()}
    if given.to != OURS:
        arrays = names.outwards(arrays, names.origin(given.to, info.family)).arrays
    meta = {"model": info.name, "names": given.to, "origin": report.origin or "unknown", "format": content.form, "source": given.source.name,
            "sha256": sha256(given.source), "mindvit": __version__, "report": report.facts()}
    save_weights(given.out, arrays, meta)
    print(f"{given.out}: {info.name}, names: {given.to}; from {content.form}: {report}")


if __name__ == "__main__":
    errors.run(main)
