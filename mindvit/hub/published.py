"""What a folder or repository with weights says of its network, in its config.json: ours, or timm's."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Mapping, Optional

from mindvit.errors import UserError
from mindvit.hub.huggingface import Missing
from mindvit.hub.resolve import CONFIG, config_of

OURS = "mindvit"  # the key of what only we read


@dataclass(frozen=True)
class Published:
    """A network by name, and create_model's arguments with which it was trained."""

    model: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def read(place: str) -> Published:
    """What the config.json of a folder or of hf:OWNER/NAME says. UserError if there is none that names a network."""
    try:
        path = config_of(place)
    except Missing:
        path = None
    if path is None:
        raise UserError(
            f"{place} has no {CONFIG} that names its network: if it has weights, name the network and give "
            f"pretrained={place!r}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        ours: Optional[Mapping[str, Any]] = content.get(OURS)
        if ours:
            return Published(str(ours["model"]), dict(ours.get("arguments", {})))
        classes = content.get("num_classes")
        return Published(str(content["architecture"]), {"num_classes": classes} if classes else {})
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path} isn't what mindvit publish or timm writes ({type(error).__name__}: {error})") from None
