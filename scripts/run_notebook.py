"""Run a notebook from the repository's root and keep what it prints and draws.

python scripts/run_notebook.py docs/notebook.ipynb [OUT.ipynb]: without OUT the notebook itself is replaced. An error in
a cell ends it, exit code 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent


def main(source: str, out: str) -> None:
    """Run and write."""
    notebook = nbformat.read(source, as_version=4)
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
    nbformat.write(notebook, out)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[-1])
