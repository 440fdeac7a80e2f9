"""The old name of mindvit.cli.report, for one release: use `mindvit report`."""

from mindvit import errors
from mindvit.cli.report import *  # noqa: F403
from mindvit.cli.report import main

if __name__ == "__main__":
    errors.run(main)
