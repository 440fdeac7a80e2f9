"""Print a resolved recipe: every key, its value, and the file that it came from.

python config.py --config configs/crossvit/crossvit_9_ascend.yaml
"""

from __future__ import annotations

import functools

from mindvit import errors
from mindvit.cli import config

main = functools.partial(config.main, prog="config.py")

if __name__ == "__main__":
    errors.run(main)
