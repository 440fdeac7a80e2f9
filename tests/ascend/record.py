"""Writes recorded.json: what MindSpore's Ascend plug-in makes of the cases now (test_graphs_for_ascend.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from standin import build, missing

HERE = Path(__file__).parent
FAMILIES = ("crossvit", "cvt", "crossformer", "xcit")
CASES = (
    *(f"{family}:train:O0:8" for family in FAMILIES),
    *(f"{family}:eval:O0" for family in FAMILIES),
    "crossvit:train:O1:8",
    "cvt:train:O2",
    "crossformer:train:O2",
    *(f"{family}:eval:O2" for family in FAMILIES),
    "crossvit:train:O2:1:2",
    "xcit:train:O2:8:2",
    "fpn:train:O0:8",
    "fpn:eval:O0",
    "upernet:train:O2",
    "upernet:eval:O2",
    "retinanet:train:O0:8",
    "retinanet:eval:O0",
    "maskrcnn:train:O0:8",
    "cascade:train:O2",
    "none:while:O2",
    "none:parameter:O2",
    "none:yielding:O2",
)
KEPT = ("kernels", "legacy", "checked", "branches", "error")


def main() -> None:
    """Compile all cases and write what became of them."""
    if missing():
        sys.exit(missing())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(HERE / "probe.py"), *CASES]
        variables = {**os.environ, **build(Path(folder))}
        with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                row = json.loads(line)
                row["error"] = row["error"].split(",")[0]  # without the call stack
                rows.append(row)
                print(
                    row["case"],
                    row["kernels"],
                    row["axes"],
                    row["branches"],
                    f"{row['seconds']} s",
                    row["error"],
                    flush=True,
                )
    if len(rows) < len(CASES):
        sys.exit(f"probe.py ended with {process.returncode} after {len(rows)} of {len(CASES)} cases")
    lines = (f'  "{row["case"]}": {json.dumps({key: row[key] for key in KEPT})}' for row in rows)
    (HERE / "recorded.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", "ascii")


if __name__ == "__main__":
    main()
