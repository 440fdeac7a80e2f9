"""Recipe files, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Union

import pytest
import yaml

from mindvit.errors import UserError
from mindvit.recipe.commandline import parse
from mindvit.recipe.schema import Recipe


def write(folder: Path, **files: Union[str, dict[str, Any]]) -> Path:
    """Files name.yaml in `folder`, of YAML text or a mapping; the path of the last."""
    for name, content in files.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), "utf-8")
    return path


def read(path: Path, *arguments: str) -> Recipe:
    """The recipe that a file and options mean."""
    return parse(["--config", str(path), *arguments], "")[0]


def refused(*arguments: Union[str, Path]) -> str:
    """The one line that a command line is refused with."""
    with pytest.raises(UserError) as caught:
        parse([str(argument) for argument in arguments], "")
    assert "\n" not in str(caught.value)
    return str(caught.value)
