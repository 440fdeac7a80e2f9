"""Train a network as a recipe says.

python train.py --config configs/crossvit/crossvit_9_ascend.yaml --data_dir DIR --distribute False
msrun --bind_core=True --worker_num 8 python train.py --config configs/crossvit/crossvit_9_ascend.yaml --data_dir DIR
"""

from __future__ import annotations

import functools

from mindvit import errors
from mindvit.cli import train

main = functools.partial(train.main, prog="train.py")

if __name__ == "__main__":
    errors.run(main)
