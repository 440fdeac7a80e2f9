"""Recipe files with inheritance, and the command line that overrides them."""

from __future__ import annotations

import argparse
import os
import sys
import typing
from pathlib import Path
from typing import Any, Collection, NoReturn, Optional, Sequence

import yaml

from mindvit.errors import UserError, nearest
from mindvit.hub.sources import HUB, ORIGINS
from mindvit.recipe.files import read_recipe
from mindvit.recipe.names import recipe_path
from mindvit.recipe.options import DataOptions
from mindvit.recipe.schema import FIELDS, MINDCV_REFUSED, SECTIONS, WITHOUT_EFFECT, Recipe, build, type_name
from mindvit.runtime.files import printable

COMMAND_LINE = "command line"


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is one line, a misspelt option is told the nearest, and `~` at the start of an argument
    or of an option's value is expanded.
    """

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{COMMAND_LINE}: {message} (all options: --help)")

    def options(self) -> list[str]:
        """All options by their names, as one writes them."""
        return list(self._option_string_actions)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; `~` is expanded as a shell does at the start of a word, and here also after --option=."""
        words = [str(word) for word in (sys.argv[1:] if args is None else args)]
        return super().parse_known_args([expanded(word) for word in words], namespace)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; UserError with the nearest option for one that there isn't."""
        known, rest = self.parse_known_args(args, namespace)
        if rest:
            raise UserError(
                f"{COMMAND_LINE}: unknown argument {rest[0]!r}{self.nearest(rest[0])} (all options: --help)"
            )
        return known

    def nearest(self, word: str) -> str:
        """What may have been meant by a word that is no option."""
        key = word.split("=")[0].lstrip("-")
        if key in MINDCV_REFUSED:
            return f", a key of MindCV's that is not taken: {MINDCV_REFUSED[key]}"
        if key in WITHOUT_EFFECT:
            return f", a key of MindCV's that changes nothing here ({WITHOUT_EFFECT[key]}): leave it out"
        return nearest(word.split("=")[0], self.options())


def expanded(word: str) -> str:
    """An argument with the home folder for `~` or `~user` at its start or after --option=."""
    option, equals, value = word.partition("=")
    return f"{option}={os.path.expanduser(value)}" if equals and option.startswith("-") else os.path.expanduser(word)


def positive(text: str) -> int:
    """An argument's int, at least 1."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not an int of at least 1")
    return int(text)


def share(text: str) -> float:
    """An argument's float, 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def whose(text: str) -> str:
    """An argument's source of published weights."""
    if text not in ORIGINS and not text.startswith(HUB):
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(ORIGINS)}, nor hf:OWNER/NAME")
    return text


def weights_arguments(parser: argparse.ArgumentParser) -> None:
    """The options with which a command is told of a trained network: see predictor.Predictor."""
    parser.add_argument(
        "--ckpt_path",
        metavar="FILE",
        help="weights: a checkpoint of ours or of others, a published folder, or hf:OWNER/NAME (default: the published "
        "ones of --model)",
    )
    parser.add_argument("--model", metavar="NAME", help="the network (default: what the checkpoint says)")
    parser.add_argument(
        "--pretrained",
        nargs="?",
        type=whose,
        const=True,
        default=True,
        metavar="WHOSE",
        help="without --ckpt_path: published weights of one source, timm, pytorch, hf or mmpretrain (default: those "
        "whose accuracy is quoted)",
    )
    parser.add_argument(
        "--take",
        metavar="KEY",
        help="which set of weights, model or ema, of a file that holds both (default: the better in validation)",
    )
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="class names, one a line, or JSON (default: the checkpoint's; of 1,000 ImageNet-1K's, else numbers)",
    )
    parser.add_argument(
        "--device_target",
        choices=("auto", "Ascend", "GPU", "CPU"),
        default="auto",
        help="device (default: the best there is)",
    )


