"""Weights that come with the package."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

import mindvit
from mindvit.errors import UserError
from mindvit.hub.resolve import weights_file
from mindvit.recipe.names import configs_folder

PLACE, DETECTORS = "shipped:xcit_digit_patches", "shipped:xcit_digits"


def quick_start(task: str) -> dict[str, Any]:
    return yaml.safe_load((configs_folder() / f"quickstart/{task}_scenes.yaml").read_text(encoding="utf-8"))


def test_quick_starts_begin_with_them() -> None:
    recipe = quick_start("segmentation")
    config = yaml.safe_load(f"{{{recipe['backbone_config']}}}")
    assert recipe["backbone_weights"] == PLACE
    net = mindvit.create_model(
        recipe["model"], backbone=recipe["backbone"], backbone_config=config, backbone_weights=PLACE, num_classes=11
    )
    held = load_file(weights_file(PLACE, recipe["backbone"]))
    found = {parameter.name: parameter.asnumpy() for parameter in net.get_parameters()}
    assert all(np.array_equal(found[f"backbone.{name}"], value.astype(np.float32)) for name, value in held.items())
    assert {name for name in found if name.startswith("backbone.blocks.")} == {
        f"backbone.{name}" for name in held if name.startswith("blocks.")
    }
    assert quick_start("detection")["backbone_weights"] == DETECTORS
    assert set(load_file(weights_file(DETECTORS, recipe["backbone"]))) == set(held)


@pytest.mark.parametrize("place", ["shipped:xcit", "shipped:../hub/weights/xcit_digits"])
def test_unknown_names(place: str) -> None:
    with pytest.raises(UserError, match=f"no weights {place} come with mindvit, but {PLACE} and {DETECTORS}"):
        weights_file(place, "xcit_nano_12_p8_224")
