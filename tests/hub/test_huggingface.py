"""Repositories on a hub: huggingface_hub itself asks a server that plays one (HF_ENDPOINT)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from played_server import hub_refusal, play_hub, serving, status

from mindvit.errors import UserError
from mindvit.hub import huggingface
from mindvit.hub.sources import Source, source_of

ROOT = Path(__file__).parents[2]
WEIGHTS = b"safetensors" * 999
# a line of JSON for each question: where the file is, or the error; the same process asks them all, since the library
# takes a second to be imported
ASKS = """
import json, os, sys
from pathlib import Path
from mindvit.errors import UserError
from mindvit.hub import cache, huggingface
from mindvit.hub.sources import Source
for kind, question, environment in json.loads(sys.argv[1]):
    os.environ.update(environment)
    try:
        if kind == "locate":
            root = question.pop("root", None)
            found = cache.locate(Source(**question), root and Path(root))
        else:
            found = huggingface.fetch(**question)
        print(json.dumps(str(found)), flush=True)
    except UserError as error:
        print(json.dumps({type(error).__name__: str(error)}), flush=True)
"""


def asked(endpoint: str, folder: Path, questions: dict[str, tuple]) -> dict[str, Any]:
    """What the questions are answered with, by their names."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "MINDVIT_CACHE": str(folder / "cache"),
        "no_proxy": "127.0.0.1",
    }
    environment.pop("MINDVIT_OFFLINE", None)
    words = [sys.executable, "-c", ASKS, json.dumps(list(questions.values()))]
    ran = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return dict(zip(questions, map(json.loads, ran.stdout.splitlines())))


