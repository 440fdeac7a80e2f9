"""The door to mindcv, both ways: our networks in mindcv.create_model, and mindcv's in
mindvit.create_model("mindcv/NAME").

Neither mindcv nor MindSpore is imported here before somebody asks for a network, so that `python train.py --help` stays
instant.
"""

from __future__ import annotations

import importlib
from typing import Any, Callable

from mindvit.errors import UserError, nearest

THEIRS = "mindcv/"  # before a name in mindvit.create_model: mindcv's network
OURS = "mindvit_"  # before a name in mindcv.create_model: ours, although mindcv may have one that is called the same


def register_with_mindcv() -> None:
    """Register our networks with mindcv under mindvit_NAME, and under NAME where mindcv has none of its own.

    `import mindvit` does so by itself where mindcv has been imported before. UserError if mindcv isn't installed.
    """
    try:
        registry = importlib.import_module("mindcv.models.registry")
    except ModuleNotFoundError as error:
        if error.name not in ("mindcv", "mindcv.models"):  # something that mindcv needs
            raise
        raise UserError("mindcv is not installed: pip install mindcv") from None
    from mindvit.models import list_models

    for name in list_models():
        for known_as in (OURS + name, name):
            if not registry.is_model(known_as):
                registry.register_model(_entry_point(known_as, name))


def _entry_point(known_as: str, name: str) -> Callable[..., Any]:
    def build(pretrained: bool = False, num_classes: int = 1000, in_channels: int = 3, **others: Any) -> Any:
        from mindvit.models import create_model

        return create_model(name, num_classes, in_channels, pretrained=pretrained, **others)

    build.__name__ = build.__qualname__ = known_as  # mindcv takes the name from here
    build.__doc__ = f"mindvit's {name}."
    return build


def check_name(name: str) -> str:
    """NAME of "mindcv/NAME"; UserError if mindcv isn't installed or has no such network."""
    try:
        registry = importlib.import_module("mindcv.models.registry")
    except ModuleNotFoundError as error:
        if error.name not in ("mindcv", "mindcv.models"):  # something that mindcv needs
            raise
        raise UserError(
            f"{name} is a network of mindcv, which is not installed: pip install mindcv (our own networks: "
            "mindvit.list_models())"
        ) from None
    theirs = [item for item in registry.list_models() if registry.model_entrypoint(item).__module__ != __name__]
    wanted = name[len(THEIRS) :]
    if wanted not in theirs:
        raise UserError(
            f"{name}: mindcv has no network {wanted!r}{nearest(wanted, theirs)} (its networks: mindcv.list_models())"
        )
    return wanted


def create(name: str, pretrained: Any = None, **options: Any) -> Any:
    """mindcv's network "mindcv/NAME".

    Args:
        name: with mindcv.THEIRS before mindcv's own name.
        pretrained: True: mindcv's published weights; a file: those in it; None: fresh ones.
        options: of mindcv.create_model, None meaning its default (and so does features_only=False).

    Raises:
        UserError: one it hasn't; an argument that this network hasn't.
    """
    wanted = check_name(name)
    options["features_only"] = options.get("features_only") or None
    if pretrained:
        options.update({"pretrained": True} if pretrained is True else {"checkpoint_path": str(pretrained)})
    try:
        return importlib.import_module("mindcv").create_model(wanted, **options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise UserError(f"{name}: {error}") from None
