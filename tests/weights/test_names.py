"""Rename tables, both ways, over every list of names that the oracle has."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import lists, official_name

from mindvit.errors import UserError
from mindvit.models import create_model
from mindvit.weights import load_weights, names

LISTS = lists()
COUNTS = {"official": 39, "timm": 25, "hf": 3, "paddlevit": 28, "mm": 13, "mindcv": 4}
UNUSED = ("num_batches_tracked", ".attn.biases", ".relative_position_index")
TABLES = {"pytorch": "", "hf": "hf_cvt", "mm": "mmdet_mmseg_backbone"}


def arrays(file: str) -> dict[str, np.ndarray]:
    """Different numbers for different tensors, without memory for all of their elements."""
    return {name: np.broadcast_to(np.float32(index), shape) for index, (name, shape) in enumerate(LISTS[file].items())}


def shapes(found: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in found.items() if not name.endswith(UNUSED)}


OFFICIAL = [shapes(arrays(file)) for file in LISTS if file.startswith("official/")]


def test_all_lists_are_here() -> None:
    assert {origin: sum(file.startswith(f"{origin}/") for file in LISTS) for origin in COUNTS} == COUNTS


@pytest.mark.parametrize("file", [file for file in LISTS if not file.startswith("mindcv/")])
def test_every_list_becomes_the_authors_and_comes_back(file: str) -> None:
    there, whose = arrays(file), file.split("/")[0].replace("official", "pytorch")
    origin = names.recognise(there)
    assert origin is not None and origin.name == whose
    found = names.inwards(there, origin)
    ours = {
        name: value
        for name, value in found.arrays.items()
        if origin.name != "mm" or name.startswith(("patch_embed.", "layers."))
    }
    assert shapes(ours) in OFFICIAL
    table = TABLES.get(whose, f"{whose}_{origin.family}")
    for name in there:  # the oracle's own rules agree, name by name
        assert official_name(name, table) in found.arrays
    assert (len(found.transposed) > 0) == origin.linear_transposed == (whose == "paddlevit")
    if origin.name != "mm":
        back = names.outwards(found.arrays, origin).arrays
        assert {name: value.shape for name, value in back.items()} == LISTS[file]
        assert all(float(value.flat[0]) == float(there[name].flat[0]) for name, value in back.items())


@pytest.mark.parametrize("file", [file for file in LISTS if file.startswith("mindcv/")])
def test_mindcvs_networks_are_others(file: str) -> None:
    name = file.split("/")[1]
    with pytest.raises(UserError, match="has MindCV's weights of .*is another one .*mindcv/NAME"):
        load_weights(create_model(name), arrays(file))


def test_queries_keys_and_values_are_thirds() -> None:
    there = {f"cls_attn_blocks.0.attn.{part}.weight": np.full((2, 2), index) for index, part in enumerate("qkv")}
    found = names.inwards(there, names.origin("timm", "xcit"))
    assert found.arrays["cls_attn_blocks.0.attn.qkv.weight"][:, 0].tolist() == [0, 0, 1, 1, 2, 2]
    del there["cls_attn_blocks.0.attn.k.weight"]  # a part that is missing is not made up
    assert list(names.inwards(there, names.origin("timm", "xcit")).arrays) == list(there)


def test_two_tensors_of_one_name() -> None:
    with pytest.raises(UserError, match="two tensors would be called norm.weight"):
        names.inwards({"layernorm.weight": np.zeros(1), "norm.weight": np.zeros(1)}, names.origin("hf", "cvt"))


def test_another_family() -> None:
    with pytest.raises(
        UserError, match="weights of CvT .names of Hugging Face transformers., but the network is crossvit_9$"
    ):
        load_weights(create_model("crossvit_9"), arrays("hf/cvt_13_224"))
    assert names.recognise(["weight"]) is None
    assert names.destinations("xcit") == ["timm", "paddlevit", "pytorch"] and names.destinations("crossformer") == [
        "pytorch"
    ]
