"""What MindSpore's own Ascend plug-in makes of the suite's graphs, with stand-ins for CANN (standin.py).

The numbers in recorded.json are what it made of them last; `python tests/ascend/record.py` writes them anew. Nothing
runs: what CANN would say to types and shapes isn't seen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from standin import build, missing

HERE = Path(__file__).parent
RECORDED: dict[str, dict[str, Any]] = json.loads((HERE / "recorded.json").read_text("ascii"))
# the graph engine refuses them, and they are compiled at O1
YIELDING = [case for case in RECORDED if RECORDED[case]["kernels"] and ":O2" in case]
SELECTED = [case for case in RECORDED if RECORDED[case]["kernels"] and case not in YIELDING]
TRAINED = [case for case in SELECTED if ":train:" in case]
CHECKED = [case for case in RECORDED if RECORDED[case]["checked"]]
REFUSED = [case for case in RECORDED if RECORDED[case]["error"]]
ALL_REDUCES = 8  # that a step may have on eight ranks
AXES = 8  # of a tensor that aclnnPermute takes

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

Outcomes = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module", name="outcomes")
def _outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Case -> what became of it now."""
    variables = {**os.environ, **build(tmp_path_factory.mktemp("cann"))}
    command = [sys.executable, str(HERE / "probe.py"), *RECORDED]
    found = subprocess.run(command, env=variables, capture_output=True, text=True, errors="replace")
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(rows) == len(RECORDED), found.stderr[-2000:]
    return {row["case"]: row for row in rows}


@pytest.mark.parametrize("case", SELECTED)
def test_every_operator_is_selected(outcomes: Outcomes, case: str) -> None:
    assert outcomes[case]["error"] == ""
    assert sum(outcomes[case]["kernels"].values()) > 0


@pytest.mark.parametrize("case", SELECTED)
def test_no_kernel_is_on_the_host(outcomes: Outcomes, case: str) -> None:
    assert outcomes[case]["kernels"]["host"] == 0


@pytest.mark.parametrize("case", SELECTED)
def test_kinds_of_legacy_kernels(outcomes: Outcomes, case: str) -> None:
    assert set(outcomes[case]["legacy"]) <= set(RECORDED[case]["legacy"])


@pytest.mark.parametrize("case", SELECTED)
def test_number_of_kernels(outcomes: Outcomes, case: str) -> None:
    found, most = outcomes[case]["kernels"], RECORDED[case]["kernels"]
    assert found["aclop"] <= most["aclop"]
    assert sum(found.values()) <= sum(most.values())


@pytest.mark.parametrize("case", [case for case in SELECTED if case.endswith(":8")])
def test_all_reduces_are_fused(outcomes: Outcomes, case: str) -> None:
    assert 1 <= outcomes[case]["kernels"]["hccl"] <= ALL_REDUCES


@pytest.mark.parametrize("case", TRAINED)
def test_a_step_has_no_branch(outcomes: Outcomes, case: str) -> None:
    assert outcomes[case]["branches"] == 0


@pytest.mark.parametrize("case", [*SELECTED, *CHECKED])
def test_tensors_have_at_most_eight_axes(outcomes: Outcomes, case: str) -> None:
    assert 4 <= outcomes[case]["axes"] <= AXES


@pytest.mark.parametrize("case", CHECKED)
def test_the_graph_engine_takes_it(outcomes: Outcomes, case: str) -> None:
    assert outcomes[case]["error"] == ""
    assert outcomes[case]["checked"]


@pytest.mark.parametrize("case", YIELDING)
def test_a_refused_graph_is_compiled_at_a_lower_level(outcomes: Outcomes, case: str) -> None:
    assert outcomes[case]["error"] == ""
    assert outcomes[case]["kernels"]["aclnn"] > 0


@pytest.mark.parametrize("case", REFUSED)
def test_the_graph_engine_refuses(outcomes: Outcomes, case: str) -> None:
    assert "GE backend does not support" in outcomes[case]["error"]