def by_name(name: str, origin: str, **changes: Any) -> dict[str, Any]:
    return dataclasses.asdict(dataclasses.replace(source_of(name, origin), **changes))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All that this file asks, each question once."""
    folder = tmp_path_factory.mktemp("hub")
    one, published = "timm/crossvit_tiny_240.in1k", "timm/crossvit_9_240.in1k"  # the second has a published digest
    named = by_name("crossvit_tiny", "timm")
    offline = {"MINDVIT_OFFLINE": "1"}
    questions = {
        "first": ("locate", dict(named), {}),
        "again": ("locate", dict(named), {}),
        "elsewhere": ("locate", {**named, "root": str(folder / "usb")}, {}),
        "published": ("locate", by_name("crossvit_9", "timm"), {}),
        "another": ("locate", by_name("crossvit_9", "timm", sha256=hashlib.sha256(WEIGHTS).hexdigest()), {}),
        "missing": ("fetch", {"repository": one, "file": "pytorch_model.bin"}, {}),
        "nobody": ("fetch", {"repository": "owner/nothing", "file": "model.safetensors"}, {}),
        "gated": ("fetch", {"repository": "owner/gated", "file": "model.safetensors"}, {}),
        "revision": ("fetch", {"repository": one, "file": "model.safetensors", "revision": "v2"}, {}),
        "broken": ("fetch", {"repository": "owner/broken", "file": "model.safetensors"}, {}),
        "large": ("fetch", {"repository": one, "file": "model.safetensors", "largest": 1000}, {}),
        "damaged": ("fetch", {"repository": "owner/damaged", "file": "model.safetensors"}, {}),
        "offline": ("fetch", {"repository": "owner/unseen", "file": "model.safetensors", "offline": True}, {}),
        "offline by name": ("locate", by_name("crossvit_small", "timm"), offline),
        "kept": ("locate", dict(named), offline),
    }
    with serving() as server:
        for repository in (one, published):
            play_hub(server, repository, {"model.safetensors": WEIGHTS})
        play_hub(server, "owner/damaged", {"model.safetensors": WEIGHTS})
        whole = server.plays["/owner/damaged/resolve/main/model.safetensors"]
        play_hub(server, "owner/other", {"model.safetensors": WEIGHTS[::-1]})
        swapped = server.plays["/owner/other/resolve/main/model.safetensors"]
        server.plays.update(
            {
                f"/{one}/resolve/main/pytorch_model.bin": hub_refusal(404, "EntryNotFound"),
                f"/{one}/resolve/v2/model.safetensors": hub_refusal(404, "RevisionNotFound"),
                "/owner/nothing/resolve/main/model.safetensors": hub_refusal(401, "RepoNotFound"),
                "/owner/gated/resolve/main/model.safetensors": hub_refusal(403, "GatedRepo"),
                "/owner/broken/resolve/main/model.safetensors": status(418),
                "/owner/damaged/resolve/main/model.safetensors": (
                    lambda handler: (whole if handler.command == "HEAD" else swapped)(handler)
                ),
            }
        )
        found = asked(server.address, folder, questions)
        place = f"/{one}/resolve/main/model.safetensors"
        found["asked"] = [method for method, path, _ in server.requests if path == place]
    unreachable: tuple = ("fetch", {"repository": "owner/unseen", "file": "model.safetensors"}, {})
    return {**found, **asked(server.address, folder, {"unreachable": unreachable}), "folder": folder}


def test_a_file_is_fetched_once_into_the_hub_s_own_cache(answers: dict[str, Any]) -> None:
    path = Path(answers["first"])
    assert path.read_bytes() == WEIGHTS and answers["folder"] / "hf" in path.parents
    assert answers["again"] == answers["kept"] == answers["first"]
    first = answers["asked"].index("GET") + 1
    assert answers["asked"][first:] == ["HEAD"]  # by "large", and by none of the three that ask once more
    record = answers["folder"] / "cache" / "hub" / "timm--crossvit_tiny_240.in1k" / "model.safetensors.sha256"
    assert json.loads(record.read_text())["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()


def test_a_folder_of_ones_own_gets_a_copy(answers: dict[str, Any]) -> None:
    expected = answers["folder"] / "usb" / "hub" / "timm--crossvit_tiny_240.in1k" / "model.safetensors"
    assert Path(answers["elsewhere"]) == expected and expected.read_bytes() == WEIGHTS


def test_published_digests_are_kept_to(answers: dict[str, Any]) -> None:
    assert "but 5b45ceb819816111d69a80dd4df1404ae574df58" in answers["published"]["UserError"]
    assert Path(answers["another"]).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("missing", "hf:timm/crossvit_tiny_240.in1k has no file pytorch_model.bin: https://huggingface.co/timm/cross"),
        ("nobody", "there is no repository owner/nothing on Hugging Face, or it is private (hf auth login)"),
        ("gated", "its owner gives it to those who ask: accept its terms there, then hf auth login"),
        ("revision", "model.safetensors of hf:timm/crossvit_tiny_240.in1k: the repository has no such revision"),
        ("broken", "model.safetensors of hf:owner/broken can't be fetched: "),
        ("large", "would be 10989 bytes, and more than 1000 aren't taken"),
        ("damaged", "is damaged: it isn't the file that the hub has"),
        ("offline", "isn't in the cache, and MINDVIT_OFFLINE is set: on a machine with a network, mindvit download"),
        ("offline by name", "isn't in the cache, and MINDVIT_OFFLINE is set"),
        ("unreachable", "isn't in the cache, and the hub can't be reached (HF_ENDPOINT names a mirror)"),
    ],
)
def test_what_goes_wrong_is_one_line(answers: dict[str, Any], question: str, words: str) -> None:
    ((kind, line),) = answers[question].items()
    assert words in line and "\n" not in line
    assert kind == ("Missing" if question == "missing" else "UserError")


def test_repositories_have_an_owner_and_a_name() -> None:
    assert huggingface.split("owner/net.in1k") == ("owner/net.in1k", None)
    assert huggingface.split("owner/net@v1.0") == ("owner/net", "v1.0")
    for address in ("owner", "owner/net/file", "https://huggingface.co/owner/net", "/net", "owner/a b"):
        with pytest.raises(UserError, match="is no repository on Hugging Face: hf:OWNER/NAME"):
            huggingface.split(address)


def test_without_the_library_a_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.delitem(sys.modules, "huggingface_hub")
    with pytest.raises(UserError, match="owner/net is a repository .*huggingface_hub is not installed: pip install 'h"):
        huggingface.fetch("owner/net", "model.safetensors")
    assert isinstance(source_of("cvt_13_224"), Source)
