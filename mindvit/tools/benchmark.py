"""The old name of mindvit.cli.benchmark, for one release: use `mindvit benchmark`."""

from mindvit import errors
from mindvit.cli.benchmark import *  # noqa: F403
from mindvit.cli.benchmark import main

if __name__ == "__main__":
    errors.run(main)