def max_pixels_argument(parser: argparse.ArgumentParser) -> None:
    """The option for how large an image may be: the recipe key of that name."""
    parser.add_argument(
        "--max_pixels",
        type=positive,
        default=DataOptions.max_pixels,
        metavar="N",
        help=f"largest image that is decoded, width x height (default: {DataOptions.max_pixels})",
    )


Extra = Sequence[tuple[tuple[str, ...], dict[str, Any]]]


def parser(description: str, extra: Extra = (), hidden: Collection[str] = (), prog: Optional[str] = None) -> Parser:
    """The command line: --config, one option a recipe key, and a command's `extra` arguments, which may take a key's
    option for something else.

    hidden: keys that are taken, but not listed by --help. prog: the command's name in its help (None: the script's).
    """
    result = Parser(prog=prog, description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    result.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        help="recipe: a YAML file, or the name of one that ships with mindvit; options after it override its keys",
    )
    for flags, settings in extra:
        result.add_argument(*flags, **settings)
    groups = {
        name: result.add_argument_group(name, cls.__doc__)
        for name, cls in SECTIONS.items()
        if any(home == name and key not in hidden for key, (home, _, _) in FIELDS.items())
    }
    taken = {flag for flags, _ in extra for flag in flags}
    for key, (section, item, kind) in FIELDS.items():
        if f"--{key}" in taken:
            continue
        choices = f", one of {', '.join(map(str, item.metadata['choices']))}" if item.metadata["choices"] else ""
        text = f"{item.metadata['doc']} ({type_name(kind)}{choices}; default: {item.default})".replace("%", "%%")
        is_switch = kind is bool or bool in typing.get_args(kind)
        optional_value: dict[str, Any] = {"nargs": "?", "const": True} if is_switch else {}
        group = result if key in hidden else groups[section]
        group.add_argument(
            f"--{key}", metavar="VALUE", help=argparse.SUPPRESS if key in hidden else text, **optional_value
        )
    return result


def options(extra: Extra = (), hidden: Collection[str] = ()) -> list[str]:
    """The options of such a command that mean something to it, by their names: all but the hidden ones."""
    return [option for option in parser("", extra, hidden).options() if option.lstrip("-") not in hidden]


def parse(
    arguments: Sequence[str],
    description: str,
    extra: Extra = (),
    hidden: Collection[str] = (),
    prog: Optional[str] = None,
) -> tuple[Recipe, dict[str, Any]]:
    """The recipe that a command line means.

    Args:
        arguments: its words, without the program's name.
        description: of the command, for --help.
        extra: the command's own arguments: flags and argparse's settings of each.
        hidden: keys that are taken, but not listed by --help.
        prog: the command's name in its help; None: the script's.

    Returns:
        The recipe, and the values of the `extra` arguments by name, with "config", the recipe's file or None.

    Raises:
        UserError: an unknown option or key, a value that is not accepted, a file that can't be read.
    """
    given = vars(parser(description, extra, hidden, prog).parse_args(arguments))
    name = given.pop("config", None)
    path = recipe_path(os.path.expanduser(name)) if name else None
    values, origins = read_recipe(path) if path else ({}, {})
    overrides = {key: given.pop(key) for key in list(given) if key in FIELDS}
    values.update(overrides)
    origins.update(dict.fromkeys(overrides, COMMAND_LINE))
    return build(values, origins), {**given, "config": str(Path(name)) if name else None}


def describe(recipe: Recipe, changed: bool = False) -> str:
    """The resolved recipe as YAML, each line with the file its value came from; `changed`: only what differs from the
    defaults.
    """
    lines = []
    for key, value in (recipe.changed() if changed else recipe.flat()).items():
        text = yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True, width=200)
        lines.append(f"{key}: {text.splitlines()[0]}".ljust(56) + f"  # {recipe.origins[key]}")
    return printable("\n".join(lines))


def without_effect(recipe: Recipe) -> str:
    """The MindCV keys that were given and change nothing, with reasons; an empty string if there are none."""
    given = [key for key in recipe.origins if key in WITHOUT_EFFECT]
    return "; ".join(f"{key} ({WITHOUT_EFFECT[key]})" for key in given)
