"""The Chinese pages say what the English ones say: the same headings, commands and code."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest
from docs_commands import FENCE, commands_of

ROOT = Path(__file__).parents[2]
PAIRS = {
    "README.zh.md": "README.md",
    **{f"docs/zh/{path.name}": f"docs/{path.name}" for path in sorted((ROOT / "docs" / "zh").glob("*.md"))},
}
pages = pytest.mark.parametrize("chinese, english", PAIRS.items(), ids=PAIRS)
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def code(language: str, body: str) -> list[str]:
    """What is done, without comments."""
    if language == "python":
        words = tokenize.generate_tokens(io.StringIO(body).readline)
        return [word.string for word in words if word.type not in (tokenize.COMMENT, tokenize.NL)]
    if language == "yaml":
        return [line.split("#")[0].rstrip() for line in body.splitlines() if line.split("#")[0].strip()]
    return commands_of(body)


def pieces(name: str) -> list[tuple[str, bool, list[str]]]:
    return [
        (fence["language"], bool(fence["mark"]), code(fence["language"], fence["body"]))
        for fence in FENCE.finditer(read(name))
    ]


def levels(name: str) -> list[int]:
    return [len(mark) for mark in re.findall(r"^(#+) ", FENCE.sub("", read(name)), re.MULTILINE)]


def test_the_pages_that_people_begin_with_are_there() -> None:
    assert {
        "README.zh.md",
        *(f"docs/zh/{name}.md" for name in ("index", "own_data", "imagenet", "ascend", "migrate")),
    } <= {*PAIRS}


@pages
def test_commands_and_code_are_the_same(chinese: str, english: str) -> None:
    assert pieces(chinese) == pieces(english)


@pages
def test_headings_have_the_same_levels(chinese: str, english: str) -> None:
    assert levels(chinese) == levels(english)


@pages
def test_tables_of_the_same_columns(chinese: str, english: str) -> None:
    """As many tables that are written by hand as in English, or fewer; each has the columns of one there."""

    def columns(name: str) -> set[int]:
        return {line.count("|") for line in read(name).splitlines() if re.fullmatch(r"\|[-| ]+\|", line)}

    assert columns(chinese) <= columns(english)


@pages
def test_links_lead_to_files(chinese: str, english: str) -> None:
    folder = (ROOT / chinese).parent
    missing = [link for link in LINK.findall(read(chinese)) if "://" not in link and not (folder / link).exists()]
    assert not missing
