"""Recipe files with inheritance, and the command line that overrides them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, NoReturn, Sequence

import yaml

from mindvit.errors import UserError, nearest
from mindvit.recipe import FIELDS, SECTIONS, WITHOUT_EFFECT, Recipe, build, type_name

COMMAND_LINE = "command line"


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake is one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{COMMAND_LINE}: {message} (all options: --help)")


def positive(text: str) -> int:
    """An argument's whole number, at least 1."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def weights_arguments(parser: argparse.ArgumentParser) -> None:
    """The options with which a command is told of a trained network: see predictor.Predictor."""
    parser.add_argument("--ckpt_path", required=True, metavar="FILE", help="weights: a checkpoint of ours, or others by the authors' names")
    parser.add_argument("--model", metavar="NAME", help="the network (default: what the checkpoint says)")
    parser.add_argument("--take", metavar="KEY", help="which set of weights, model or ema, of a file that holds both "
                        "(default: the better in validation)")
    parser.add_argument("--classes", metavar="FILE", help="class names, one a line, or JSON (default: the checkpoint's; of 1,000 ImageNet-1K's, else numbers)")
    parser.add_argument("--device_target", choices=("auto", "Ascend", "GPU", "CPU"), default="auto", help="device (default: the best there is)")


def read_yaml(path: Path, asker: str = "") -> dict[str, Any]:
    """A YAML file's mapping; UserError if it is missing (`asker`: who wants it), not YAML or no mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = sorted(other.name for other in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise UserError(f"{asker}no recipe {path}{nearest(path.name, near)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read: {error}") from None
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
        inherited = read_recipe(path.parent / base, (*inside, path))
        values.update(inherited[0])
        origins.update(inherited[1])
    unknown = next((key for key in content if key not in FIELDS and key not in WITHOUT_EFFECT), None)
    if unknown is not None:
        raise UserError(f"{path}: unknown key {unknown!r}{nearest(unknown, FIELDS)} (all keys: python train.py --help)")
    values.update(content)
    origins.update(dict.fromkeys(content, str(path)))
    return values, origins


def parser(description: str, extra: Sequence[tuple[tuple[str, ...], dict[str, Any]]] = ()) -> argparse.ArgumentParser:
    """The command line: --config, one option a recipe key, and a command's `extra` arguments, which may take a key's option for something else."""
    result = Parser(description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    result.add_argument("-c", "--config", metavar="FILE", help="recipe; options after it override its keys")
    for flags, settings in extra:
        result.add_argument(*flags, **settings)
    groups = {name: result.add_argument_group(name, cls.__doc__) for name, cls in SECTIONS.items()}
    taken = {flag for flags, _ in extra for flag in flags}
    for key, (section, item, kind) in FIELDS.items():
        if f"--{key}" in taken:
            continue
        choices = f", one of {', '.join(map(str, item.metadata['choices']))}" if item.metadata["choices"] else ""
        text = f"{item.metadata['doc']} ({type_name(kind)}{choices}; default: {item.default})".replace("%", "%%")
        optional_value: dict[str, Any] = {"nargs": "?", "const": True} if kind is bool else {}
        groups[section].add_argument(f"--{key}", metavar="VALUE", help=text, **optional_value)
    return result


def parse(arguments: Sequence[str], description: str, extra: Sequence[tuple[tuple[str, ...], dict[str, Any]]] = ()) -> tuple[Recipe, dict[str, Any]]:
    """The recipe that a command line means, and the values of the command's `extra` arguments by name."""
    known, rest = parser(description, extra).parse_known_args(arguments)
    if rest:
        flags = [f"--{key}" for key in FIELDS]
        raise UserError(f"{COMMAND_LINE}: unknown argument {rest[0]!r}{nearest(rest[0].split('=')[0], flags)} (all options: --help)")
    given = vars(known)
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
