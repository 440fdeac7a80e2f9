"""What `pretrained` means: weights by name, what ships, a repository on Hugging Face, a folder that was published, or
a file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Optional, Union

from mindvit.errors import UserError
from mindvit.hub import cache, huggingface
from mindvit.hub.huggingface import Missing
from mindvit.hub.shipped import is_shipped, shipped_file
from mindvit.hub.sources import HUB, ORIGINS, source_of
from mindvit.runtime import files

Pretrained = Union[None, bool, str, os.PathLike]
FILES = ("model.safetensors", "pytorch_model.bin")  # what a repository calls its weights, the preferred one first
CONFIG = "config.json"


def is_name(pretrained: Pretrained) -> bool:
    """Whether this asks for published weights of a network by its name: True, or an origin's word."""
    return pretrained is True or (isinstance(pretrained, str) and pretrained in ORIGINS)


def is_repository(place: object) -> bool:
    """Whether this is hf:OWNER/NAME."""
    return isinstance(place, str) and place.startswith(HUB)


def is_published(place: object) -> bool:
    """Whether this is hf:OWNER/NAME, or a folder that was published."""
    return is_repository(place) or (isinstance(place, (str, os.PathLike)) and (Path(place) / CONFIG).is_file())


def weights_file(pretrained: Pretrained, name: str) -> str:
    """The file that `pretrained` means for a network, fetched if it must be.

    Args:
        pretrained: True, an origin (timm, pytorch, ...), shipped:NAME, hf:OWNER/NAME, a folder or a file.
        name: the network's own name, no alias.

    Returns:
        A file's name; whether there is such a file is known only of those that were fetched.

    Raises:
        UserError: it can't be had.
    """
    if is_name(pretrained):
        return str(cache.locate(source_of(name, None if pretrained is True else str(pretrained))))
    return given_file(pretrained)  # type: ignore[arg-type]


def given_file(place: Union[str, os.PathLike]) -> str:
    """The file that a place means: shipped:NAME, hf:OWNER/NAME, a folder that was published, or a file, which is taken
    as it is.
    """
    place = os.fspath(place)
    if is_shipped(place):
        return str(shipped_file(place))
    if is_repository(place):
        return str(from_repository(place))
    return os.path.join(place, FILES[0]) if config_of(place) else place


def from_repository(place: str) -> Path:
    """The weights in hf:OWNER/NAME[@REVISION]. UserError if there are none under the usual names."""
    repository, revision = huggingface.split(place[len(HUB) :])
    for path in (_brought(repository, cache.folder()) / file for file in FILES):
        if path.is_file() and not revision:
            return path
    for file in FILES:
        try:
            return huggingface.fetch(repository, file, revision, cache.is_offline())
        except Missing as error:
            missing = error
    raise UserError(f"{missing}, nor {FILES[0]}") from None


def _brought(repository: str, root: Path) -> Path:
    """Where `mindvit download --to` puts a repository's files for a machine without a network."""
    return root / "hub" / repository.replace("/", "--")


def bring(place: str, root: Path) -> Path:
    """Copy weights and config.json of hf:OWNER/NAME into a folder that another machine takes as its cache; the weights.

    UserError if they can't be had, or the folder can't be written.
    """
    found = [from_repository(place)]
    repository, revision = huggingface.split(place[len(HUB) :])
    with contextlib.suppress(Missing):  # of a repository with weights alone, whose network is to be named
        found.append(huggingface.fetch(repository, CONFIG, revision, cache.is_offline()))
    for path in found:
        target = _brought(repository, root) / path.name
        with cache.told(root), files.atomic_write(target) as unfinished:
            shutil.copyfile(path, unfinished)
    return _brought(repository, root) / found[0].name


def config_of(place: str) -> Optional[Path]:
    """The config.json of a published folder or of hf:OWNER/NAME; None for a folder without one, and for what is no
    folder.
    """
    if is_repository(place):
        repository, revision = huggingface.split(place[len(HUB) :])
        brought = _brought(repository, cache.folder()) / CONFIG
        if brought.is_file() and not revision:
            return brought
        return huggingface.fetch(repository, CONFIG, revision, cache.is_offline())
    path = Path(place) / CONFIG
    return path if path.is_file() else None
