"""Measure the accuracy of a checkpoint.

python validate.py -c configs/crossvit/crossvit_9_ascend.yaml --data_dir DIR --ckpt_path FILE
"""

from __future__ import annotations

import functools

from mindvit import errors
from mindvit.cli import validate

main = functools.partial(validate.main, prog="validate.py")

if __name__ == "__main__":
    errors.run(main)
