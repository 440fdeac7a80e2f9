"""Files of repositories on Hugging Face, by its own library: its cache, its mirror (HF_ENDPOINT), its offline switch.

The library is imported when it is needed; `pip install 'mindvit[hub]'` brings it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn, Optional

from mindvit.errors import UserError
from mindvit.hub.fetch import FULL, Limits
from mindvit.runtime import files

NAME = re.compile(r"[\w.-]+/[\w.-]+")
SHA256 = re.compile(r"[0-9a-f]{64}")
INSTALL = "pip install 'huggingface_hub>=0.23'"


def split(address: str) -> tuple[str, Optional[str]]:
    """OWNER/NAME[@REVISION] as repository and revision. UserError for anything else."""
    repository, _, revision = address.partition("@")
    if not NAME.fullmatch(repository):
        raise UserError(f"hf:{address} is no repository on Hugging Face: hf:OWNER/NAME, or hf:OWNER/NAME@REVISION")
    return repository, revision or None


def _library(repository: str) -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        if error.name != "huggingface_hub":
            raise
        raise UserError(
            f"{repository} is a repository on Hugging Face, and huggingface_hub is not installed: {INSTALL}"
        ) from None
    return huggingface_hub


def fetch(
    repository: str,
    file: str,
    revision: Optional[str] = None,
    offline: bool = False,
    is_fixed: bool = False,
    largest: int = Limits.largest,
) -> Path:
    """A file of a repository, in the hub's own cache.

    Args:
        repository: OWNER/NAME.
        file: its name in the repository.
        revision: a branch, tag or commit; None: main.
        offline: take what is in the cache, and ask nobody.
        is_fixed: what is in the cache is good; otherwise it is asked whether there is a newer one.
        largest: bytes; a larger file isn't taken.

    Returns:
        Where it is.

    Raises:
        Missing: the repository has no such file.
        UserError: it can't be had.
    """
    hub = _library(repository)
    where: dict[str, Any] = {"repo_id": repository, "filename": file, "revision": revision}
    try:
        if is_fixed or offline:
            try:
                return Path(hub.hf_hub_download(**where, local_files_only=True))
            except hub.utils.LocalEntryNotFoundError:
                if offline:
                    raise
        return _fetched(hub, where, largest)
    except (*_transport(hub), ValueError, RuntimeError, hub.utils.EntryNotFoundError) as error:
        _raise_for(hub, error, repository, file, offline)


def _transport(hub: Any) -> tuple[type[Exception], ...]:
    """What the hub's library raises of connections, whichever HTTP library it stands on."""
    return (OSError, *hub.utils.HfHubHTTPError.__bases__)


class Missing(UserError):
    """A repository has no file of that name."""


def _fetched(hub: Any, where: dict[str, Any], largest: int) -> Path:
    """Download, and compare with the digest that the hub tells of a large file."""
    try:
        told = hub.get_hf_file_metadata(hub.hf_hub_url(**where))
    except (hub.utils.HfHubHTTPError, hub.utils.EntryNotFoundError):  # an answer
        raise
    except _transport(hub):  # none: what is in the cache, then
        return Path(hub.hf_hub_download(**where, local_files_only=True))
    if told.size is not None and told.size > largest:
        raise UserError(
            f"{where['filename']} of hf:{where['repo_id']} would be {told.size} bytes, and more than {largest} "
            "aren't taken"
        )
    path = Path(hub.hf_hub_download(**where))
    etag = told.etag or ""
    if SHA256.fullmatch(etag) and files.sha256(path) != etag:
        raise UserError(f"{path} is damaged: it isn't the file that the hub has (SHA-256 {etag}); remove it")
    return path


def _raise_for(hub: Any, error: Exception, repository: str, file: str, offline: bool) -> NoReturn:
    """One line for what went wrong."""
    what, utils = f"{file} of hf:{repository}", hub.utils
    if isinstance(error, utils.GatedRepoError):
        raise UserError(f"{what}: its owner gives it to those who ask: accept its terms there, then hf auth login")
    if isinstance(error, utils.RepositoryNotFoundError):
        raise UserError(
            f"there is no repository {repository} on Hugging Face, or it is private (hf auth login): "
            f"https://huggingface.co/{repository}"
        ) from None
    if isinstance(error, utils.RevisionNotFoundError):
        raise UserError(f"{what}: the repository has no such revision") from None
    if isinstance(error, utils.LocalEntryNotFoundError):
        why = "MINDVIT_OFFLINE is set" if offline else "the hub can't be reached (HF_ENDPOINT names a mirror)"
        raise UserError(
            f"{what} isn't in the cache, and {why}: on a machine with a network, mindvit download NAME --to DIR; "
            "then here, MINDVIT_CACHE=DIR"
        ) from None
    if isinstance(error, utils.EntryNotFoundError):
        raise Missing(f"hf:{repository} has no file {file}: https://huggingface.co/{repository}/tree/main") from None
    if getattr(error, "errno", None) in FULL:
        raise UserError(f"{what}: no room in the hub's cache (HF_HOME names another folder)") from None
    raise UserError(
        f"{what} can't be fetched: {(str(error).splitlines() or [type(error).__name__])[0][:200]}"
    ) from None
