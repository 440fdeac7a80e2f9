"""mindvit COMMAND ...: one name for all commands, from any folder.

Nothing heavy is imported here: `mindvit --help` and `mindvit COMMAND --help` answer without MindSpore.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import NoReturn, Sequence

from mindvit import environment, errors
from mindvit.errors import UserError, nearest
from mindvit.version import __version__

HELP = ("-h", "--help")


@dataclass(frozen=True)
class Command:
    """A command.

    module: its `main(arguments)` runs it. summary: what it does, in a few words. needs_libraries: MindSpore and others.
    """

    module: str
    summary: str
    needs_libraries: bool = True


COMMANDS = {
    "train": Command("mindvit.cli.train", "train a model as a recipe says"),
    "validate": Command("mindvit.cli.validate", "measure the accuracy of a checkpoint"),
    "predict": Command("mindvit.cli.predict", "name what is in images"),
    "attention": Command("mindvit.cli.attention", "draw what a model's attention looks at"),
    "serve": Command("mindvit.cli.serve", "show a page in the browser that says what is in images, and JSON"),
    "report": Command("mindvit.cli.report", "curves and results of runs on one HTML page"),
    "losses": Command("mindvit.cli.losses", "compare the losses of two runs, as of a CPU and an NPU", False),
    "convert": Command("mindvit.cli.convert", "convert weights from and to PyTorch, timm, transformers, PaddleViT"),
    "download": Command("mindvit.cli.download", "fetch published weights by the networks' names", False),
    "publish": Command("mindvit.cli.publish", "write a run's model as hubs want it: weights, config, model card"),
    "export": Command("mindvit.cli.export", "write a model as MindIR or ONNX and check the file"),
    "benchmark": Command("mindvit.cli.benchmark", "measure the speed of models or of the data pipeline"),
    "census": Command("mindvit.cli.census", "count operators and multiply-adds of compiled models"),
    "prepare": Command("mindvit.cli.prepare", "pack a data set into MindRecord files, or unpack official archives"),
    "inspect-data": Command("mindvit.cli.inspect_data", "find faults and duplicates in a data set, preview batches"),
    "config": Command("mindvit.cli.config", "print a resolved recipe and where each value comes from"),
    "doctor": Command(
        "mindvit.cli.doctor", "print versions, devices, kernels and caches, for a bug report", needs_libraries=False
    ),
    "completion": Command(
        "mindvit.cli.completion", "print a script that completes commands and options in bash or zsh"
    ),
}


def overview() -> str:
    """What `mindvit --help` prints."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items())
    return (
        f"usage: mindvit COMMAND [...]\n\nVision transformers with MindSpore (mindvit {__version__}).\n\n"
        f"commands:\n{commands}\n\noptions:\n"
        "  -h, --help  this help; mindvit COMMAND --help explains a command\n"
        "  --version   the version of mindvit"
    )


def main(arguments: Sequence[str]) -> None:
    """Call the command that the first argument names with the others; UserError for anything that the user can mend."""
    name = arguments[0] if arguments else HELP[0]
    if name in HELP:
        print(overview())
        return
    if name == "--version":
        print(f"mindvit {__version__}")
        return
    if name not in COMMANDS:
        what = "option" if name.startswith("-") else "command"
        raise UserError(f"mindvit has no {what} {name!r}{nearest(name, COMMANDS)} (all commands: mindvit --help)")
    command, rest = COMMANDS[name], arguments[1:]
    if command.needs_libraries and not any(word in HELP for word in rest):
        environment.check()
    importlib.import_module(command.module).main(rest)


def run() -> NoReturn:
    """The command `mindvit`, and `python -m mindvit`."""
    errors.run(main, checked=False)
