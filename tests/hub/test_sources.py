"""The table of weights by name: every network has a source or a reason, and every source's layout is the network's."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import yaml
from oracle import names

from mindvit.errors import UserError
from mindvit.hub.sources import CROSSFORMER, CVT, DENSE, ELSEWHERE, ORIGINS, SOURCES, XCIT, Source, source_of
from mindvit.models import list_models, model_info
from mindvit.models.registry import _dense
from mindvit.weights import names as tables
from mindvit.weights.load import UNUSED

VARIANTS = yaml.safe_load((Path(__file__).parents[1] / "goldens" / "variants.yaml").read_text("utf-8"))["variants"]
ALL = [(name, source) for name, found in SOURCES.items() for source in found]


def test_every_network_has_a_source_or_a_reason() -> None:
    assert set(list_models()) == set(SOURCES) - set(DENSE)
    assert set(_dense) <= set(DENSE)
    assert set(ELSEWHERE) == set(SOURCES)
    assert all(SOURCES[name] or ELSEWHERE[name] for name in SOURCES)
    assert [name for name in list_models() if not SOURCES[name]] == sorted(CROSSFORMER)
    assert len(ALL) == 11 * 2 + 7 + 42 * 3


def test_every_address_parses() -> None:
    for name, source in ALL:
        if source.repository:
            assert re.fullmatch(r"(timm|microsoft)/[\w.-]+", source.repository), name
            assert source.link == f"https://huggingface.co/{source.repository}"
            continue
        found = urlsplit(source.place)
        assert (found.scheme, found.query, found.fragment) == ("https", "", ""), name
        assert found.hostname in ("github.com", "dl.fbaipublicfiles.com", "download.openmmlab.com"), name
        assert found.path.endswith(f"/{source.file}") and source.link == source.place, name
    for name, pages in ELSEWHERE.items():
        assert all(urlsplit(item.page).scheme == "https" for item in pages if item.page), name
    assert len({(source.place, source.file) for _, source in ALL}) == len(ALL)


def test_origins_forms_and_digests_are_of_the_known_kinds() -> None:
    for name, source in ALL:
        assert source.origin in ORIGINS and source.read_in and source.num_classes == 1000, name
        assert re.fullmatch("|[0-9a-f]{8}|[0-9a-f]{64}", source.sha256), name
        assert source.form == ("safetensors" if source.file.endswith(".safetensors") else "PyTorch"), name
    assert all(item.origin in ORIGINS for found in ELSEWHERE.values() for item in found)
    digests = [source.sha256 for _, source in ALL if source.origin == "mmpretrain"]
    assert len(set(digests)) == 3 * len(XCIT)
    assert sum(len(source.sha256) == 64 for _, source in ALL) == 7


def test_the_default_is_what_the_accuracy_was_measured_on() -> None:
    """The oracle's table, the registry's facts and timm's rows were written apart from this table."""
    for key, facts in VARIANTS.items():
        info = model_info(key)
        found = {source.origin: source for source in SOURCES[info.name]}
        row = info.accuracy_source.partition("timm results-imagenet.csv, ")[2]
        if info.family in ("crossvit", "xcit"):
            assert SOURCES[info.name][0].origin == "pytorch" and found["timm"].repository == f"timm/{row}", key
            assert found["pytorch"].place.endswith(info.source.split()[-1]), key
            assert found["pytorch"].place.endswith(facts["checkpoint"].split("/")[-1]), key
        elif info.family == "cvt":
            assert found["hf"].repository == f"microsoft/{facts['also_called']['huggingface']}", key


def made_up(name: str, source: Source) -> dict[str, np.ndarray]:
    """Arrays of a network's shapes under a source's names, without memory for their elements."""
    if source.origin == "mmpretrain":  # of which the oracle has no list: the authors' under its names
        return tables.outwards(shaped(names("official", name)), tables.origin("mmpretrain", "xcit")).arrays
    if source.origin == "pytorch":
        return shaped(names("official", name))
    return shaped(names(source.origin, re.sub("_distill$|_22k$", "", name)))  # the same network with other weights


def shaped(found: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in found.items()}


def shapes(found: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {
        name: value.shape
        for name, value in found.items()
        if not any(name.endswith(pattern.lstrip("*")) for pattern in UNUSED)
    }


@pytest.mark.parametrize("origin", ["pytorch", "timm", "hf", "mmpretrain"])
def test_every_layout_is_recognised_and_becomes_ours(origin: str) -> None:
    found = [(name, source) for name, source in ALL if source.origin == origin]
    assert found
    for name, source in found:
        theirs = made_up(name, source)
        known = tables.recognise(theirs)
        assert known is not None and (known.name, known.family) == (origin, model_info(name).family), name
        assert shapes(tables.inwards(theirs, known).arrays) == shapes(shaped(names("official", name))), name


def test_the_default_comes_first_and_an_origin_is_taken_by_name() -> None:
    assert source_of("crossvit_9").place.endswith("weights-0.1/crossvit_9_224.pth")
    assert source_of("crossvit_9", "timm").repository == "timm/crossvit_9_240.in1k"
    assert source_of("cvt_21_384_22k").repository == "microsoft/cvt-21-384-22k"
    assert source_of("xcit_nano_12_p8_384_distill", "mmpretrain").sha256 == "09d925ef"


@pytest.mark.parametrize(
    ("name", "origin", "words"),
    [
        ("crossformer_small", None, "Google Drive, whose pages answer browsers only; the file is at https://drive"),
        (
            "crossvit_9",
            "paddlevit",
            "PaddleViT's README links them .*: fetched in a browser, pretrained=FILE takes it; pretrained='pytorch' t",
        ),
        ("cvt_13_224", "pytorch", "a folder on OneDrive, .*pretrained='hf' takes those of Hugging Face transformers$"),
        (
            "xcit_nano_12_p16_224",
            "paddlevit",
            "PaddleViT's README of XCiT links no file: pretrained='pytorch' takes those of the authors; ",
        ),
        ("xcit_nano_12_p16_224", "hf", "no weights of Hugging Face transformers are known: pretrained='pytorch' takes"),
        ("upernet_crossformer_large", None, "the file is at https://drive.google.com/file/d/1I9ph5MeCwl"),
        ("cascade_mask_rcnn_crossformer_small_3x", None, "the authors' README gives figures and links no file$"),
        ("crossvit_10", None, "no published weights of 'crossvit_10' are known; did you mean crossvit_1"),
    ],
)
def test_what_can_t_be_fetched_is_told_with_where_it_is(name: str, origin: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        source_of(name, origin)
    assert "\n" not in str(caught.value)


def test_every_reason_is_one_line() -> None:
    for name in (*CROSSFORMER, *DENSE):
        with pytest.raises(UserError, match=f"^{name} has no weights that can be fetched: the authors' README"):
            source_of(name)
    assert all(source_of(name).origin == "hf" for name in CVT)
