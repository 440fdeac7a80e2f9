"""Weights that come with the package."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

import mindvit
from mindvit.errors import UserError
from mindvit.hub.resolve import weights_file
from mindvit.recipe.names import configs_folder

PLACE = "shipped:xcit_digits"


def test_a_quick_start_begins_with_them() -> None:
    recipe = yaml.safe_load((configs_folder() / "quickstart/segmentation_scenes.yaml").read_text(encoding="utf-8"))
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


@pytest.mark.parametrize("place", ["shipped:xcit", "shipped:../hub/weights/xcit_digits"])
def test_unknown_names(place: str) -> None:
    with pytest.raises(UserError, match=f"no weights {place} come with mindvit, but {PLACE}"):
        weights_file(place, "xcit_nano_12_p8_224")
