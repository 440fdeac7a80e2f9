"""Whether each requirements file can be installed alone, and after the others, with mindvit working afterwards. Needs
the network.

python scripts/check_requirements.py: run by the Python of an environment that has requirements.txt; it installs the
optional files there too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Sequence

ROOT = Path(__file__).parent.parent
OPTIONAL = tuple(
    f"requirements-{name}.txt" for name in ("report", "onnx", "hub", "coco", "serve")
)  # in the order of the pages
EXTRAS = ".[report,onnx,hub,coco,serve]"
COMMANDS = (
    "train.py --help",
    "validate.py --help",
    "-m mindvit.cli.predict --help",
    "-m mindvit.cli.report --help",
    "-m mindvit.cli.export --help",
)
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet", "--no-input", "install")


def checked(python: str, *arguments: str) -> str:
    """Standard output of a Python; SystemExit with the last thing it said if it fails."""
    ran = subprocess.run([python, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        said = (ran.stderr or ran.stdout).strip().splitlines() or ["no word"]
        sys.exit(f"error: {' '.join(arguments)} ended with {ran.returncode}: {said[-1]}")
    return ran.stdout


def planned(python: str, *arguments: str) -> dict[str, str]:
    """What pip would install into the environment of that Python: version by name."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        checked(python, *PIP, "--dry-run", "--report", report.name, *arguments)
        found = json.loads(Path(report.name).read_text(encoding="utf-8"))
    return {item["metadata"]["name"].lower(): item["metadata"]["version"] for item in found["install"]}


def refuse_numpy_2(what: str, plan: dict[str, str]) -> None:
    """SystemExit if a plan brings the NumPy that MindSpore can't be imported with."""
    version = plan.get("numpy", "1")
    if int(version.split(".")[0]) >= 2:
        sys.exit(f"error: {what} would install numpy {version}, and MindSpore needs one below 2: {plan}")


def works(python: str, commands: Sequence[str] = COMMANDS) -> None:
    """SystemExit unless every command starts, and the packages are compatible with one another."""
    checked(python, "-m", "pip", "check")
    for command in commands:
        checked(python, *command.split())


def main() -> None:
    """Check all; SystemExit with one line for the first that fails."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        alone = str(Path(folder) / "bin" / "python")
        for name in OPTIONAL:
            refuse_numpy_2(f"{name} alone", planned(alone, "-r", name))
    refuse_numpy_2(EXTRAS, planned(sys.executable, EXTRAS))
    for name in OPTIONAL:
        checked(sys.executable, *PIP, "-r", name)
        works(sys.executable)
        print(f"{name}: installed, and mindvit works")


if __name__ == "__main__":
    main()
