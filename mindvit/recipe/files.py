"""Recipe files: YAML without surprises, and inheritance by `base:`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from mindvit.errors import UserError, nearest
from mindvit.recipe.names import base_path
from mindvit.recipe.schema import check_known


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
        content = yaml.load(path.read_text(encoding="utf-8"), Loader)  # a SafeLoader
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
        inherited = read_recipe(base_path(os.path.expanduser(base), path.parent), (*inside, path))
        values.update(inherited[0])
        origins.update(inherited[1])
    for key, value in content.items():
        check_known(key, value, str(path))
    values.update(content)
    origins.update(dict.fromkeys(content, str(path)))
    return values, origins
