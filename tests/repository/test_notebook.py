"""docs/notebook.ipynb runs from end to end: it trains, predicts and draws."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def outputs(notebook: Path) -> list[Any]:
    return [output for cell in json.loads(notebook.read_text("utf-8"))["cells"] for output in cell.get("outputs", ())]


@pytest.mark.big
def test_the_notebook_runs(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/run_notebook.py", "docs/notebook.ipynb", str(tmp_path / "run.ipynb")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    found = outputs(tmp_path / "run.ipynb")
    text = "".join("".join(output.get("text", ())) for output in found)
    assert float(re.findall(r"top-1 ([\d.]+) %", text)[-1]) > 90
    assert len(re.findall(r"^a (\d): \1 ", text, re.MULTILINE)) >= 6
    assert sum("image/png" in output.get("data", ()) for output in found) == 2


def test_what_is_stored_is_a_complete_run() -> None:
    cells = [
        cell
        for cell in json.loads((ROOT / "docs" / "notebook.ipynb").read_text("utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(output["output_type"] == "error" for output in outputs(ROOT / "docs" / "notebook.ipynb"))
