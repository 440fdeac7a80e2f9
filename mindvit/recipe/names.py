"""The recipes that ship with mindvit, by name: `--config crossvit_9_ascend` works in any folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

import mindvit
from mindvit.errors import UserError, nearest

SUFFIX = ".yaml"
SHARED = "_base"  # folder of what recipes share: no recipe by itself


def configs_folder() -> Path:
    """The folder of the recipes that ship: configs/ of a checkout, mindvit/configs of an installed package."""
    package = Path(mindvit.__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of every recipe that ships, in order; a name is family/variant, e.g. crossvit/crossvit_9_ascend."""
    root = configs_folder()
    files = sorted(path for path in root.rglob(f"*{SUFFIX}") if SHARED not in path.relative_to(root).parts)
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in files}


def recipe_path(given: str) -> Path:
    """The file of a recipe, given by a path or by a name.

    Args:
        given: a path, which wins if it exists; or family/variant or variant alone, with or without configs/ before
            and .yaml after it.

    Returns:
        The file. A missing file by an absolute path, or in a folder that exists, is returned as it is: who reads it
        says so.

    Raises:
        UserError: there is neither such a file nor such a recipe (the message lists the nearest names), or there are
            several recipes of this name.
    """
    path = Path(given)
    if path.exists() and not path.is_dir():
        return path
    found = _called(given)
    if found:
        return found
    if path.is_absolute() or (path.parent != Path() and path.parent.is_dir()):
        return path
    name = _bare(given)
    names = [recipe if "/" in name else recipe.rpartition("/")[2] for recipe in shipped_recipes()]
    near = nearest(name, [*names, *(other.stem for other in Path().glob(f"*{SUFFIX}"))])
    raise UserError(f"no recipe {given}: neither a file nor the name of a recipe that ships with mindvit{near}")


def base_path(base: str, folder: Path) -> Path:
    """The file that a recipe in `folder` means by `base: BASE`: a path relative to `folder`, else the name of a recipe
    that ships.

    A base that is neither is returned as a path: who reads it says that it is missing.
    """
    beside = folder / base
    return beside if beside.is_file() else _called(base) or beside


def _bare(given: str) -> str:
    name = given[len("configs/") :] if given.startswith("configs/") else given
    return name[: -len(SUFFIX)] if name.endswith(SUFFIX) else name


def _called(given: str) -> Optional[Path]:
    """The recipe of this name; None if there is none. UserError if there are several."""
    recipes, name = shipped_recipes(), _bare(given)
    found = [recipe for recipe in recipes if name in (recipe, recipe.rpartition("/")[2])]
    if len(found) > 1:
        raise UserError(f"several recipes are called {given}: {', '.join(found)} (give one of these names)")
    return _short(recipes[found[0]]) if found else None


def _short(path: Path) -> Path:
    # as it would be typed in a checkout's root: run logs and tables of results show it
    here = Path(os.path.realpath(path)), Path(os.path.realpath(Path.cwd()))
    return here[0].relative_to(here[1]) if here[1] in here[0].parents else path
