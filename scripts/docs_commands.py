"""The commands and pieces of Python in README and docs, and what the tests do with each.

python scripts/docs_commands.py prints them; tests/repository/test_docs.py does what the list says.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIST = "commands.md"  # the page that holds the list itself
NPU = "<!-- needs: npu -->"
FENCE = re.compile(
    r"^(?P<mark><!-- needs: npu -->\n)?```(?P<language>\w*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE
)
INDENTED = re.compile(r"^ {4,}(?:\$ )?(?:python|make|msrun|pip) ", re.MULTILINE)

RUN = "run, with a small network"
PARSED = "options checked"
OPTIONS = "options checked, recipe resolved"
DRY = "options checked, recipe resolved; `-m big`: a dry run, cut down"
BIG = "`-m big`: run, with a small network"
PYTHON = "run"
RECIPE = "keys and values checked"
# What a command of this beginning is checked by: the first that fits.
RULES = (
    (r"make quickstart$", "`.ci/run`"),
    (r"make test$", "`.ci/run`"),
    (
        r"make (docs|site|notebook|goldens|test-fast|test-interop|test-aarch64|benchmark)$",
        "the target is in the Makefile",
    ),
    (r"pip install -r ", "`.ci/run`"),
    (r"pip install (--editable )?\.$", "`.ci/run`"),
    (r"source \.venv/bin/activate$", "`make quickstart` makes it"),
    (r"python config\.py ", "run"),
    (r"python -m mindvit\.cli\.census ", BIG),
    (r"python -m mindvit\.cli\.benchmark ", f"{OPTIONS}; measuring: tests/benchmark/test_benchmark.py"),
    (r"python benchmarks/compare\.py ", f"{PARSED}; comparing: tests/benchmark/test_compare.py"),
    (r"python validate\.py .*--pretrained", "tests/weights/test_named.py::test_validation_measures_them"),
    (r"python train\.py .*segmentation", f"{OPTIONS}; runs: tests/engine/test_segmentation_runs.py"),
    (r"python train\.py .*detection", f"{OPTIONS}; runs: tests/engine/test_detection_runs.py"),
    (r"(python validate\.py|mindvit predict) .*segmentation", "tests/engine/test_segmentation_runs.py"),
    (r"python (validate\.py|-m mindvit\.cli\.\w+) ", RUN),
    (r"mindvit census ", BIG),
    (r"mindvit benchmark ", f"{OPTIONS}; measuring: tests/benchmark/test_benchmark.py"),
    (r"mindvit prepare (cifar10|cifar100|flowers102|food101|pets) ", "tests/data/test_official.py"),
    (r"mindvit (train|inspect-data) FOLDER$", "tests/cli/test_train_folder.py"),
    (r"mindvit train ", DRY),
    (
        r"mindvit (--help|--version|completion|config|inspect-data|validate|predict|attention|report|convert|export|"
        r"prepare)\b",
        RUN,
    ),
    (
        r"env (MS_SIMULATION_LEVEL=1 |MINDVIT_CHIP=\S+ msrun --sim_level 1 )",
        f"{OPTIONS}; a simulation needs CANN: what it is told: tests/runtime/test_ascend_device.py",
    ),
    (r"mindvit download ", "tests/cli/test_download.py::test_a_pattern_s_files_are_brought_to_a_folder"),
    (r"mindvit publish ", "tests/inference/test_publish.py::test_the_folder_holds_what_a_hub_wants"),
    (r"mindvit losses ", "tests/cli/test_losses.py"),
    (r"mindvit serve ", "tests/serve/test_serve.py::test_it_answers_over_a_socket_until_it_is_stopped"),
    (r"curl --data-binary ", "tests/serve/test_serve.py::test_answers_are_those_of_predict"),
    (r"mindvit doctor$", "tests/cli/test_cli.py::test_the_doctor_finds_this_machine"),
    (r"python train\.py ", DRY),
    (
        r"msrun .*--node_rank",
        f"{OPTIONS}; two nodes on one machine: tests/engine/test_ranks.py::test_two_nodes_on_one_machine",
    ),
    (r"msrun ", f"{OPTIONS}; two processes: tests/engine/test_trainer.py::test_two_workers_take_the_same_steps"),
)


@dataclass(frozen=True)
class Command:
    """One command, or one piece of Python or YAML, of a page; npu: it says that it needs one."""

    page: str
    language: str
    text: str
    npu: bool = False

    @property
    def how(self) -> str:
        """What checks it; ValueError if nothing does."""
        if self.language in ("python", "yaml"):
            return PYTHON if self.language == "python" else RECIPE
        for pattern, how in RULES:
            if re.match(pattern, self.text):
                return OPTIONS if self.npu and how in (RUN, DRY) else how
        raise ValueError(
            f"{self.page}: nothing checks {self.text!r}: add a rule to scripts/docs_commands.py, or take the "
            "command out"
        )


def commands_of(body: str) -> list[str]:
    """The commands of a fence: continued lines joined, comments left out."""
    lines = body.replace("\\\n", " ").splitlines()
    words = (shlex.split(line.strip().removeprefix("$ "), comments=True) for line in lines)
    return [shlex.join(line) for line in words if line]


def pages() -> list[Path]:
    """README and the pages of the site, in English: the others have the same commands
    (tests/repository/test_translations.py).
    """
    found = (path for path in (ROOT / "docs").rglob("*.md") if path.name != LIST and path.parent.name != "zh")
    return [ROOT / "README.md", *sorted(found)]


def commands() -> list[Command]:
    """All, in the order of the pages; ValueError for a command in no fence, or in one without a language."""
    found = []
    for path in pages():
        text = path.read_text(encoding="utf-8")
        for fence in FENCE.finditer(text):
            language, body, npu = fence["language"], fence["body"], bool(fence["mark"])
            if language in ("bash", "console", "sh"):
                found += [Command(path.name, "bash", line, npu) for line in commands_of(body)]
            elif language in ("python", "yaml"):
                found.append(Command(path.name, language, body, npu))
            else:
                raise ValueError(
                    f"{path.name}: a fence of language {language!r}: say bash, python or yaml, or indent what is "
                    "no command"
                )
        if INDENTED.search(FENCE.sub("", text)):
            raise ValueError(f"{path.name}: a command that is only indented: put it between fences")
    return found


def listing() -> str:
    """All commands and what is done with them, page by page, in Markdown."""
    lines: list[str] = []
    found = commands()
    for page in dict.fromkeys(item.page for item in found):
        lines += [f"## {page}", ""]
        for item in found:
            if item.page == page:
                shown = (
                    item.text
                    if item.language == "bash"
                    else f"{item.language}: {item.text.strip().splitlines()[0]} ..."
                )
                lines.append(f"- `{shown}`<br>{'needs NPUs; ' if item.npu else ''}{item.how}")
        lines.append("")
    return "\n".join(lines).rstrip()


if __name__ == "__main__":
    print(listing())
