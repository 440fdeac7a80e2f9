"""Run a notebook from the repository's root and keep what it prints and draws.

python scripts/run_notebook.py docs/notebook.ipynb [OUT.ipynb]: without OUT the notebook itself is replaced. An error in
a cell ends it, exit code 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    args = parser.parse_args()
    if not args.notebook.is_file():
        parser.error(f"{args.notebook}: no such file")
    notebook = nbformat.read(args.notebook, as_version=4)
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
    nbformat.write(notebook, args.out or args.notebook)


if __name__ == "__main__":
    main()
