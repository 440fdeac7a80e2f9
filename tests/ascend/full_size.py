"""Counts what MindSpore's Ascend plug-in makes of whole networks; docs/ascend.md shows them (scripts/write_docs.py):

    python tests/ascend/full_size.py [--before] [NETWORK ...] [--graphs GRAPH ...]

NETWORK: a model, a dense network's recipe with its folder, or one of probe.py's; none: four whole ones. --before:
without operators chosen for the chip, fused all-reduces and steps without a branch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from standin import build, missing

HERE = Path(__file__).parent
KEPT = HERE.parents[1] / "results" / "ascend.json"
NETWORKS = ("crossvit_9", "cvt_13_224", "crossformer_tiny", "xcit_tiny_12_p16_224")
GRAPHS = ("train:O0:8", "train:O1:8", "eval:O0")


def keep(row: dict[str, Any], file: Path, before: bool) -> None:
    """Add a case to the file, or replace it there."""
    rows = json.loads(file.read_text("ascii")) if file.exists() else {}
    found = {key: row[key] for key in ("kernels", "checked", "branches", "seconds", "memory", "error")}
    rows.setdefault(row["case"], {})["before" if before else "now"] = found
    lines = (f"  {json.dumps(case)}: {json.dumps(rows[case])}" for case in sorted(rows))
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n", "ascii")


def main() -> None:
    """Compile all graphs and keep what became of them."""
    if missing():
        sys.exit(missing())
    parser = argparse.ArgumentParser(description="Count the kernels of whole networks for Ascend.")
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK")
    parser.add_argument("--before", action="store_true", help="without what is chosen for the chip")
    parser.add_argument("--graphs", nargs="+", default=GRAPHS, metavar="GRAPH", help=f"{', '.join(GRAPHS)}")
    parser.add_argument("--out", type=Path, default=KEPT, metavar="FILE", help="JSON to which the counts are added")
    given = parser.parse_args()
    cases = [f"{network}:{graph}" for network in given.networks for graph in given.graphs]
    with tempfile.TemporaryDirectory() as folder:
        variables = {**os.environ, **build(Path(folder)), "STANDIN_BEFORE": "1" if given.before else ""}
        command = [sys.executable, str(HERE / "probe.py"), *cases]
        with subprocess.Popen(
            command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            for text in process.stdout or ():
                row = json.loads(text)
                keep(row, given.out, given.before)
                print(row["case"], row["kernels"], row["branches"], row["seconds"], row["memory"], row["error"][:300])
                sys.stdout.flush()
    sys.exit(process.returncode)


if __name__ == "__main__":
    main()
