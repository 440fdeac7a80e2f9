"""Say in one line that this Python can't run MindSpore, before pip says it in many (works on any Python 3)."""

import sys

if not (3, 9) <= sys.version_info[:2] <= (3, 12):
    sys.exit("error: MindSpore has wheels for Python 3.9 to 3.12, this is %d.%d: install one of those and run make PYTHON=python3.11 ..." % sys.version_info[:2])
