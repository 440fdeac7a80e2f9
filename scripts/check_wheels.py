"""Whether every dependency has a wheel for aarch64, the usual host of an NPU, and for each Python that is supported.

Nothing is installed: pip resolves requirements.txt as it would there, with wheels alone.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSIONS = ("3.9", "3.10", "3.11", "3.12")
PLATFORMS = ("manylinux1", "manylinux2014", "manylinux_2_17", "manylinux_2_28")


def lacking(version: str) -> str:
    """What pip says against this Python on aarch64; empty if all is there."""
    platforms = [word for name in PLATFORMS for word in ("--platform", f"{name}_aarch64")]
    abis = [word for name in (f"cp{version.replace('.', '')}", "abi3", "none") for word in ("--abi", name)]
    with tempfile.TemporaryDirectory() as nowhere:
        found = subprocess.run(
            [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--dry-run"]
            + ["--ignore-installed", "--target", nowhere, "--only-binary=:all:", "--python-version", version]
            + [*platforms, *abis, "--implementation", "cp", "-r", str(ROOT / "requirements.txt")],
            capture_output=True,
            text=True,
        )
    return found.stderr.strip() or "pip fails" if found.returncode else ""


def main() -> None:
    """A line for each Python; exit code 1 if one lacks a wheel."""
    said = {version: lacking(version) for version in VERSIONS}
    for version, text in said.items():
        print(f"aarch64, Python {version}: {text or 'every dependency has a wheel'}")
    sys.exit(any(said.values()))


if __name__ == "__main__":
    main()
