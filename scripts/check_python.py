"""Say in one line that this Python can't run MindSpore, before pip says it in many (runs on any Python from 3.6 on)."""

import sys

if not (3, 9) <= sys.version_info[:2] <= (3, 12):
    sys.exit(
        f"error: MindSpore has wheels for Python 3.9 to 3.12, this is {sys.version.split()[0]}: install one of those "
        "and run make PYTHON=python3.11 ..."
    )
