"""Recipe files with inheritance, and the command line that overrides them."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any, Collection, NoReturn, Sequence

import yaml

from mindvit.errors import UserError, nearest
from mindvit.recipe import FIELDS, MINDCV_REFUSED, SECTIONS, WITHOUT_EFFECT, Recipe, build, check_known, type_name

COMMAND_LINE = "command line"


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is one line, and a misspelt option is told the nearest.

    `~` at the start of an argument or of an option's value is expanded.
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
    """An argument's whole number, at least 1."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def weights_arguments(parser: argparse.ArgumentParser) -> None:
    """The options with which a command is told of a trained network: see predictor.Predictor."""
    parser.add_argument("--ckpt_path", required=True, metavar="FILE", help="weights: a checkpoint of ours, or others by the authors' names")
    parser.add_argument("--model", metavar="NAME", help="the network (default: what the checkpoint says)")
    parser.add_argument("--classes", metavar="FILE", help="class names, one a line (default: the checkpoint's, else numbers)")
    parser.add_argument("--device_target", choices=("auto", "Ascend", "GPU", "CPU"), default="auto", help="device (default: the best there is)")


class DuplicateKey(Exception):
    """A key that a mapping has twice."""


class Loader(yaml.SafeLoader):
    """YAML in which a plain scalar is what it looks like, and a key that is given twice is an error.

    PyYAML follows YAML 1.1: 010 is 8, 1:30 is 90, 2024_01 is 202401, on is True, 1.10 is 1.1. Here only a number that
    is written as Python writes it is one; all others stay strings, of which a recipe's keys make what they need. true,
    false, null and ~ are as ever.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("merge", r"^<<$", "<"),
    ("number", r"^[-+]?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?$", "-+0123456789"),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def _number(_: Loader, node: yaml.ScalarNode) -> Any:
    text = str(node.value)
    for kind in (int, float):
        try:
            if str(kind(text)) == text:
                return kind(text)
        except ValueError:
            continue
    return text


def _mapping(loader: Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            if key.value in lines:
                raise DuplicateKey(
                    f"{key.value} is given twice, in line {lines[key.value]} and in line {line}: keep one"
                )
            lines[key.value] = line
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


Loader.add_constructor("tag:yaml.org,2002:number", _number)
Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_yaml(path: Path, asker: str = "") -> dict[str, Any]:
    """A YAML file's mapping; UserError if it is missing (`asker`: who wants it), not YAML or no mapping."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)
    except FileNotFoundError:
        near = sorted(other.name for other in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise UserError(f"{asker}no recipe {path}{nearest(path.name, near)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read: {error}") from None
    except DuplicateKey as error:
        raise UserError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path}: must hold 'key: value' lines")
    return content


def read_recipe(path: Path, inside: tuple[Path, ...] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """Values and origins of a recipe file: those of its `base` files, in order, overridden by its own."""
    path = Path(os.path.normpath(path))  # a file has one name, however it is reached
    if path in inside:
        raise UserError(f"{path}: base: inherits from itself: {' -> '.join(map(str, (*inside, path)))}")
    content = read_yaml(path, f"{inside[-1]}: base: " if inside else "")
    bases = content.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: base is {bases!r}, but must be a file or a list of files, relative to this one")
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for base in bases:
        inherited = read_recipe(path.parent / os.path.expanduser(base), (*inside, path))
        values.update(inherited[0])
        origins.update(inherited[1])
    for key, value in content.items():
        check_known(key, value, str(path))
    values.update(content)
    origins.update(dict.fromkeys(content, str(path)))
    return values, origins


def parser(
    description: str, extra: Sequence[tuple[tuple[str, ...], dict[str, Any]]] = (), hidden: Collection[str] = ()
) -> Parser:
    """The command line: --config, one option a recipe key, and a command's `extra` arguments.

    extra: flags and settings of add_argument; they may take a key's option for something else.
    hidden: keys that are taken, but not listed by --help.
    """
    result = Parser(description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    result.add_argument("-c", "--config", metavar="FILE", help="recipe; options after it override its keys")
    for flags, settings in extra:
        result.add_argument(*flags, **settings)
    groups = {name: result.add_argument_group(name, cls.__doc__) for name, cls in SECTIONS.items()
              if any(home == name and key not in hidden for key, (home, _, _) in FIELDS.items())}
    taken = {flag for flags, _ in extra for flag in flags}
    for key, (section, item, kind) in FIELDS.items():
        if f"--{key}" in taken:
            continue
        choices = f", one of {', '.join(map(str, item.metadata['choices']))}" if item.metadata["choices"] else ""
        text = f"{item.metadata['doc']} ({type_name(kind)}{choices}; default: {item.default})".replace("%", "%%")
        optional_value: dict[str, Any] = {"nargs": "?", "const": True} if kind is bool else {}
        group = result if key in hidden else groups[section]
        group.add_argument(
            f"--{key}", metavar="VALUE", help=argparse.SUPPRESS if key in hidden else text, **optional_value
        )
    return result


def options(extra: Sequence[tuple[tuple[str, ...], dict[str, Any]]] = (), hidden: Collection[str] = ()) -> list[str]:
    """The options of such a command that mean something to it, by their names: all but the hidden ones."""
    return [option for option in parser("", extra, hidden).options() if option.lstrip("-") not in hidden]


def parse(arguments: Sequence[str], description: str, extra: Sequence[tuple[tuple[str, ...], dict[str, Any]]] = (),
          hidden: Collection[str] = ()) -> tuple[Recipe, dict[str, Any]]:
    """The recipe that a command line means, and the values of the command's `extra` arguments by name; see `parser`."""
    given = vars(parser(description, extra, hidden).parse_args(arguments))
    path = given.pop("config", None)
    values, origins = read_recipe(Path(path)) if path else ({}, {})
    overrides = {key: given.pop(key) for key in list(given) if key in FIELDS}
    values.update(overrides)
    origins.update(dict.fromkeys(overrides, COMMAND_LINE))
    return build(values, origins), {**given, "config": str(path) if path else None}


def describe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, each line with the file its value came from."""
    lines = []
    for key, value in recipe.flat().items():
        text = yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True, width=200)
        lines.append(f"{key}: {text.splitlines()[0]}".ljust(56) + f"  # {recipe.origins[key]}")
    return "\n".join(lines)


def without_effect(recipe: Recipe) -> str:
    """The MindCV keys that were given and change nothing, with reasons; an empty string if there are none."""
    given = [key for key in recipe.origins if key in WITHOUT_EFFECT]
    return "; ".join(f"{key} ({WITHOUT_EFFECT[key]})" for key in given)
